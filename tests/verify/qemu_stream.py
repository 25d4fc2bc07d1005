#!/usr/bin/env python3
"""A second reader of QEMU migration streams (docs/formats/qemu-stream.md).

    qemu_stream.py FILE             print what is in it, as JSON
    qemu_stream.py FILE OTHER       compare: same head, blocks, memory, devices
    qemu_stream.py FILE --dump BLOCK OUT    write one block, raw

Files that end in .xz are unpacked. Written from the format document alone,
to find where the C parser and it disagree. Exit status 0, or 1 with a reason.
"""
import argparse
import hashlib
import json
import lzma
import struct
import sys

PAGE = 4096
ZERO_PAGE = bytes(PAGE)


class BadStream(Exception):
    pass


class Reader:
    """Bytes with a position; every short read is an error."""

    def __init__(self, data):
        self.data = memoryview(data)
        self.at = 0

    def take(self, size):
        if size > len(self.data) - self.at:
            raise BadStream(f"at byte {self.at}: {size} bytes wanted, "
                            f"{len(self.data) - self.at} left")
        piece = self.data[self.at:self.at + size]
        self.at += size
        return piece

    def number(self, form):
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def text(self, size):
        piece = bytes(self.take(size))
        if not piece or any(b < 0x20 or b > 0x7e for b in piece):
            raise BadStream(f"at byte {self.at}: bad name {piece!r}")
        return piece.decode("ascii")

    def name(self):
        return self.text(self.number("B"))


def need(condition, reader, sentence):
    if not condition:
        raise BadStream(f"at byte {reader.at}: {sentence}")


class Stream:
    def __init__(self, data):
        self.reader = Reader(data)
        self.blocks = {}    # name -> size, in the stream's order
        self.pages = {}     # name -> {offset: page or None for zeros}
        self.records = 0
        self.section = None  # id of the RAM section
        self.current = None
        self.parse()

    def parse(self):
        r = self.reader
        self.parse_head()
        ended = seen_pages = False
        while True:
            began = r.at
            kind = r.number("B")
            if kind == 1:
                need(self.section is None, r, "a second live section")
                self.section = r.number("I")
                need(r.name() == "ram", r, "a live section that is not ram")
                need(r.number("I") == 0, r, "instance of ram is not 0")
                need(r.number("I") == 4, r, "version of ram is not 4")
                self.parse_memory(True)
            elif kind in (2, 3):
                need(self.blocks and not ended, r, "a stray memory section")
                need(r.number("I") == self.section, r, "unknown section id")
                ended, seen_pages = kind == 3, True
                self.parse_memory(False)
            elif kind == 8:
                command, size = r.number("H"), r.number("H")
                need((command, size) in ((1, 0), (2, 4), (11, 0)), r,
                     f"command {command} of {size} bytes")
                r.take(size)
            elif kind == 4:
                need(seen_pages, r, "devices before the memory")
                r.at = began
                break
            else:
                raise BadStream(f"at byte {began}: section type {kind:#x}")
        self.device_state = bytes(r.data[r.at:])
        self.check_tail()

    def parse_head(self):
        r = self.reader
        need(bytes(r.take(4)) == b"QEVM", r, "no magic")
        need(r.number("I") == 3, r, "version is not 3")
        need(r.number("B") == 7, r, "no configuration")
        size = r.number("I")
        need(0 < size < 256, r, "bad machine name")
        self.machine = r.text(size)
        seen = set()
        while len(r.data) > r.at and r.data[r.at] == 5:
            r.at += 1
            name = r.name()
            need(r.number("I") == 1, r, f"version of {name} is not 1")
            need(name not in seen, r, f"{name} twice")
            seen.add(name)
            if name == "configuration/target-page-bits":
                need(r.number("I") == 12, r, "page bits are not 12")
            elif name == "configuration/capabilities":
                need(r.number("I") == 0, r, "capabilities are in use")
            elif name == "configuration/uuid":
                r.take(16)
            else:
                raise BadStream(f"at byte {r.at}: subsection {name}")
        self.head = bytes(r.data[:r.at])

    def parse_list(self, total):
        r = self.reader
        need(0 < total <= 1 << 46, r, f"total of {total} bytes")
        while total:
            name = r.name()
            size = r.number("Q")
            need(size and size % PAGE == 0 and size <= total, r,
                 f"block {name} of {size} bytes")
            need(name not in self.blocks, r, f"block {name} twice")
            need(len(self.blocks) < 64, r, "more than 64 blocks")
            self.blocks[name] = size
            self.pages[name] = {}
            total -= size

    def parse_memory(self, in_start):
        r = self.reader
        while True:
            word = r.number("Q")
            offset, flags = word & ~(PAGE - 1), word & (PAGE - 1)
            if flags == 4:
                need(in_start and not self.blocks, r, "stray block list")
                self.parse_list(offset)
                continue
            need(self.blocks, r, "record before the block list")
            if word == 0x10:
                break
            need(flags & ~0x20 in (2, 8), r, f"record {word:#x}")
            if not flags & 0x20:
                self.current = r.name()
            need(self.current in self.blocks, r, "record of no block")
            need(offset < self.blocks[self.current], r, "page outside")
            self.records += 1
            if flags & 2:
                need(r.number("B") == 0, r, "fill byte is not 0")
                self.pages[self.current][offset] = None
            else:
                self.pages[self.current][offset] = r.take(PAGE)
        need(r.number("B") == 0x7e and r.number("I") == self.section, r,
             "no footer")

    def check_tail(self):
        data = self.device_state
        self.description = None
        end = len(data)
        # Every candidate from the back: 06, be32 length of all that follows.
        at = len(data) - 5
        while at > 0:
            if (data[at] == 6 and
                    struct.unpack_from(">I", data, at + 1)[0] ==
                    len(data) - at - 5 and data[at - 1] == 0):
                try:
                    self.description = json.loads(data[at + 5:])
                    end = at
                    break
                except ValueError:
                    pass
            at -= 1
        if not (end >= 6 and data[end - 1] == 0 and data[end - 6] == 0x7e):
            raise BadStream("the device state ends early")

    def page(self, block, offset):
        page = self.pages[block].get(offset)
        return ZERO_PAGE if page is None else bytes(page)

    def memory(self, block):
        for offset in range(0, self.blocks[block], PAGE):
            yield self.page(block, offset)

    def digest(self, block):
        h = hashlib.sha256()
        for page in self.memory(block):
            h.update(page)
        return h.hexdigest()

    def summary(self):
        devices = [d.get("name") for d in
                   (self.description or {}).get("devices", [])]
        return {
            "machine": self.machine,
            "head_bytes": len(self.head),
            "blocks": [{
                "name": name, "size": size,
                "pages": sum(p is not None
                             for p in self.pages[name].values()),
                "zeros": sum(p is None for p in self.pages[name].values()),
                "sha256": self.digest(name),
            } for name, size in self.blocks.items()],
            "records": self.records,
            "device_state_bytes": len(self.device_state),
            "device_state_sha256":
                hashlib.sha256(self.device_state).hexdigest(),
            "devices": devices,
        }


def load(path):
    opener = lzma.open if path.endswith(".xz") else open
    with opener(path, "rb") as f:
        return Stream(f.read())


def differences(a, b):
    if a.head != b.head:
        yield "the heads differ"
    if list(a.blocks.items()) != list(b.blocks.items()):
        yield f"the blocks differ: {a.blocks} and {b.blocks}"
        return
    for name, size in a.blocks.items():
        wrong = [o for o in range(0, size, PAGE)
                 if a.page(name, o) != b.page(name, o)]
        if wrong:
            yield (f"block {name}: {len(wrong)} pages differ, the first at "
                   f"{wrong[0]:#x}")
    if a.device_state != b.device_state:
        yield "the device states differ"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("other", nargs="?")
    parser.add_argument("--dump", nargs=2, metavar=("BLOCK", "OUT"))
    args = parser.parse_args()
    try:
        stream = load(args.file)
        if args.dump:
            with open(args.dump[1], "wb") as f:
                f.writelines(stream.memory(args.dump[0]))
        elif args.other:
            wrong = list(differences(stream, load(args.other)))
            print("\n".join(wrong) or "same")
            return 1 if wrong else 0
        else:
            json.dump(stream.summary(), sys.stdout, indent=2)
            print()
    except BadStream as e:
        print(f"{args.file}: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
