"""vnstore's command line beside that of other programs, on the same files.

Two images of one machine: the second has a tenth of its pages changed; three
tenths are zeros. In each round each program starts with an empty repository
and keeps the first image, the same once more, and the second; then the second
is restored and compared byte by byte. The rounds go through the programs in
turn (in one order and then in the other), the images lie in the page cache,
and everything is written back to the disk before a clock starts.

A real machine gives the third group, in sizes: its disk and its memory twice
(bench_guest.py).
"""

import os
import shutil
import statistics
import sys
import time

import bench_peers

BLOCK = 4 << 20
STEPS = ("first", "same", "changed", "restore")
IMAGE = "memory.img"


def same_bytes(path, other):
    with open(path, "rb") as a, open(other, "rb") as b:
        while True:
            x, y = a.read(BLOCK), b.read(BLOCK)
            if x != y:
                return False
            if not x:
                return True


def timed(step):
    os.sync()
    begin = time.monotonic()
    step()
    return time.monotonic() - begin


def round_of(peer, images, say):
    """Seconds of each step and the size in the end."""
    say(peer.name)
    took = {}
    peer.begin()
    out = os.path.join(peer.folder, "out")
    tags = {"first": "1", "same": "2", "changed": "3"}
    folders = {"first": images[0], "same": images[0], "changed": images[1]}
    for step, tag in tags.items():
        took[step] = timed(lambda t=tag, s=step: peer.ingest(
            t, folders[s], IMAGE))
    took["size"] = peer.size()
    found = []
    took["restore"] = timed(
        lambda: found.append(peer.restore("3", IMAGE, out)))
    if not same_bytes(found[0], os.path.join(images[1], IMAGE)):
        raise bench_peers.PeerError(
            f"{peer.name}: what was restored is not what was kept")
    peer.end()
    return took


def make_images(bench_store, folder, mib):
    """Two folders with an image each, and what bench_store says of them."""
    facts = bench_store(folder, mib, 1, "images")[0]
    folders = []
    for name in ("image1", "image2"):
        folders.append(os.path.join(folder, name + ".d"))
        os.makedirs(folders[-1], exist_ok=True)
        os.replace(os.path.join(folder, name),
                   os.path.join(folders[-1], IMAGE))
    return folders, facts


def peers_here(folder):
    """(vnstore and those that are installed, names of those that are not)."""
    ours = bench_peers.Vnstore(os.path.join(folder, "vnstore"))
    here, absent = [ours], []
    for peer in bench_peers.OTHERS:
        if peer.path():
            here.append(peer(os.path.join(folder, peer.name)))
        else:
            absent.append(peer.name)
    return here, absent


def measure(folder, mib, runs, bench_store, say):
    """Yields figures as bench_store prints them."""
    images, facts = make_images(bench_store, folder, mib)
    peers, absent = peers_here(folder)
    for name in absent:
        print(f"bench: {name} is not installed: skipped", file=sys.stderr)
    seen = {peer.name: [] for peer in peers}
    for number in range(runs):
        for peer in peers if number % 2 == 0 else reversed(peers):
            seen[peer.name].append(round_of(peer, images, say))
    for path in images:
        shutil.rmtree(path)
    yield from figures(peers, seen, facts)


def figures(peers, seen, facts):
    ours, others = peers[0], peers[1:]

    def runs(peer, step):
        if step == "size":
            return [took[step] / 1e6 for took in seen[peer.name]]
        return [facts["bytes"] / took[step] / 1e6 for took in seen[peer.name]]

    def figure(name, step, against):
        return {"figure": name, "unit": "MB" if step == "size" else "MB/s",
                "value": statistics.median(runs(ours, step)),
                "runs": runs(ours, step), "yardsticks": against,
                "detail": dict(facts, programs={
                    peer.name: statistics.median(runs(peer, step))
                    for peer in peers},
                    not_synced=[p.name for p in others if not p.synced])}

    def best(step, wanted):
        """The best of them, as the only yardstick."""
        rows = [{"name": peer.name, "runs": runs(peer, step),
                 "value": statistics.median(runs(peer, step))}
                for peer in others if wanted(peer)]
        pick = min if step == "size" else max
        return [pick(rows, key=lambda row: row["value"])] if rows else []

    yield figure("program.first", "first", best("first", lambda p: True))
    for step in ("same", "changed"):
        for program in ("restic", "borg"):
            yield figure(f"program.{step}.{program}", step, best(
                step, lambda p, name=program: p.variant_of == name))
    yield figure("program.restore", "restore",
                 best("restore", lambda p: True))
    yield figure("program.size", "size", best("size", lambda p: p.lz4))


# ---- a real guest ----------------------------------------------------------


def measure_guest(folder, images, facts, say):
    """Sizes after a disk and two memory images, in that order."""
    restic = bench_peers.Restic(os.path.join(folder, "restic"))
    ours = bench_peers.Vnstore(os.path.join(folder, "vnstore"))
    names = ("disk", "memory1", "memory2")
    total = sum(os.path.getsize(os.path.join(images, n)) for n in names)
    sizes, seconds = {}, {}
    for peer in (ours, restic):
        if not peer.path():
            print(f"bench: {peer.name} is not installed: skipped",
                  file=sys.stderr)
            continue
        say(f"guest: {peer.name}")
        peer.begin()
        steps = [timed(lambda i=i, n=n: peer.ingest(str(i + 1), images, n))
                 for i, n in enumerate(names)]
        seconds[peer.name] = sum(steps)
        sizes[peer.name] = peer.size()
        out = os.path.join(peer.folder, "out")
        back = peer.restore("3", names[2], out)
        if not same_bytes(back, os.path.join(images, names[2])):
            raise bench_peers.PeerError(f"{peer.name}: the guest's memory "
                                        "came back changed")
    yard = [{"name": "restic (zstd)", "value": sizes["restic"] / 1e6}
            ] if "restic" in sizes else []

    def row(name, value, unit, against):
        return {"figure": name, "value": value, "unit": unit, "runs": [value],
                "yardsticks": against,
                "detail": dict(facts, image_bytes=total)}

    yield row("guest.size", sizes["vnstore"] / 1e6, "MB", yard)
    rates = {k: total / s / 1e6 for k, s in seconds.items()}
    yield row("guest.ingest", rates["vnstore"], "MB/s",
              [{"name": "restic", "value": rates["restic"]}] if yard else [])
    if ours.can_recompress():
        say("guest: gc --recompress zstd")
        took = timed(ours.recompress)
        line = row("guest.size.zstd", ours.size() / 1e6, "MB", yard)
        line["detail"]["recompress_s"] = took
        yield line
        out = os.path.join(ours.folder, "again")
        if not same_bytes(ours.restore("3", names[2], out),
                          os.path.join(images, names[2])):
            raise bench_peers.PeerError("recompressed memory came back "
                                        "changed")
    ours.end()
    restic.end()
