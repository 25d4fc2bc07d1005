"""qcow2 images that vnstore put must refuse.

hostile_qcow2.py DIR writes DIR/*.qcow2 and DIR/refused.txt, a line
"<file> TAB <words that the error must contain>" for each.
"""

import os
import struct
import sys

K64 = 65536
COPIED = 1 << 63
COMPRESSED = 1 << 62


def header(version=3, bits=16, size=1 << 20, crypt=0, l1_count=1,
           l1_offset=K64, backing=0, incompatible=0, header_size=104,
           compression=None):
    """The first cluster."""
    out = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", version, backing, 0, bits,
                      size, crypt, l1_count, l1_offset, 4 * K64, 1, 0, 0)
    if version >= 3:
        out += struct.pack(">QQQII", incompatible, 0, 0, 4, header_size)
        if compression is not None:
            out += bytes([compression]) + bytes(7)
    return out.ljust(K64, b"\0")


def table(*entries):
    """One cluster of big-endian numbers."""
    return b"".join(struct.pack(">Q", e) for e in entries).ljust(K64, b"\0")


def image(head=None, l1=None, l2=None, data=b"x" * K64):
    """header, L1, L2, data: a cluster each."""
    return ((head or header()) + (l1 or table(2 * K64 | COPIED)) +
            (l2 or table(3 * K64 | COPIED)) + data)


def cases():
    """Yield (name, words, content)."""
    yield "corrupt", "marked corrupt", image(header(incompatible=2))
    yield "external", "external data", image(header(incompatible=4))
    yield "extended", "extended L2", image(header(incompatible=16))
    yield "unknown", "0x100000", image(header(incompatible=1 << 20))
    yield "crypt", "encrypted", image(header(crypt=2))
    yield "backing", "backing file", image(header(backing=200))
    yield "version-1", "version 1", image(header(version=1))
    yield "version-9", "version 9", image(header(version=9))
    yield "bits-0", "2^0 bytes", image(header(bits=0))
    yield "bits-40", "bytes", image(header(bits=40))
    yield "giant", "bytes", image(header(size=1 << 63))
    yield "large", "L1 table", image(header(size=1 << 40))
    yield "l1-count", "L1 table", image(header(l1_count=0xffffffff))
    yield "l1-outside", "outside", image(header(l1_offset=1 << 50))
    yield "l1-wraps", "outside", image(header(l1_offset=(1 << 64) - K64))
    yield "l1-odd", "outside", image(header(l1_offset=K64 + 8))
    yield "header-size", "header", image(header(header_size=8))
    yield "header-giant", "header", image(header(header_size=1 << 31))
    yield "compression", "compression", image(
        header(incompatible=8, header_size=112, compression=9))
    yield "compression-silent", "compression", image(
        header(header_size=112, compression=1))
    yield "l2-outside", "outside", image(l1=table(1 << 40))
    yield "l2-odd", "outside", image(l1=table(2 * K64 + 512))
    yield "data-outside", "behind the end", image(l2=table(1 << 40))
    yield "data-odd", "not aligned", image(l2=table(3 * K64 + 512))
    # One cluster in all places, and one L2 table in all of a disk of 4 TiB.
    yield "bomb", "more data than", image(
        header(size=512 << 20), l2=table(*[3 * K64] * 8192))
    yield "bomb-l2", "more data than", image(
        header(size=4 << 40, l1_count=8192), l1=table(*[2 * K64] * 8192),
        l2=table(*[1] * 8192))
    yield "bomb-packed", "", image(
        header(size=512 << 20), l2=table(*[COMPRESSED | 3 * K64] * 8192))
    yield "packed-outside", "behind", image(l2=table(COMPRESSED | 1 << 45))
    yield "packed-noise", "damaged", image(
        l2=table(COMPRESSED | 3 * K64), data=b"\xff" * K64)
    yield "packed-zstd", "damaged", image(
        header(incompatible=8, header_size=112, compression=1),
        l2=table(COMPRESSED | 3 * K64), data=b"\xff" * K64)
    whole = image()
    for size in (4, 8, 71, 103, K64, K64 + 4, 2 * K64 + 100, 3 * K64):
        yield "cut-%d" % size, "", whole[:size]


def main():
    """Write all."""
    folder = sys.argv[1]
    os.mkdir(folder)
    with open(os.path.join(folder, "refused.txt"), "w") as lines:
        for name, words, content in cases():
            with open(os.path.join(folder, name + ".qcow2"), "wb") as out:
                out.write(content)
            lines.write("%s.qcow2\t%s\n" % (name, words))


main()
