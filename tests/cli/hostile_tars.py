"""Tars that vnstore import must refuse, and one that it must take.

hostile_tars.py DIR writes DIR/*.tar and DIR/refused.txt, a line
"<tar> TAB <words that the error must contain>" for each.
"""

import hashlib
import json
import os
import struct
import sys
import tarfile

ROOT = "00000000000000000000000000000001"


def manifest(objects, **changes):
    """manifest.json of t@1; objects: name -> size."""
    document = {
        "format": 1,
        "id": ROOT,
        "name": "t@1",
        "created": "2026-01-31T12:00:00Z",
        "kind": "files",
        "objects": {n: {"size": s, "root": ROOT if s else ROOT.replace("1", "0")}
                    for n, s in objects.items()},
        "meta": {},
    }
    document.update(changes)
    return json.dumps(document).encode()


def sums(members):
    """SHA256SUMS of [(name, content)]."""
    return b"".join(
        hashlib.sha256(c).hexdigest().encode() + b"  " + n.encode() + b"\n"
        for n, c in members
    )


def plain(name, content):
    """A tar member that is a file."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name, kind, link=""):
    """A tar member that is no file."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info, b""


def write(path, members):
    """Write [(TarInfo, content)]; content may be shorter than the size."""
    with open(path, "wb") as out:
        for info, content in members:
            out.write(info.tobuf(tarfile.PAX_FORMAT))
            out.write(content + bytes(-len(content) % 512))
        out.write(bytes(10240))


def whole(objects, document=None, listed=None):
    """The members of a tar of these objects, in order."""
    files = [("manifest.json", document or manifest(
        {n: len(c) for n, c in objects}))] + objects
    members = [plain("t@1/" + n, c) for n, c in files]
    members.append(plain("t@1/SHA256SUMS", listed or sums(files)))
    return members


def sparse(name, runs, real_size, data):
    """A member in GNU sparse format 1.0, with any list of runs."""
    text = "".join("%d\n%d\n" % run for run in runs)
    table = ("%d\n" % len(runs) + text).encode()
    body = table + bytes(-len(table) % 512) + data
    info, _ = plain("t@1/GNUSparseFile.0/x", body)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "t@1/" + name,
        "GNU.sparse.realsize": str(real_size),
    }
    return info, body


def sized(name, field, content=b""):
    """A member whose size field has these 12 bytes."""
    info, _ = plain(name, content)
    head = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    head[124:136] = field
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return Raw(bytes(head)), content


def override(name, content, **records):
    """A member with a PAX header that says other things."""
    info, content = plain(name, content)
    info.pax_headers = dict(records)
    return info, content


def extension(kind, text):
    """A header of GNU tar's or PAX that speaks for the next member."""
    info = tarfile.TarInfo("././@LongLink")
    info.type = kind
    info.size = len(text)
    return info, text


class Raw:
    """A header as it is."""

    def __init__(self, data):
        self.data = data

    def tobuf(self, _):
        """As of TarInfo."""
        return self.data


def old_sparse(name, entries, real_size, data):
    """A member of GNU tar's oldest sparse format."""
    info, _ = plain("t@1/" + name, data)
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:482] = b"".join(b"%011o\0%011o\0" % e for e in entries).ljust(
        96, b"\0")
    head[482] = 0
    head[483:495] = b"%011o\0" % real_size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return Raw(bytes(head)), data


def overrides(a, head, data, end):
    """Sizes and names that are said twice, or in another way."""
    member = "t@1/file/a"
    negative = b"\xff" * 4 + struct.pack(">q", -6)
    huge = b"\x80\0\0\0" + struct.pack(">q", 1 << 62)
    wide = b"\x80" + b"\x7f" * 11
    for name, field in (("negative", negative), ("huge", huge), ("wide", wide),
                        ("minus", b"-0000000006\0"), ("letters", b"six bytes\0\0\0")):
        yield "size-" + name, "", [head, sized(member, field, a[1]), end]
        yield "size-first-" + name, "", [
            sized("t@1/manifest.json", field, head[1]), data, end]
    for size in ("-6", "9223372036854775807", "99999999999999999999", "7", "x"):
        yield "pax-size-" + size, "", [
            head, override(member, a[1], size=size), end]
    for name, path in (("dotdot", "t@1/../vnstore-evil"),
                       ("absolute", "/vnstore-evil"),
                       ("other", "t@1/file/b")):
        yield "pax-path-" + name, "", [
            head, override(member, a[1], path=path), end]
    yield "pax-link", "", [
        head, override(member, a[1], linkpath="/etc/passwd"),
        special("t@1/file/a", tarfile.SYMTYPE), end]
    yield "gnu-long-name", "'..'", [
        head, extension(tarfile.GNUTYPE_LONGNAME, b"t@1/../vnstore-evil\0"),
        data, end]
    yield "gnu-long-link", "plain file", [
        head, extension(tarfile.GNUTYPE_LONGLINK, b"/etc/passwd\0"),
        special("t@1/file/a", tarfile.SYMTYPE), end]


def shapes(a, head, data, end):
    """Sparse members, kinds, ends."""
    big = plain("t@1/manifest.json", manifest({"file/a": 65536}))
    for name, runs in (
        ("descend", [(8192, 4096), (4096, 4096)]),
        ("same", [(4096, 4096), (4096, 4096)]),
        ("past-size", [(61440, 8192)]),
        ("negative", [(-4096, 4096), (8192, 4096)]),
        ("wraps", [((1 << 63) - 4096, 8192)]),
        ("many", [(i * 4096, 1) for i in range(16)]),
    ):
        yield "runs-" + name, "", [
            big, sparse("file/a", runs, 65536, bytes(8192)), end]
    for size in (-1, 1 << 62, 65537):
        yield "real-size%d" % size, "", [
            big, sparse("file/a", [(0, 4096)], size, bytes(4096)), end]
    yield "runs-old", "", [
        big, old_sparse("file/a", [(8192, 512), (4096, 512)], 65536,
                        bytes(1024)), end]
    yield "runs-old-huge", "", [
        big, old_sparse("file/a", [(0, 512), (0o77777777000, 512)], 65536,
                        bytes(1024)), end]
    for name, kind in (("fifo", tarfile.FIFOTYPE), ("block", tarfile.BLKTYPE),
                       ("gnu-volume", b"V"), ("gnu-multi", b"M")):
        yield "kind-" + name, "", [head, special("t@1/file/a", kind), end]
    yield "dot", "", [head, plain("t@1/./file/a", a[1]), end]
    yield "empty-part", "", [head, plain("t@1//file/a", a[1]), end]
    yield "bomb", "at most", whole(
        [a], document=manifest({"file/a": 1 << 46}))
    yield "objects", "", whole(
        [a], document=manifest({"f%d" % i: 0 for i in range(65537)}))
    yield "double-key", "manifest.json", whole(
        [a], document=manifest({"file/a": 6})[:-1] + b',"name":"u@1"}')
    yield "below", "", whole(
        [a], document=manifest({"file/a": 6, "file/a/b": 6}))


def increments(a):
    """Incremental ones, with a base that is not here, or is nonsense."""
    for name, words, since in (
        ("base", "based on", {"name": "t@0", "sums": {}}),
        ("none", "since", None),
        ("text", "since", "t@0"),
        ("no-sums", "since", {"name": "t@0"}),
        ("odd-sums", "since", {"name": "t@0", "sums": [1]}),
        ("path", "", {"name": "../../t", "sums": {"file/a": "0" * 64}}),
    ):
        yield "since-" + name, words, whole(
            [a], document=manifest({"file/a": 6}, format=2, since=since))
    yield "since-format-1", "since", whole(
        [a], document=manifest({"file/a": 6}, since={"name": "t@0",
                                                     "sums": {}}))


def cases():
    """Yield (tar, words of the error, members)."""
    a = ("file/a", b"hello\n")
    good = whole([a])
    head, data, end = good
    yield "dotdot", "'..'", [
        head, plain("t@1/../vnstore-evil", b"x"), data, end]
    yield "dotdot-object", "", whole(
        [("file/../../vnstore-evil", b"x")])
    yield "absolute", "/vnstore-evil", [
        head, plain("/vnstore-evil", b"x"), data, end]
    yield "absolute-object", "", whole([("/vnstore-evil", b"x")])
    yield "symlink", "plain file", [
        head, special("t@1/file/a", tarfile.SYMTYPE, "/etc/passwd"), end]
    yield "hardlink", "plain file", [
        head, special("t@1/file/a", tarfile.LNKTYPE, "/etc/passwd"), end]
    yield "device", "plain file", [
        head, special("t@1/file/a", tarfile.CHRTYPE), end]
    yield "directory", "plain file", [
        head, special("t@1/file", tarfile.DIRTYPE), data, end]
    yield "twice", "twice", [head, data, data, end]
    yield "two-manifests", "reserved", [head, head, data, end]
    yield "unknown", "file/b", [head, data, plain("t@1/file/b", b"x"), end]
    yield "elsewhere", "below", [head, data, plain("u@1/file/b", b"x"), end]
    yield "missing", "'file/a' is missing", [head, end]
    yield "no-sums", "SHA256SUMS", [head, data]
    yield "after-sums", "after", [head, data, end, plain("t@1/x", b"x")]
    yield "no-manifest", "manifest.json", [data, end]
    yield "wrong-sum", "file/a", [head, plain("t@1/file/a", b"hallo\n"), end]
    yield "wrong-size", "7 bytes", [
        head, plain("t@1/file/a", b"hello!\n"), end]
    yield "bad-sums", "SHA256SUMS", whole([a], listed=b"what is this\n")
    yield "extra-sum", "file/b", whole(
        [a], listed=sums([("manifest.json", head[1]), a, ("file/b", b"")]))
    yield "no-json", "manifest.json", whole([a], document=b"{\"format\": 1,")
    yield "newer", "", whole([a], document=manifest({"file/a": 6}, format=99))
    yield "bad-name", "", whole(
        [a], document=manifest({"file/a": 6}, name="../../vnstore-evil"))
    yield "control-name", "", whole(
        [a], document=manifest({"file/a": 6}, name="\x1b[2Jt@1"))
    yield "deep-json", "manifest.json", whole(
        [a], document=b"[" * 100000 + b"]" * 100000)
    giant = 9 << 60
    yield "giant", "", whole([a], document=manifest({"file/a": giant}))
    info, _ = plain("t@1/file/a", b"")
    info.size = 7 << 60
    yield "giant-member", "", [head, (info, b"hello\n"), end]
    info, _ = plain("t@1/manifest.json", b"")
    info.size = 65 << 20
    yield "giant-manifest", "manifest.json", [(info, b"{}")]
    for name, runs in (
        ("sparse-past-end", [(0, 4096), (1 << 40, 4096)]),
        ("sparse-overlap", [(4096, 4096), (0, 4096)]),
        ("sparse-huge", [(0, 4096), (4096, 1 << 62)]),
    ):
        big = manifest({"file/a": 65536})
        yield name, "", [
            plain("t@1/manifest.json", big),
            sparse("file/a", runs, 65536, bytes(8192)), end]


    yield from overrides(a, head, data, end)
    yield from shapes(a, head, data, end)
    yield from increments(a)


def main():
    """Write all."""
    folder = sys.argv[1]
    os.mkdir(folder)
    good = whole([("file/a", b"hello\n"), ("file/b", b"")])
    write(os.path.join(folder, "good.tar"), good)
    # Names that differ by case only are different names.
    write(os.path.join(folder, "names.tar"), whole(
        [("file/A", b"1"), ("file/a", b"2"), ("file/\u00e9", b"3")]))
    with open(os.path.join(folder, "refused.txt"), "w") as lines:
        for name, words, members in cases():
            write(os.path.join(folder, name + ".tar"), members)
            lines.write("%s.tar\t%s\n" % (name, words))
        with open(os.path.join(folder, "good.tar"), "rb") as tar:
            content = tar.read()
        for name, part in (
            ("cut-header", content[:700]),
            ("cut-data", content[:1536 + 3]),
            ("cut-sums", content[: len(content) - 10240 - 512]),
            ("nothing", b""),
            ("noise", hashlib.sha256(b"noise").digest() * 500),
        ):
            with open(os.path.join(folder, name + ".tar"), "wb") as tar:
                tar.write(part)
            lines.write("%s.tar\t\n" % name)
        for size in range(0, len(content) - 10240, 512):
            with open(os.path.join(folder, "cut-%d.tar" % size), "wb") as tar:
                tar.write(content[:size])
            lines.write("cut-%d.tar\t\n" % size)
        for name, tail in (("tail", b"more"), ("tail-tar", content),
                           ("tail-far", bytes(300000) + b"more")):
            with open(os.path.join(folder, name + ".tar"), "wb") as tar:
                tar.write(content + tail)
            lines.write("%s.tar\tafter its end\n" % name)


main()
