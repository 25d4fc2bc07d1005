#!/usr/bin/env python3
"""Write the seed inputs of fuzz_violin_offload into violin_offload/."""
import os
import struct

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)),
                    "violin_offload")
NEEDS_CSUM, DATA_VALID = 1, 2
NONE, TCPV4, TCPV6, ECN = 0, 1, 4, 0x80


def header(flags=0, gso=NONE, size=0, start=0, offset=0):
    """A struct virtio_net_hdr of a little-endian machine."""
    return struct.pack("<BBHHHH", flags, gso, 0, size, start, offset)


def ethernet(kind, tags=0):
    macs = bytes.fromhex("020000000001020000000002")
    return macs + b"\x81\x00\x00\x05" * tags + struct.pack(">H", kind)


def ipv4(protocol, options=b""):
    return struct.pack(">BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 0, 1,
                       0x4000, 64, protocol, 0, b"\x0a\x63\0\1",
                       b"\x0a\x63\0\2") + options


def ipv6(following, options=b""):
    return struct.pack(">IHBB", 0x60000000, 0, following, 64) + \
        bytes(range(32)) + options


def tcp(flags, options=b""):
    return struct.pack(">HHIIBBHHH", 1234, 80, 1000, 0,
                       (20 + len(options)) * 4, flags, 500, 0, 0) + options


DATA = bytes(range(256))
SEEDS = {
    "plain": header() + ethernet(0x800) + ipv4(6) + tcp(0x10),
    "valid": header(DATA_VALID) + ethernet(0x800) + ipv4(6) + tcp(0x10),
    "udp": header(NEEDS_CSUM, start=34, offset=6) + ethernet(0x800) +
    ipv4(17) + struct.pack(">HHHH", 1, 2, 264, 0) + DATA,
    "tcpv4": header(NEEDS_CSUM, TCPV4, 100, 34, 16) + ethernet(0x800) +
    ipv4(6) + tcp(0x19) + DATA,
    "tcpv4_ecn": header(NEEDS_CSUM, TCPV4 | ECN, 64, 42, 16) +
    ethernet(0x800, 1) + ipv4(6, b"\1\1\1\1") + tcp(0x90, b"\1" * 12) + DATA,
    "tcpv6": header(NEEDS_CSUM, TCPV6, 100, 54, 16) + ethernet(0x86dd) +
    ipv6(6) + tcp(0x18) + DATA,
    "tcpv6_options": header(NEEDS_CSUM, TCPV6, 33, 78, 16) +
    ethernet(0x86dd, 2) + ipv6(0, b"\x3c\0" + bytes(6) + b"\6\0" + bytes(6)) +
    tcp(0x18) + DATA,
}

os.makedirs(HERE, exist_ok=True)
for seed, data in SEEDS.items():
    with open(os.path.join(HERE, seed), "wb") as file:
        file.write(data)
