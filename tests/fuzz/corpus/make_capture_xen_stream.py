#!/usr/bin/env python3
"""Write the seed inputs of fuzz_capture_xen_stream into capture_xen_stream/.

    make_capture_xen_stream.py           write them
    make_capture_xen_stream.py DIR       and let Xen's own verifier check them:
                                         DIR holds its python package "xen"
                                         (in Debian's xen-utils-4.17:
                                         usr/lib/xen-4.17/lib/python)

Written from Xen's specifications, apart from our C code.
"""
import io
import os
import struct
import sys

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "capture_xen_stream")
XTAB, XALLOC, BROKEN = 0xF, 0xE, 0xD
PV, HVM = 1, 2
CONFIG = b'{"c_info": {"type": "hvm", "name": "seed"}}'


def record(kind, body=b""):
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def pages(*entries):
    """entries: (pfn, type, fill or None)"""
    body = struct.pack("<II", len(entries), 0)
    body += b"".join(struct.pack("<Q", t << 60 | p) for p, t, _ in entries)
    return record(1, body + b"".join(bytes([f]) * 4096
                                     for _, _, f in entries if f is not None))


def headers(domain, version=3):
    return (struct.pack(">QIIHHI", 2**64 - 1, 0x58454E46, version, 0, 0, 0) +
            struct.pack("<IHHII", domain, 12, 0, 4, 17))


def policies():
    return (record(0x11, struct.pack("<6I", 1, 0xFFFFFFFF, 2, 3, 4, 5)) +
            record(0x12, struct.pack("<IIQ", 0xCE, 0, 1 << 31)))


def p2m(end, *frames):
    return record(3, struct.pack("<II", 0, end) +
                  struct.pack("<%dQ" % len(frames), *frames))


TSC = record(8, struct.pack("<IIQII", 0, 2400000, 77, 1, 0))
END, CHECKPOINT, STATIC_END = record(0), record(14), record(16)


def hvm_tail():
    """As libxc writes it: the context before the parameters."""
    context = struct.pack("<HHI", 1, 0, 8) + b"contextt" + struct.pack(
        "<HHI", 0, 0, 0)
    params = struct.pack("<II", 2, 0) + struct.pack(
        "<4Q", 1, 0xFEFFC, 17, 0xFEFFF)
    return TSC + record(9, context) + record(10, params)


def vcpu(number, basic):
    head = struct.pack("<II", number, 0)
    return (record(4, head + b"B" * basic) + record(5, head + b"E" * 128) +
            record(6, head + b"X" * 27) +
            record(12, head + struct.pack("<IIQ", 0x10, 0, 5)))


def pv_tail(basic):
    return TSC + record(7, b"S" * 4096) + vcpu(0, basic)


def hvm(end=END):
    return (headers(HVM) + policies() + STATIC_END +
            pages((1, 0, 65), (2, XTAB, None), (3, 0, 0)) +
            pages((1, 0, 66), (9, XALLOC, None), (10, BROKEN, None),
                  (0xFF000, XTAB, None)) + hvm_tail() + end)


def pv(version=3):
    static = record(2, bytes((8, 4)) + bytes(6))
    if version == 3:
        static += policies() + STATIC_END
    return (headers(PV, version) + static + p2m(600, 16, 17) +
            pages((16, 0, 112), (1, 1, 49), (2, 0xC, 52)) + pv_tail(5168) +
            END)


def pv_32():
    return (headers(PV) + record(2, bytes((4, 3)) + bytes(6)) + STATIC_END +
            p2m(40, 16) + pages((16, 0, 112)) + pv_tail(2800) + END)


def emulator(xenstore):
    upstream = struct.pack("<II", 2, 0)
    out = b""
    if xenstore:
        out += record(2, upstream + b"physmap/f0000000/size\x000x800000\0"
                      b"physmap/f0000000/name\0vga.vram\0")
    return out + record(3, upstream + b"QEVM\0\0\0\3" + b"state" * 5)


def libxl(*inner):
    return (struct.pack(">QII", 0x4C6962786C466D74, 2, 0) + record(1) +
            b"".join(inner) + END)


def xl(inner):
    config = struct.pack("<I", len(CONFIG) + 1) + CONFIG + b"\0"
    return (b"Xen saved domain, xl format\n \0 \r" + struct.pack(
        "<IIII", 0x01020304, 3, 0, len(config)) + config + inner)


# Name: bytes, and what Xen's verifier wrongly says of them, if it does.
PYTHON_3 = "Data not NUL terminated"  # it compares an int with a string
OPTIONAL = "Unrecognised record type"  # it knows no optional records
SEEDS = {
    "libxc-hvm": (hvm(), None),
    "libxc-checkpoint": (hvm(CHECKPOINT), "stream ends"),
    "libxc-optional": (headers(HVM) + STATIC_END + record(0x80000077, b"?") +
                       pages((1, 0, 65)) + hvm_tail() + END, OPTIONAL),
    "libxc-pv": (pv(), None),
    "libxc-pv-32": (pv_32(), None),
    "libxc-pv-version-2": (pv(2), None),
    "libxl-pv": (libxl(pv()), None),
    "libxl-hvm": (libxl(hvm(), emulator(False)), None),
    "libxl-hvm-xenstore": (libxl(hvm(), emulator(True)), PYTHON_3),
    "xl-hvm": (xl(libxl(hvm(), emulator(False))), None),
    "xl-pv": (xl(libxl(pv_32())), None),
}


def verify(name, data, folder):
    """Returns what Xen's verifier says against it, or None."""
    sys.path.insert(0, folder)
    from xen.migration.libxc import VerifyLibxc
    from xen.migration.libxl import VerifyLibxl
    stream = io.BytesIO(data)
    if name.startswith("xl"):
        stream.seek(44)
        stream.seek(48 + struct.unpack("<I", stream.read(4))[0])

    def read(size):
        got = stream.read(size)
        if len(got) != size:
            raise IOError("stream ends")
        return got

    kind = VerifyLibxc if name.startswith("libxc") else VerifyLibxl
    try:
        kind(lambda text: None, lambda size: read(size)).verify()
    except Exception as e:  # it raises all kinds
        return str(e) or repr(e)
    return "bytes are left" if stream.read(1) else None


def main():
    os.makedirs(HERE, exist_ok=True)
    failed = False
    for name, (data, known) in SEEDS.items():
        with open(os.path.join(HERE, name + ".bin"), "wb") as f:
            f.write(data)
        if len(sys.argv) > 1:
            said = verify(name, data, sys.argv[1])
            right = known in said if said and known else said == known
            failed |= not right
            print("%-22s %6d bytes: %s%s" % (
                name, len(data), said or "accepted",
                "" if right else "   UNEXPECTED"))
    return failed


if __name__ == "__main__":
    sys.exit(main())
