"""Tars that vnstore import must refuse, and one that it must take.

hostile_tars.py DIR writes DIR/*.tar and DIR/refused.txt, a line
"<tar> TAB <words that the error must contain>" for each.
"""

import hashlib
import json
import os
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


def main():
    """Write all."""
    folder = sys.argv[1]
    os.mkdir(folder)
    good = whole([("file/a", b"hello\n"), ("file/b", b"")])
    write(os.path.join(folder, "good.tar"), good)
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


main()
