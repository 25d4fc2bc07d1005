"""A snapshot's tar with given objects, for tests."""

import hashlib
import json
import tarfile


def write(path, objects, name="t@1"):
    """objects: [(name, content)] in byte order of names."""
    root = "00000000000000000000000000000001"
    manifest = json.dumps({
        "format": 1, "id": root, "name": name, "kind": "vne", "meta": {},
        "created": "2026-01-31T12:00:00Z",
        "objects": {n: {"size": len(c), "root": root} for n, c in objects},
    }).encode()
    members = [("manifest.json", manifest)] + objects
    sums = b"".join(hashlib.sha256(c).hexdigest().encode() + b"  " +
                    n.encode() + b"\n" for n, c in members)
    with open(path, "wb") as out:
        for member, content in members + [("SHA256SUMS", sums)]:
            info = tarfile.TarInfo(name + "/" + member)
            info.size = len(content)
            out.write(info.tobuf(tarfile.PAX_FORMAT))
            out.write(content + bytes(-len(content) % 512))
        out.write(bytes(10240))
