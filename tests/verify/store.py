#!/usr/bin/env python3
"""Read and verify a store from its packs alone, without vnstore's code.

A second implementation of docs/formats/store.md, from that document, with
Python's standard library only: XXH3-128, BLAKE3 and LZ4 blocks are written
out below, zstd frames in zstd.py (HMAC-SHA-256 is in that library). The index (LMDB) is not
read: packs describe themselves.

    store.py STORE                     check packs, manifests and maps
    store.py --quick STORE             the same without hashing contents
    store.py --cat STORE SNAP OBJECT   write an object's bytes to stdout

Snapshots for which there is a tombstone are left out.
Exit status: 0 all well, 1 findings (printed), 2 it could not go on.
"""

import hashlib
import hmac
import json
import os
import struct
import sys

import zstd

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF

# ---- XXH3-128 with the default secret (xxHash 0.8, doc/xxhash_spec.md) -----

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e")

P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
P64_3, P64_4 = 0x165667B19E3779F9, 0x85EBCA77C2B2AE63
P64_5 = 0x27D4EB2F165667C5
PMX1 = 0x165667919E3779F9


def le64(data, at):
    return int.from_bytes(data[at:at + 8], "little")


def mul_fold(a, b):
    product = a * b
    return (product & M64) ^ (product >> 64)


def avalanche(h):
    h ^= h >> 37
    h = h * PMX1 & M64
    return h ^ (h >> 32)


def mix16(data, at, secret_at):
    return mul_fold(le64(data, at) ^ le64(SECRET, secret_at),
                    le64(data, at + 8) ^ le64(SECRET, secret_at + 8))


def mix32(acc, data, one, two, secret_at):
    low, high = acc
    low = low + mix16(data, one, secret_at) & M64
    low ^= le64(data, two) + le64(data, two + 8) & M64
    high = high + mix16(data, two, secret_at + 16) & M64
    high ^= le64(data, one) + le64(data, one + 8) & M64
    return low, high


def finish_mid(acc, size):
    low = acc[0] + acc[1] & M64
    high = (acc[0] * P64_1 + acc[1] * P64_4 + size * P64_2) & M64
    return avalanche(low), (-avalanche(high)) & M64


def xxh3_9to16(data):
    size = len(data)
    flip_low = le64(SECRET, 32) ^ le64(SECRET, 40)
    flip_high = le64(SECRET, 48) ^ le64(SECRET, 56)
    low, high = le64(data, 0), le64(data, size - 8)
    product = (low ^ high ^ flip_low) * P64_1
    m_low, m_high = product & M64, product >> 64
    m_low = m_low + ((size - 1) << 54) & M64
    high ^= flip_high
    m_high = m_high + high + (high & M32) * (P32_2 - 1) & M64
    m_low ^= int.from_bytes(m_high.to_bytes(8, "little"), "big")
    product = m_low * P64_2
    h_low = product & M64
    h_high = (product >> 64) + m_high * P64_2 & M64
    return avalanche(h_low), avalanche(h_high)


def xxh3_17to128(data):
    size = len(data)
    acc = (size * P64_1 & M64, 0)
    for i in reversed(range((size - 1) // 32 + 1)):
        acc = mix32(acc, data, 16 * i, size - 16 * (i + 1), 32 * i)
    return finish_mid(acc, size)


def xxh3_129to240(data):
    size = len(data)
    acc = (size * P64_1 & M64, 0)
    for i in range(4):
        acc = mix32(acc, data, 32 * i, 32 * i + 16, 32 * i)
    acc = (avalanche(acc[0]), avalanche(acc[1]))
    for i in range(4, size // 32):
        acc = mix32(acc, data, 32 * i, 32 * i + 16, 3 + 32 * (i - 4))
    acc = mix32(acc, data, size - 16, size - 32, 136 - 17 - 16)
    return finish_mid(acc, size)


def accumulate(acc, words, keys):
    for i in range(8):
        value = words[i]
        key = value ^ keys[i]
        acc[i ^ 1] = acc[i ^ 1] + value & M64
        acc[i] = acc[i] + (key & M32) * (key >> 32) & M64


def merge(acc, secret_at, start):
    result = start
    for i in range(4):
        result += mul_fold(acc[2 * i] ^ le64(SECRET, secret_at + 16 * i),
                           acc[2 * i + 1] ^
                           le64(SECRET, secret_at + 16 * i + 8))
    return avalanche(result & M64)


def xxh3_long(data):
    size = len(data)
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    keys = [struct.unpack_from("<8Q", SECRET, 8 * n) for n in range(16)]
    scramble = struct.unpack_from("<8Q", SECRET, 192 - 64)
    blocks = (size - 1) // 1024
    for block in range(blocks):
        for n in range(16):
            accumulate(acc, struct.unpack_from("<8Q", data,
                                               1024 * block + 64 * n), keys[n])
        for i in range(8):
            a = acc[i]
            acc[i] = ((a ^ (a >> 47)) ^ scramble[i]) * P32_1 & M64
    for n in range((size - 1 - 1024 * blocks) // 64):
        accumulate(acc, struct.unpack_from("<8Q", data,
                                           1024 * blocks + 64 * n), keys[n])
    accumulate(acc, struct.unpack_from("<8Q", data, size - 64),
               struct.unpack_from("<8Q", SECRET, 192 - 64 - 7))
    low = merge(acc, 11, size * P64_1 & M64)
    high = merge(acc, 192 - 64 - 11, ~(size * P64_2) & M64)
    return low, high


def xxh3_128(data):
    """The canonical 16 bytes. Inputs here have 9 bytes at least."""
    size = len(data)
    if size > 240:
        low, high = xxh3_long(data)
    elif size > 128:
        low, high = xxh3_129to240(data)
    elif size > 16:
        low, high = xxh3_17to128(data)
    elif size > 8:
        low, high = xxh3_9to16(data)
    else:
        raise ValueError("XXH3-128 of %d bytes is not needed" % size)
    return high.to_bytes(8, "big") + low.to_bytes(8, "big")


# ---- BLAKE3 (the paper of O'Connor et al., section 2) ----------------------

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
      0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
START, END, PARENT, ROOT, KEYED = 1, 2, 4, 8, 16
DERIVE_CONTEXT, DERIVE_MATERIAL = 32, 64
QUARTERS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
            (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))


def compress(cv, block, counter, size, flags):
    v = list(cv) + list(IV[:4]) + [counter & M32, counter >> 32, size, flags]
    m = list(struct.unpack("<16I", block))
    for round_number in range(7):
        for n, (a, b, c, d) in enumerate(QUARTERS):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            va = va + vb + m[2 * n] & M32
            x = vd ^ va
            vd = (x >> 16 | x << 16) & M32
            vc = vc + vd & M32
            x = vb ^ vc
            vb = (x >> 12 | x << 20) & M32
            va = va + vb + m[2 * n + 1] & M32
            x = vd ^ va
            vd = (x >> 8 | x << 24) & M32
            vc = vc + vd & M32
            x = vb ^ vc
            vb = (x >> 7 | x << 25) & M32
            v[a], v[b], v[c], v[d] = va, vb, vc, vd
        if round_number < 6:
            m = [m[i] for i in PERMUTATION]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def chunk_output(key, data, counter, flags):
    """Chaining value's inputs of one chunk of up to 1024 bytes."""
    blocks = [data[i:i + 64] for i in range(0, len(data), 64)] or [b""]
    cv = key
    for i, block in enumerate(blocks):
        f = flags | (START if i == 0 else 0)
        if i == len(blocks) - 1:
            return cv, block.ljust(64, b"\0"), counter, len(block), f | END
        cv = compress(cv, block, counter, 64, f)
    raise AssertionError


def tree_output(key, data, counter, flags):
    if len(data) <= 1024:
        return chunk_output(key, data, counter, flags)
    left = 1024
    while left * 2 < len(data):
        left *= 2
    halves = (compress(*tree_output(key, data[:left], counter, flags)) +
              compress(*tree_output(key, data[left:], counter + left // 1024,
                                    flags)))
    return key, struct.pack("<16I", *halves), 0, 64, flags | PARENT


def blake3(key, data, flags):
    cv, block, counter, size, f = tree_output(key, data, 0, flags)
    return struct.pack("<8I", *compress(cv, block, counter, size, f | ROOT))


def derive_key(context, material):
    key = struct.unpack("<8I", blake3(IV, context, DERIVE_CONTEXT))
    return blake3(key, material, DERIVE_MATERIAL)


def keyed_hash(key, data):
    return blake3(struct.unpack("<8I", key), data, KEYED)


def hmac_sha256(key, data):
    return hmac.digest(key, data, hashlib.sha256)


# Derive the key of a kind from (context, master key); hash (key, content).
IDENTITIES = {"blake3": (derive_key, keyed_hash),
              "sha256": (lambda context, key: hmac_sha256(key, context),
                         hmac_sha256)}


# ---- LZ4 block (lz4_Block_format.md) --------------------------------------

class Damage(Exception):
    """Stored bytes that do not follow the format."""


def read_length(data, at, length):
    while True:
        byte = data[at]
        at += 1
        length += byte
        if byte != 255:
            return at, length


def lz4_decode(data, limit):
    out = bytearray()
    at = 0
    try:
        while True:
            token = data[at]
            at += 1
            literals, match = token >> 4, token & 15
            if literals == 15:
                at, literals = read_length(data, at, 15)
            if at + literals > len(data) or len(out) + literals > limit:
                raise Damage("literals pass the end")
            out += data[at:at + literals]
            at += literals
            if at == len(data):
                return bytes(out)
            offset = data[at] | data[at + 1] << 8
            at += 2
            if match == 15:
                at, match = read_length(data, at, 15)
            match += 4
            if offset == 0 or offset > len(out) or len(out) + match > limit:
                raise Damage("a match points outside")
            if offset >= match:
                start = len(out) - offset
                out += out[start:start + match]
            else:
                piece = bytes(out[-offset:])
                out += (piece * (match // offset + 1))[:match]
    except IndexError:
        raise Damage("ends in a sequence") from None


# ---- packs -----------------------------------------------------------------

PAGE, LEAF, INNER, MANIFEST, TOMBSTONE = 1, 2, 3, 4, 5
KINDS = {PAGE: "page", LEAF: "leaf", INNER: "inner", MANIFEST: "manifest",
         TOMBSTONE: "tombstone"}
RAW_MAX = {PAGE: 4096, LEAF: 8 + 512 * 32, INNER: 8 + 512 * 16,
           MANIFEST: 32 << 20, TOMBSTONE: 40}
HEADER, ENTRY, FOOTER = 64, 48, 80
DOMAIN = 8  # bytes behind the directory's entries, of versions 3 and 4
CODEC_MAX = {1: 1, 2: 2, 3: 1, 4: 2}  # by version


def parse_pack(data, store_id, number):
    """The domain of a pack's pages, 0: the store's, and its entries: (full id,
    kind, codec, offset, stored, raw)."""
    if len(data) < HEADER + FOOTER:
        raise Damage("%d bytes" % len(data))
    footer = data[-FOOTER:]
    if footer[:8] != b"VNSTPEND" or xxh3_128(footer[:64]) != footer[64:]:
        raise Damage("its footer is damaged")
    version, count, offset, pack_id = struct.unpack_from("<IIQQ", footer, 8)
    if version not in CODEC_MAX:
        raise Damage("format %d, this program knows 1 to 4" % version)
    extra = DOMAIN if version >= 3 else 0
    if pack_id != number or offset < HEADER or \
            offset + count * ENTRY + extra + FOOTER != len(data):
        raise Damage("its footer does not fit it")
    if xxh3_128(data[offset:-FOOTER]) != footer[48:64]:
        raise Damage("its directory is damaged")
    if xxh3_128(data[HEADER:offset]) != footer[32:48]:
        raise Damage("its chunks are damaged")
    domain = le64(data, len(data) - FOOTER - DOMAIN) if extra else 0
    if extra and domain == 0:
        raise Damage("version %d without a domain" % version)
    header = data[:HEADER]
    if header[:8] != b"VNSTPACK" or xxh3_128(header[:48]) != header[48:] or \
            struct.unpack_from("<IIQ", header, 8)[:2] != (version, 0) or \
            header[16:32] != store_id or \
            struct.unpack_from("<QQ", header, 32) != (pack_id, domain):
        raise Damage("its header is damaged")
    entries = []
    due = HEADER
    for i in range(count):
        at = offset + i * ENTRY
        kind, codec, zero, start, stored, raw = struct.unpack_from(
            "<BBHIII", data, at + 32)
        if kind not in KINDS or codec > CODEC_MAX[version] or zero or start != due or \
                not 0 < stored <= raw <= RAW_MAX[kind]:
            raise Damage("entry %d of its directory is wrong" % i)
        entries.append((data[at:at + 32], kind, codec, start, stored, raw))
        due += stored
    if due != offset:
        raise Damage("its chunks do not end where its directory begins")
    return domain, entries


def check_of(text):
    return xxh3_128(text.encode("ascii")).hex()


class Store:
    """All chunks of a store, by (kind, short id), and what was found."""

    def __init__(self, path, quick):
        self.path = path
        self.quick = quick
        self.findings = 0
        self.chunks = {}
        self.manifests = []
        self.written = {}  # manifest: highest number of a pack with it
        self.deleted = {}  # manifest: highest number of a tombstone's pack
        self.packs = 0
        with open(os.path.join(path, "config.json"), encoding="ascii") as f:
            config = json.load(f)
        if config["format"] != 1:
            raise Damage("format %r, this program knows 1" % config["format"])
        if config["identity"] not in IDENTITIES:
            raise Damage("identity %r, this program knows %s" %
                         (config["identity"], ", ".join(IDENTITIES)))
        text = " ".join(str(config[name]) for name in (
            "format", "identity", "store_id", "key", "secret"))
        if config.get("check", check_of(text)) != check_of(text):
            raise Damage("a value of config.json was changed")
        self.store_id = bytes.fromhex(config["store_id"])
        key = bytes.fromhex(config["key"])
        derive, self.keyed_hash = IDENTITIES[config["identity"]]
        self.derive = lambda context: derive(context.encode(), key)
        self.keys = {kind: self.derive("vnstore v1 chunk kind " + name)
                     for kind, name in KINDS.items()}
        self.page_keys = {0: self.keys[PAGE]}  # by domain

    def found(self, sentence):
        self.findings += 1
        print(sentence)

    def load(self):
        top = os.path.join(self.path, "packs")
        for folder in sorted(os.listdir(top)):
            if not os.path.isdir(os.path.join(top, folder)):
                continue
            for name in sorted(os.listdir(os.path.join(top, folder))):
                if not name.endswith(".pack"):
                    continue
                number = int(name[:-5], 16)
                if int(folder, 16) != number >> 12:
                    self.found("pack %s is in folder %s" % (name, folder))
                self.load_pack(os.path.join(top, folder, name), number)
        # A tombstone deletes its manifest in all packs of lower number.
        self.manifests = [short for short, number in self.written.items()
                          if number > self.deleted.get(short, -1)]

    def key(self, kind, domain):
        """That of pages differs from domain to domain."""
        if kind != PAGE:
            return self.keys[kind]
        if domain not in self.page_keys:
            self.page_keys[domain] = self.derive(
                "vnstore v1 domain page %016x" % domain)
        return self.page_keys[domain]

    def tag(self, name):
        """Of a domain of that name; None: the store's."""
        if name is None:
            return 0
        return le64(self.derive("vnstore v1 domain tag " + name), 0) or 1

    def load_pack(self, path, number):
        with open(path, "rb") as f:
            data = f.read()
        try:
            domain, entries = parse_pack(data, self.store_id, number)
        except Damage as damage:
            self.found("pack %012x: %s" % (number, damage))
            return
        self.packs += 1
        for full, kind, codec, start, stored, raw in entries:
            place = (path, start, stored, codec, raw, full, domain)
            short = full[:16]
            if not self.quick:
                try:
                    self.decode(kind, place, data[start:start + stored])
                except Damage as damage:
                    self.found("pack %012x, chunk %s: %s" %
                               (number, short.hex(), damage))
                    continue
            self.chunks.setdefault((kind, short), place)
            if kind in (MANIFEST, TOMBSTONE) and domain:
                self.found("pack %012x: a %s in a pack of a domain" %
                           (number, KINDS[kind]))
            if kind == MANIFEST:
                self.written[short] = max(number, self.written.get(short, 0))
            if kind == TOMBSTONE:
                self.bury(place, data[start:start + stored], number)

    def bury(self, place, stored, number):
        content = self.decode(TOMBSTONE, place, stored)
        if len(content) != 40 or content[:8] != b"VNTS" + bytes(4):
            self.found("pack %012x: a tombstone of another form" % number)
            return
        short = content[8:24]
        self.deleted[short] = max(number, self.deleted.get(short, -1))

    def decode(self, kind, place, stored):
        codec, raw, full, domain = place[3:]
        if codec == 2:
            try:
                content = zstd.decode(stored, RAW_MAX[kind])
            except ValueError as why:
                raise Damage("zstd: %s" % why) from None
        else:
            content = stored if codec == 0 else lz4_decode(stored,
                                                           RAW_MAX[kind])
        if len(content) != raw:
            raise Damage("%d bytes instead of %d" % (len(content), raw))
        if not self.quick and \
                self.keyed_hash(self.key(kind, domain), content) != full:
            raise Damage("content and id differ")
        return content

    def read(self, kind, short):
        place = self.chunks.get((kind, short))
        if not place:
            raise Damage("%s %s is in no pack" % (KINDS[kind], short.hex()))
        with open(place[0], "rb") as f:
            f.seek(place[1])
            return self.decode(kind, place, f.read(place[2]))

    def manifest(self, short):
        document = json.loads(self.read(MANIFEST, short))
        if document["format"] not in (1, 3):
            raise Damage("manifest of format %r" % document["format"])
        name = document["meta"].get("domain")
        tag = self.tag(name)
        for entry in document["objects"].values():
            domain = int(entry.get("domain", "0"), 16)
            if domain and document["format"] != 3:
                raise Damage("a domain in format %r" % document["format"])
            if domain != tag:
                raise Damage("an object is not of domain %r" % name)
        return document

    def pages(self, root, size):
        """(page number, id) of each page that is not zero."""
        count = -(-size // 4096)
        height = 0
        while 512 ** (height + 1) < count:
            height += 1
        if root != bytes(16):
            yield from self.walk(root, height, 0)

    def walk(self, short, height, first):
        node = self.read(INNER if height else LEAF, short)
        if len(node) != RAW_MAX[INNER if height else LEAF] or \
                node[:8] != b"VNMN" + bytes([height, 0, 0, 0]):
            raise Damage("%s is no node of height %d" % (short.hex(), height))
        for i in range(512):
            child = node[8 + 16 * i:24 + 16 * i]
            if child == bytes(16):
                continue
            if height:
                yield from self.walk(child, height - 1,
                                     first + i * 512 ** height)
            else:
                yield first + i, child


def check(store):
    for short in store.manifests:
        try:
            document = store.manifest(short)
            for name, entry in sorted(document["objects"].items()):
                for page, child in store.pages(bytes.fromhex(entry["root"]),
                                               entry["size"]):
                    place = store.chunks.get((PAGE, child))
                    if place and place[6] != int(entry.get("domain", "0"), 16):
                        raise Damage("object %s: page %d is of another domain"
                                     % (name, page))
                    if not place:
                        raise Damage("object %s: page %d, chunk %s, is in no "
                                     "pack" % (name, page, child.hex()))
                    if page * 4096 >= entry["size"]:
                        raise Damage("object %s: page %d lies behind its end" %
                                     (name, page))
        except (Damage, ValueError, KeyError, TypeError) as damage:
            store.found("snapshot %s: %s" % (short.hex(), damage))
    print("%d packs, %d chunks, %d manifests, %d findings" %
          (store.packs, len(store.chunks), len(store.manifests),
           store.findings))
    return 1 if store.findings else 0


def cat(store, snapshot, name):
    for short in store.manifests:
        document = store.manifest(short)
        if snapshot not in (document["name"], short.hex()):
            continue
        entry = document["objects"][name]
        out = sys.stdout.buffer
        done = 0
        for page, child in store.pages(bytes.fromhex(entry["root"]),
                                       entry["size"]):
            while done < page:
                out.write(bytes(4096))
                done += 1
            content = store.read(PAGE, child)
            out.write(content[:entry["size"] - page * 4096])
            done = page + 1
        while done * 4096 < entry["size"]:
            out.write(bytes(min(4096, entry["size"] - done * 4096)))
            done += 1
        return 0
    print("no snapshot '%s'" % snapshot, file=sys.stderr)
    return 2


def main(args):
    options = [a for a in args if a.startswith("--")]
    names = [a for a in args if not a.startswith("--")]
    if set(options) - {"--quick", "--cat"} or \
            len(names) != (3 if "--cat" in options else 1):
        print(__doc__, file=sys.stderr)
        return 64
    try:
        store = Store(names[0], bool(options))
        store.load()
        if "--cat" in options:
            return cat(store, names[1], names[2])
        return check(store)
    except (OSError, Damage, ValueError, KeyError) as why:
        print("%s: %s" % (names[0], why), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
