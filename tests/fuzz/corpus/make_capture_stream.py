#!/usr/bin/env python3
"""Write the seed inputs of fuzz_capture_stream into capture_stream/."""
import os
import struct

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "capture_stream")
ZERO, MEM, PAGE, EOS, CONT = 2, 4, 8, 16, 32


def name(text):
    return bytes([len(text)]) + text.encode()


def head(*subsections):
    out = b"QEVM" + struct.pack(">IBI", 3, 7, 4) + b"pc-1"
    for title, payload in subsections:
        out += b"\x05" + name(title) + struct.pack(">I", 1) + payload
    return out


def section(kind, body=b""):
    return (struct.pack(">BI", kind, 2) + body + struct.pack(">Q", EOS) +
            struct.pack(">BI", 0x7e, 2))


def start(*blocks):
    body = name("ram") + struct.pack(">II", 0, 4)
    body += struct.pack(">Q", sum(size for _, size in blocks) | MEM)
    for title, size in blocks:
        body += name(title) + struct.pack(">Q", size)
    return section(1, body)


def zero(offset, block=None):
    word = struct.pack(">Q", offset | ZERO | (0 if block else CONT))
    return word + (name(block) if block else b"") + b"\0"


def page(offset, block=None):
    word = struct.pack(">Q", offset | PAGE | (0 if block else CONT))
    return word + (name(block) if block else b"") + b"\xa5" * 4096


DEVICE = (struct.pack(">BI", 4, 9) + name("cpu") + struct.pack(">II", 0, 1) +
          b"state" + struct.pack(">BI", 0x7e, 9) + b"\0")
TEXT = b'{"page_size": 4096}'
BLOCKS = [("pc.ram", 16384), ("/rom@etc/acpi", 8192)]
SEEDS = {
    "zeros": head() + start(*BLOCKS) +
        section(2, zero(0, "pc.ram") + zero(4096)) +
        section(3, zero(8192) + zero(0, "/rom@etc/acpi")) + DEVICE,
    "page": head() + start(*BLOCKS) + section(3, page(4096, "pc.ram")) +
        DEVICE + b"\x06" + struct.pack(">I", len(TEXT)) + TEXT,
    "subsections": head(
        ("configuration/target-page-bits", struct.pack(">I", 12)),
        ("configuration/capabilities", struct.pack(">I", 0)),
        ("configuration/uuid", bytes(16))) +
        start(BLOCKS[0]) + b"\x08\0\x02\0\x04ping" + section(3) + DEVICE,
    "capability": head(("configuration/capabilities",
                        struct.pack(">I", 1) + name("x-ignore-shared"))),
    "commands": head() + start(BLOCKS[0]) + b"\x08\0\x0b\0\0" +
        section(2) + b"\x08\0\x07\0\x04\0\0\0\0",
}

if __name__ == "__main__":
    for title, data in SEEDS.items():
        with open(os.path.join(HERE, title + ".bin"), "wb") as f:
            f.write(data)
