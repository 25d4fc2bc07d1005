#!/usr/bin/env python3
"""Make store-FORMAT-IDENTITY.tar.xz and store-FORMAT.txt: small stores.

    make_store.py VNSTORE FORMAT [domains]

They stay readable for ever: tests/unit/test_store_golden.c opens them, as does
tests/verify/store.py. Run it once for each new format, with the program that
writes it, and never again: what it makes has random secrets, and the point of
those that are there is that they are old.

Each store has packs with raw and with LZ4 chunks, maps of all heights, images
that end in a page of zeros, in a part of a page and with no bytes at all, pages
shared between images, two versions of a series, another series, and a deleted
snapshot with its tombstone. With `domains` snapshots are in several of these,
and some packs were compressed once more. store-FORMAT.txt has a line for each object:
snapshot, object, size, and SHA-256 over its pages that are not all zeros, each
as its offset (8 bytes, little-endian) and its bytes (the last page cut to the
size).
"""
import hashlib
import os
import random
import subprocess
import sys
import tarfile
import tempfile

PAGE = 4096
GIB = 1 << 30


def content(rng, kind):
    """A page: raw does not compress, text does."""
    if kind == "raw":
        return rng.randbytes(PAGE)
    word = rng.randbytes(5)
    return (b"golden " + word) * 400 + bytes(PAGE)


def image(rng, size, spots):
    """{offset: bytes} of an image with pages of these kinds at these places."""
    return {at: content(rng, kind)[:PAGE][:size - at] for at, kind in spots}


def digest(pages):
    sha = hashlib.sha256()
    for at in sorted(pages):
        if pages[at].strip(b"\0"):
            sha.update(at.to_bytes(8, "little") + pages[at])
    return sha.hexdigest()


def write(path, size, pages):
    with open(path, "wb") as f:
        for at, data in pages.items():
            f.seek(at)
            f.write(data)
        f.truncate(size)


def images():
    rng = random.Random(1)
    few = [(i * PAGE, "raw" if i % 3 == 0 else "text") for i in range(20)]
    wide = [(0, "text"), (3 * GIB - PAGE, "raw"), (GIB + 5 * PAGE, "text")]
    vast = [(0, "raw"), (600 * GIB, "text"), (511 * GIB, "text")]
    first = {
        "disk": (20 * PAGE, image(rng, 20 * PAGE, few)),
        "zero-tail": (9 * PAGE + 17, image(rng, 9 * PAGE, few[:7])),
        "part": (5 * PAGE - 100, image(rng, 5 * PAGE - 100, few[:5])),
        "wide": (3 * GIB, image(rng, 3 * GIB, wide)),
        "vast": (601 * GIB + 1, image(rng, 601 * GIB, vast)),
        "zeros": (77 * PAGE, {}),
        "empty": (0, {}),
    }
    second = dict(first)
    disk = dict(first["disk"][1])
    disk[3 * PAGE] = content(rng, "raw")
    disk[8 * PAGE] = bytes(PAGE)
    second["disk"] = (20 * PAGE, disk)
    wide = dict(first["wide"][1])
    wide[2 * GIB] = first["disk"][1][0]
    second["wide"] = (3 * GIB, wide)
    del second["part"]
    return first, second


def make(program, identity, folder, snapshots, domains):
    store = os.path.join(folder, "store")

    def run(*args):
        subprocess.run([program, "-s", store, *args], check=True,
                       stdout=subprocess.DEVNULL)

    subprocess.run([program, "init", "--id", identity, store], check=True)
    for name, objects in snapshots:
        domain = domains.get(name)
        work = tempfile.mkdtemp(dir=folder)
        paths = []
        for obj, (size, pages) in objects.items():
            paths.append(os.path.join(work, obj))
            write(paths[-1], size, pages)
        run("put", name, *paths, *(["--domain", domain] if domain else []))
        if name == "gone" and domains:
            run("gc", "--recompress=zstd")
    run("delete", "gone@1")
    run("verify")
    return store


def plain(info):
    """Nobody's file, of no time."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info if not info.name.endswith(("lock.mdb", "holds")) else None


def main():
    program, number = os.path.abspath(sys.argv[1]), sys.argv[2]
    here = os.path.dirname(os.path.abspath(__file__))
    first, second = images()
    part = {"part": first["part"]}
    snapshots = [("lab", first), ("gone", {"disk": second["disk"]}),
                 ("lab", second), ("single", part)]
    listed = [("lab@1", first), ("lab@2", second), ("single@1", part)]
    domains = {}
    if sys.argv[3:] == ["domains"]:
        domains = {"lab": "red", "gone": "red", "single": "Blue.team-2"}
        snapshots.append(("own", part))
        listed.append(("own@1", part))
    for identity in ("blake3", "sha256"):
        name = os.path.join(here, "store-%s-%s.tar.xz" % (number, identity))
        with tempfile.TemporaryDirectory() as folder:
            store = make(program, identity, folder, snapshots, domains)
            with tarfile.open(name, "w:xz", preset=9) as tar:
                tar.add(store, "store", filter=plain)
    with open(os.path.join(here, "store-%s.txt" % number), "w",
              encoding="ascii") as f:
        for name, objects in listed:
            for obj, (size, pages) in sorted(objects.items()):
                print(name, "file/" + obj, size, digest(pages), file=f)


if __name__ == "__main__":
    main()
