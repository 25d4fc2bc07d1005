"""Images of a real machine: a Debian guest at work, its disk and its memory
twice, two minutes apart.

The guest boots in QEMU (software emulation, which works anywhere) with 1 GiB
of RAM from the disk of the Xen test bed (tests/system/xen/build), under
Debian's kernel without Xen. Its first process is WORK, below: it reads much of
the system through the page cache, keeps what Python made of modules in its
heap, packs and unpacks trees of files, and goes on with that. At "bench: warm"
on the console the guest is stopped, memory and disk are copied, and it runs
on; two minutes later its memory is copied again. facts() says what came of it.

The images are kept (build/perf/guest: disk, memory1, memory2): making them
takes minutes, and the figures are then of the same bytes each time.
"""

import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time

TOP = os.path.realpath(os.path.join(os.path.dirname(
    os.path.abspath(__file__)), "..", ".."))
BED = os.path.join(TOP, "build", "xen")
MEMORY = 1 << 30
APART_S = 120
WARM_TIMEOUT_S = 420
IMAGES = ("disk", "memory1", "memory2")

INIT = """#!/bin/sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in crc32c_generic virtio_pci virtio_blk ext4; do
    modprobe $module
done
while [ ! -b /dev/vda ]; do sleep 0.05; done
mount -t ext4 /dev/vda /newroot || exec sh
cp /work /newroot/work
for dir in dev sys proc; do mount --move /$dir /newroot/$dir; done
exec switch_root /newroot /usr/bin/python3 /work
"""

WORK = '''
import ast, glob, hashlib, os, subprocess, sys
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
console = os.open("/dev/console", os.O_WRONLY)
def say(text):
    os.write(console, ("bench: " + text + "\\n").encode())
def run(command):
    subprocess.run(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=console)
heap = {}
def learn(path):
    with open(path, "rb") as file:
        data = file.read()
    heap[path] = (hashlib.sha256(data).hexdigest(),
                  [line.split() for line in data.splitlines()],
                  data.decode("latin1").split())
    try:
        heap[path] += (ast.dump(ast.parse(data)),)
    except (SyntaxError, ValueError):
        pass
modules = sorted(glob.glob("/usr/lib/python3*/**/*.py", recursive=True))
run("mkdir -p /srv/bench /tmp; mount -t tmpfs -o size=96M tmp /tmp")
say("reading")
run("cat /usr/bin/* >/dev/null; "
    "find /usr -type f -size -400k | head -2000 | xargs sha256sum >/tmp/sums")
for number, path in enumerate(modules[:700]):
    learn(path)
say("writing")
run("cd /srv/bench && "
    "busybox tar -cf - -C / usr/bin | busybox gzip -1 >bin.tgz && "
    "busybox tar -cf first.tar -C / usr/lib/python3.11 && "
    "mkdir first && busybox tar -xf first.tar -C first && "
    "sync")
say("warm")
turn = 0
while True:
    turn += 1
    for path in modules[turn % 97::97][:6]:
        learn(path)
    if turn % 2 == 0:
        heap.pop(next(iter(heap)))
    run("cd /srv/bench && rm -rf second && mkdir second && "
        "busybox tar -cf - -C / $(cd / && echo usr/lib/python3*/[a-%c]*.py) | "
        "busybox tar -xf - -C second"
        % (98 + turn % 20))
    with open("/srv/bench/log", "a") as log:
        log.write("turn %d: %d in the heap\\n" % (turn, len(heap)))
'''


class GuestError(Exception):
    """The guest did not come up or could not be copied."""


def is_there(folder):
    return all(os.path.exists(os.path.join(folder, name)) for name in IMAGES)


def facts(folder):
    """What kind of machine the images are of, in percent of memory's pages."""
    def digests(name):
        with open(os.path.join(folder, name), "rb") as file:
            while page := file.read(4096):
                yield hashlib.blake2b(page, digest_size=16).digest()

    zero = hashlib.blake2b(bytes(4096), digest_size=16).digest()
    disk = set(digests("disk")) - {zero}
    first, second = (list(digests(name)) for name in IMAGES[1:])

    def percent(count):
        return round(100 * count / len(second), 1)

    return {"zero_percent": percent(second.count(zero)),
            "on_disk_percent": percent(sum(page in disk for page in second)),
            "same_place_percent": percent(sum(
                a == b for a, b in zip(first, second)))}


def cpio(files):
    """A newc archive of regular files: {name: bytes}."""
    out = bytearray()
    for number, (name, data) in enumerate([*files.items(),
                                           ("TRAILER!!!", b"")]):
        head = [number + 1, 0o100755 if data else 0, 0, 0, 1, 0, len(data), 0,
                0, 0, 0, len(name) + 1, 0]
        out += b"070701" + b"".join(b"%08X" % field for field in head)
        out += name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


class Monitor:
    """QMP, as far as it is needed here."""

    def __init__(self, path, process):
        deadline = time.monotonic() + 30
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise GuestError("QEMU did not start") from None
                time.sleep(0.05)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.call("qmp_capabilities")

    def call(self, command, **arguments):
        self.file.write(json.dumps({"execute": command,
                                    "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise GuestError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def wait_warm(console, process, say):
    deadline = time.monotonic() + WARM_TIMEOUT_S
    seen = ""
    while "bench: warm" not in seen:
        if process.poll() is not None or time.monotonic() > deadline:
            raise GuestError("the guest did not get warm; its console: "
                             + seen[-800:])
        time.sleep(1)
        with open(console, encoding="utf-8", errors="replace") as file:
            seen = file.read()
        marks = [x for x in seen.splitlines() if x.startswith("bench: ")]
        say("guest: " + (marks[-1][7:] if marks else "booting"))


def take(monitor, process, work, say):
    wait_warm(os.path.join(work, "console"), process, say)
    monitor.call("stop")
    begin = time.monotonic()
    monitor.call("pmemsave", val=0, size=MEMORY,
                 filename=os.path.join(work, "memory1"))
    subprocess.run(["cp", "--sparse=always", os.path.join(work, "vda"),
                    os.path.join(work, "disk")], check=True)
    monitor.call("cont")
    while time.monotonic() < begin + APART_S:
        say(f"guest: working, {begin + APART_S - time.monotonic():.0f} s left")
        if process.poll() is not None:
            raise GuestError("the guest died at work")
        time.sleep(1)
    monitor.call("stop")
    monitor.call("pmemsave", val=0, size=MEMORY,
                 filename=os.path.join(work, "memory2"))


def start(work):
    with open(os.path.join(work, "initrd"), "wb") as out:
        with open(os.path.join(BED, "initrd.gz"), "rb") as bed:
            data = bed.read()
        out.write(data + b"\0" * (-len(data) % 4))
        # A second archive replaces files of the first.
        out.write(gzip.compress(cpio({"init": INIT.encode(),
                                      "work": WORK.encode()})))
    return subprocess.Popen(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", str(MEMORY >> 20),
         "-nodefaults", "-display", "none", "-no-reboot",
         "-kernel", os.path.join(BED, "vmlinuz"),
         "-initrd", os.path.join(work, "initrd"),
         "-append", "console=ttyS0 quiet no_timer_check tsc=unstable panic=1",
         "-serial", "file:" + os.path.join(work, "console"),
         "-drive", f"file={work}/vda,format=raw,if=virtio,cache=unsafe",
         "-qmp", f"unix:{work}/qmp,server=on,wait=off"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def make(folder, say):
    """Make the images, unless they are there."""
    if is_there(folder):
        return
    say("guest: the bed")
    subprocess.run([os.path.join(TOP, "tests", "system", "xen", "build"), BED],
                   check=True, stdout=subprocess.DEVNULL)
    work = folder + ".new"
    shutil.rmtree(work, ignore_errors=True)
    os.makedirs(work)
    subprocess.run(["cp", "--sparse=always", os.path.join(BED, "dom0.ext4"),
                    os.path.join(work, "vda")], check=True)
    process = start(work)
    try:
        take(Monitor(os.path.join(work, "qmp"), process), process, work, say)
    finally:
        process.kill()
        process.wait()
    for name in ("vda", "qmp", "initrd"):
        os.unlink(os.path.join(work, name))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(work, folder)
