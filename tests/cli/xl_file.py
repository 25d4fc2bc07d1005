#!/usr/bin/env python3
"""Files of `xl save`, for tests: made, spoilt, and told apart.

    xl_file.py make FILE TYPE [NAME [CHANGED]]   as libxc writes a live save
    xl_file.py bad FOLDER                        hostile ones, and refused.txt
    xl_file.py dump FILE                         what is in it, as lines
    xl_file.py objects TYPES MEMORY              the lines of the pages, from
                                                 a snapshot's two objects

Two files with the same dump are the same domain. Written from Xen's
specifications, apart from our C code.
"""

import hashlib
import json
import os
import random
import struct
import sys

MAGIC = b"Xen saved domain, xl format\n \0 \r"
PAGE = 4096
XTAB, XALLOC, BROKEN = 0xF, 0xE, 0xD
END, PAGE_DATA, PV_INFO, P2M = 0, 1, 2, 3
BASIC, EXTENDED, XSAVE, SHARED, TSC, CONTEXT, PARAMS, MSRS = (
    4, 5, 6, 7, 8, 9, 10, 12)
STATIC_END, CPUID, MSR = 16, 17, 18


def record(kind, body=b""):
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def page_data(entries):
    """entries: (pfn, type, bytes or None)"""
    body = struct.pack("<II", len(entries), 0)
    body += b"".join(struct.pack("<Q", t << 60 | p) for p, t, _ in entries)
    return record(PAGE_DATA, body + b"".join(d for _, _, d in entries if d))


def config(kind, name):
    return {
        "c_info": {"type": kind, "name": name, "domid": 4,
                   "uuid": "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0ff"},
        "b_info": {"max_vcpus": 1, "avail_vcpus": [0], "max_memkb": 8192,
                   "type." + kind: {}},
        "disks": [{"pdev_path": "/dev/vg/" + kind, "vdev": "xvda",
                   "backend": "phy", "format": "raw", "readwrite": 1}],
        "nics": [{"devid": 0, "mac": "00:16:3e:00:00:01",
                  "bridge": "xenbr0"}],
    }


def head(kind):
    out = record(PV_INFO, bytes((8, 4)) + bytes(6)) if kind == "pv" else b""
    out += record(CPUID, struct.pack("<6I", 1, 0xFFFFFFFF, 2, 3, 4, 5))
    out += record(MSR, struct.pack("<IIQ", 0xCE, 0, 1 << 31))
    out += record(STATIC_END)
    if kind == "pv":
        out += record(P2M, struct.pack("<II4Q", 0, 2047, 16, 17, 18, 19))
    return out


def memory(kind, changed):
    """Rounds of a live save: later ones win."""
    r = random.Random(7)
    pages = {}
    for pfn in range(2048):
        pages[pfn] = (0, bytes(PAGE) if pfn % 3 else r.randbytes(PAGE))
    for pfn in (600, 601, 1999):
        pages[pfn] = (XTAB, None)
    for i in range(changed):
        pages[300 + 9 * i] = (0, random.Random(i).randbytes(PAGE))
    if kind == "pv":
        for pfn, t in ((30, 1), (33, 9), (36, 2), (39, 0xC)):
            pages[pfn] = (t, pages[pfn][1])
    rounds = [{p: (0, b"\x99" * PAGE) for p in range(0, 2048, 2)}, pages]
    if kind != "pv":  # the special pages below 4 GiB
        rounds.append({0xFEFFE: (0, b"ring" * 1024), 0xFEFFF: (0, bytes(PAGE))})
        rounds.append({p: (XTAB, None) for p in range(0x900, 0x1200)})
    out = b""
    for one in rounds:
        pfns = sorted(one)
        for at in range(0, len(pfns), 1000):
            out += page_data([(p, *one[p]) for p in pfns[at:at + 1000]])
    return out


def tail(kind, changed):
    tsc = record(TSC, struct.pack("<IIQII", 0, 2400000, changed, 1, 0))
    if kind != "pv":
        context = struct.pack("<HHI", 1, 0, 16) + b"Z" * 16 + bytes(8)
        params = struct.pack("<IIQQ", 1, 0, 17, 0xFEFFF)
        return tsc + record(CONTEXT, context) + record(PARAMS, params)
    vcpu = bytes(8)
    return (tsc + record(SHARED, b"s" * PAGE) +
            record(BASIC, vcpu + b"b" * 5168) +
            record(EXTENDED, vcpu + b"e" * 128) +
            record(XSAVE, vcpu + b"x" * 832) +
            record(MSRS, vcpu + struct.pack("<IIQ", 0x10, 0, 5)))


def xl_head(text):
    text = struct.pack("<I", len(text)) + text
    return MAGIC + struct.pack("<IIII", 0x01020304, 3, 0, len(text)) + text


def libxc(kind, parts):
    return (struct.pack(">QIIHHI", 2**64 - 1, 0x58454E46, 3, 0, 0, 0) +
            struct.pack("<IHHII", 1 if kind == "pv" else 2, 12, 0, 4, 17) +
            parts)


def libxl(kind, stream):
    emulator = b""
    if kind == "hvm":
        upstream = struct.pack("<II", 2, 0)
        emulator = record(2, upstream) + record(3, upstream + b"QEVM" * 901)
    return (struct.pack(">QII", 0x4C6962786C466D74, 2, 0) + record(1) +
            stream + emulator + record(END))


def make(kind, name, changed=0, text=None, head_=None, memory_=None,
         tail_=None, end=record(END), rest=b""):
    def default(value, otherwise):
        return otherwise if value is None else value

    text = default(text, json.dumps(config(kind, name)).encode() + b"\0")
    parts = (default(head_, head(kind)) +
             default(memory_, memory(kind, changed)) +
             default(tail_, tail(kind, changed)) + end)
    return xl_head(text) + libxl(kind, libxc(kind, parts)) + rest


def bad(folder):
    """Each with a word that the refusal must have ('': any)."""
    kind, whole = "pvh", make("pvh", "web")
    nameless = config(kind, "x")
    del nameless["c_info"]["name"]
    typeless = config(kind, "x")
    del typeless["c_info"]["type"], typeless["b_info"]["type.pvh"]
    numbered = config(kind, "x")
    numbered["c_info"]["name"] = 5
    page = page_data([(0, 0, bytes(PAGE))])
    huge = bytearray(page)
    huge[4:8] = struct.pack("<I", 0xFFFFFFF0)
    many = bytearray(page)
    many[8:12] = struct.pack("<I", 0x10000000)
    context = record(CONTEXT, bytes(24))
    cases = {
        "no-json": (make(kind, "x", text=b"{nonsense}\0"), "configuration"),
        "json-list": (make(kind, "x", text=b"[1]\0"), ""),
        "no-name": (make(kind, "x", text=json.dumps(nameless).encode() +
                         b"\0"), "name"),
        "name-number": (make(kind, "x", text=json.dumps(numbered).encode() +
                             b"\0"), "name"),
        "no-type": (make(kind, "x", text=json.dumps(typeless).encode() +
                         b"\0"), ""),
        "no-nul": (make(kind, "x", text=b"{}"), ""),
        "empty-config": (make(kind, "x", text=b""), ""),
        "huge-config": (MAGIC + struct.pack("<IIIII", 0x01020304, 3, 0,
                                            0xFFFFFFFF, 0xFFFFFFFB), ""),
        "byte-order": (whole[:32] + whole[35:31:-1] + whole[36:], ""),
        "legacy": (whole[:36] + struct.pack("<I", 1) + whole[40:], ""),
        "type-5": (make(kind, "x", memory_=page_data([(0, 5, bytes(PAGE))])),
                   "at byte"),
        "reserved-bits": (make(kind, "x", memory_=page_data(
            [(1 << 53, 0, bytes(PAGE))])), "at byte"),
        "far-page": (make(kind, "x", memory_=page_data(
            [(1 << 40, 0, bytes(PAGE))])), ""),
        "no-entries": (make(kind, "x", memory_=page_data([])), ""),
        "huge-record": (make(kind, "x", memory_=bytes(huge)), ""),
        "many-entries": (make(kind, "x", memory_=bytes(many)), ""),
        "unknown-record": (make(kind, "x", memory_=record(0x77)), ""),
        "no-static-end": (make(kind, "x", head_=head(kind)[:-8]), ""),
        "no-tail": (make(kind, "x", tail_=b""), ""),
        "no-context": (make(kind, "x", tail_=tail(kind, 0)[:32]), ""),
        "no-params": (make(kind, "x", tail_=context), ""),
        "no-end": (make(kind, "x", end=b""), ""),
        "no-libxl-end": (whole[:-8], ""),
        "more": (make(kind, "x", rest=b"more"), ""),
        "emulator-of-pvh": (whole[:-8] + record(3, bytes(16)) + record(END),
                            ""),
        "hvm-without-model": (xl_head(json.dumps(config("hvm", "x")).encode() +
                                      b"\0") +
                              libxl(kind, libxc(kind, head(kind) +
                                                memory(kind, 0) +
                                                tail(kind, 0) + record(END))),
                              "device model"),
        "pv-config": (make(kind, "x", text=json.dumps(
            config("pv", "x")).encode() + b"\0"), "HVM domain"),
        "magic-only": (MAGIC, ""),
    }
    for at in range(40, len(whole), len(whole) // 17):
        cases["cut-%d" % at] = (whole[:at], "")
    os.mkdir(folder)
    with open(os.path.join(folder, "refused.txt"), "w") as names:
        for name, (data, word) in cases.items():
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)
            names.write("%s\t%s\n" % (name, word))


# ---- reading ---------------------------------------------------------------


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        part = self.data[self.at:self.at + size]
        assert len(part) == size, "cut at %d" % self.at
        self.at += size
        return part

    def unpack(self, form):
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def record(self):
        kind, size = self.unpack("<II")
        body = self.take(size)
        assert not any(self.take(-size % 8)), "padding"
        return kind, body


def read_pages(body, pages):
    count, zero = struct.unpack_from("<II", body)
    entries = struct.unpack_from("<%dQ" % count, body, 8)
    at = 8 + 8 * count
    assert count and not zero
    for entry in entries:
        kind, pfn = entry >> 60, entry & (1 << 52) - 1
        pages.pop(pfn, None)
        if kind in (XTAB, BROKEN):
            continue
        if kind == XALLOC:
            pages[pfn] = (kind, b"")
            continue
        pages[pfn] = (kind, body[at:at + PAGE])
        at += PAGE
    assert at == len(body), "length of PAGE_DATA"


def without_p2m(pages, body):
    """Its entries are of the machine; each restore writes them anew."""
    _, last = struct.unpack_from("<II", body)
    left = 8 * (last + 1)
    for (frame,) in struct.iter_unpack("<Q", body[8:]):
        size = min(left, PAGE)
        kind, data = pages[frame]
        pages[frame] = (kind, bytes(size) + data[size:])
        left -= size
    assert left == 0


def dump(path):
    with open(path, "rb") as f:
        r = Reader(f.read())
    pages, parts, order = {}, [], []
    p2m = None
    assert r.take(32) == MAGIC
    assert r.unpack("<III") == (0x01020304, 3, 0)
    (optional,) = r.unpack("<I")
    (size,) = r.unpack("<I")
    text = r.take(size)
    assert optional == size + 4 and text[-1] == 0
    print("config", json.dumps(json.loads(text[:-1]), sort_keys=True))
    assert r.unpack(">QII") == (0x4C6962786C466D74, 2, 0)
    assert r.record() == (1, b"")
    assert r.unpack(">QIIHHI") == (2**64 - 1, 0x58454E46, 3, 0, 0, 0)
    print("domain", r.unpack("<IHHII"))
    while True:
        kind, body = r.record()
        if kind == END:
            break
        if kind == PAGE_DATA:
            read_pages(body, pages)
            continue
        p2m = body if kind == P2M else p2m
        order.append(kind)
        parts.append("record %d %s" % (kind, hashlib.md5(body).hexdigest()))
    if p2m:
        without_p2m(pages, p2m)
    while True:
        kind, body = r.record()
        if kind == END:
            break
        parts.append("libxl %d %s" % (kind, hashlib.md5(body).hexdigest()))
    assert r.at == len(r.data), "bytes behind the end"
    print("\n".join(sorted(parts)))
    for pfn in sorted(pages):
        print_page(pfn, *pages[pfn])
    print("order", order, file=sys.stderr)


def print_page(pfn, kind, data):
    print("page %x %x %s" % (pfn, kind, hashlib.md5(data).hexdigest()))


def objects(types_path, memory_path):
    with open(types_path, "rb") as f:
        types = f.read()
    with open(memory_path, "rb") as f:
        memory = f.read()
    at = 0
    for first in range(0, len(types), 512):
        window = types[first:first + 512]
        has_data = any(kind < XALLOC and kind != BROKEN for kind in window)
        for i, kind in enumerate(window):
            data = memory[at + i * PAGE:at + (i + 1) * PAGE]
            if kind == XALLOC:
                print_page(first + i, kind, b"")
            elif kind not in (XTAB, BROKEN):
                assert len(data) == PAGE, "pfn %x is not there" % (first + i)
                print_page(first + i, kind, data)
            elif has_data:
                assert not any(data), "pfn %x is no page" % (first + i)
        at += 512 * PAGE if has_data else 0
    assert at == len(memory), "size of the memory"


def main():
    if sys.argv[1] == "make":
        changed = int(sys.argv[5]) if len(sys.argv) > 5 else 0
        name = sys.argv[4] if len(sys.argv) > 4 else "web"
        with open(sys.argv[2], "wb") as f:
            f.write(make(sys.argv[3], name, changed))
    elif sys.argv[1] == "bad":
        bad(sys.argv[2])
    elif sys.argv[1] == "objects":
        objects(sys.argv[2], sys.argv[3])
    else:
        dump(sys.argv[2])


main()
