"""A Xen host inside QEMU's software emulation: dom0 from tests/system/xen,
booted in seconds, with a channel to run commands in it.

    with XenHost(folder, name="xa") as host:
        host.run("xl info")

The source tree is mounted read-only at /src in dom0 and `folder` at /share;
what a command prints lies in /share as well. As a program:

    tests/lib/xen_host.py [--hosts 2] COMMAND     run it in dom0 (of the first)

Three settings without which software emulation fails: no SMAP (it faults
IRETs of PV guests), no RDTSCP (PVH guests die), Xen's eager-fpu (vector
registers get lost).
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.realpath(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
IMAGES = os.path.join(TOP, "build", "xen")
BOOT_TIMEOUT_S = 300


class XenHostError(Exception):
    """The host did not come up, or a command in it failed."""


def make_disk(path, size_gb=4):
    """A file for XenHost(disk=...)."""
    with open(path, "wb") as out:
        out.truncate(size_gb << 30)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-F", "-E",
                    "lazy_itable_init=1,lazy_journal_init=1", path],
                   check=True)


def build():
    subprocess.run([os.path.join(TOP, "tests", "system", "xen", "build")],
                   check=True)


class Command:
    """One that runs in dom0; wait() yields its exit code."""

    def __init__(self, host, number, log):
        self.host, self.number, self.log = host, number, log
        self.done = threading.Event()
        self.code = None
        self.seconds = None

    def output(self):
        with open(os.path.join(self.host.folder, self.log),
                  encoding="utf-8", errors="replace") as text:
            return text.read()

    def wait(self, timeout_s):
        deadline = time.monotonic() + timeout_s
        while not self.done.wait(0.2):
            self.host.check_alive()
            if time.monotonic() > deadline:
                self.host.send({"kill": self.number})
                raise XenHostError(f"{self.host.name}: no end after "
                                   f"{timeout_s} s:\n{self.output()[-2000:]}")
        return self.code


class XenHost:
    """memory_mb: of the machine; dom0_mb: of dom0. disk: a file with a file
    system, /data in dom0, for what outlives a host. link: a unix socket path
    that joins two hosts, one with listen=True. cpu: what the machine's CPUs
    lack, such as ",-avx2"."""

    # pylint: disable=too-many-arguments,too-many-instance-attributes
    def __init__(self, folder, name="xen", memory_mb=2048, dom0_mb=1024,
                 disk=None, link=None, listen=False, cpus=2, cpu=""):
        self.name = name
        self.folder = os.path.abspath(folder)
        self.memory_mb, self.dom0_mb, self.cpus = memory_mb, dom0_mb, cpus
        self.disk, self.link, self.listen = disk, link, listen
        self.cpu = cpu
        self.process = self.channel = None
        self.commands = {}
        self.ready = threading.Event()
        self.lock = threading.Lock()

    def _arguments(self, socket_path):
        append = (f"dom0_mem={self.dom0_mb}M,max:{self.dom0_mb}M "
                  "dom0_max_vcpus=1 dom0_vcpus_pin console=com1 com1=115200,8n1 loglvl=all "
                  "guest_loglvl=all noreboot spec-ctrl=eager-fpu")
        args = ["qemu-system-x86_64", "-machine", "q35,accel=tcg",
                "-cpu", "max,-smap,-rdtscp" + self.cpu, "-m", str(self.memory_mb),
                "-smp", str(self.cpus), "-nodefaults", "-no-reboot",
                "-display", "none", "-serial",
                "file:" + os.path.join(self.folder, "console.log"),
                "-kernel", os.path.join(IMAGES, "xen"), "-append", append,
                "-initrd", f"{IMAGES}/vmlinuz console=hvc0 loglevel=4 "
                f"hostname={self.name},{IMAGES}/initrd.gz",
                "-drive", f"file={IMAGES}/dom0.ext4,if=none,id=d0,format=raw,"
                "snapshot=on,file.locking=off",
                "-device", "virtio-blk-pci,drive=d0",
                "-device", "virtio-serial-pci",
                "-chardev", f"socket,id=c0,path={socket_path}",
                "-device", "virtserialport,chardev=c0,name=command",
                "-virtfs", f"local,path={TOP},mount_tag=src,readonly=on,"
                "security_model=none,multidevs=remap",
                "-virtfs", f"local,path={self.folder},mount_tag=share,"
                "security_model=none,multidevs=remap"]
        if self.disk:
            args += ["-drive", f"file={self.disk},if=none,id=d1,format=raw,"
                     "cache=unsafe", "-device", "virtio-blk-pci,drive=d1"]
        if self.link:
            args += ["-netdev", "stream,id=n0,addr.type=unix,server="
                     f"{'on' if self.listen else 'off'},"
                     f"addr.path={self.link}",
                     "-device", "virtio-net-pci,netdev=n0,host_mtu=9000,"
                     f"romfile=,mac=52:54:00:00:00:0{1 + self.listen}"]
        return args

    def __enter__(self):
        begin = time.monotonic()
        os.makedirs(self.folder, exist_ok=True)
        # A socket's path is short whatever the folder's is.
        with tempfile.TemporaryDirectory(prefix="vnx-") as short:
            path = os.path.join(short, "c")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(1)
            listener.settimeout(60)
            with open(os.path.join(self.folder, "qemu.log"), "wb") as log:
                self.process = subprocess.Popen(
                    self._arguments(path), stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log)
            try:
                self.channel, _ = listener.accept()
            except OSError as why:
                self.__exit__()
                raise XenHostError(f"{self.name}: QEMU did not start; see "
                                   f"{self.folder}/qemu.log") from why
            finally:
                listener.close()
        threading.Thread(target=self._receive, daemon=True).start()
        while not self.ready.wait(0.2):
            try:
                self.check_alive()
            except XenHostError:
                self.__exit__()
                raise
            if time.monotonic() - begin > BOOT_TIMEOUT_S:
                self.__exit__()
                raise XenHostError(f"{self.name}: dom0 is not up after "
                                   f"{BOOT_TIMEOUT_S} s; see "
                                   f"{self.folder}/console.log")
        self.boot_seconds = time.monotonic() - begin
        return self

    def __exit__(self, *_):
        """As a machine that loses its power."""
        if self.channel:
            self.channel.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def kill(self):
        self.__exit__()

    def check_alive(self):
        if self.process.poll() is not None:
            raise XenHostError(f"{self.name}: QEMU ended; see "
                               f"{self.folder}/qemu.log and console.log")

    def _receive(self):
        pending = b""
        while True:
            try:
                data = self.channel.recv(65536)
            except OSError:
                return
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if message.get("ready"):
                    self.ready.set()
                    continue
                command = self.commands.pop(message["id"])
                command.code = message["code"]
                command.seconds = message["seconds"]
                command.done.set()

    def send(self, message):
        with self.lock:
            self.channel.sendall((json.dumps(message) + "\n").encode())

    def start(self, command):
        """Begin a command (a line for bash); returns a Command."""
        number = str(time.monotonic_ns())
        handle = Command(self, number, f"command-{number}.log")
        self.commands[number] = handle
        self.send({"id": number, "command": command, "log": handle.log})
        return handle

    def run(self, command, timeout_s=120, check=True):
        """Run a command to its end; its output."""
        handle = self.start(command)
        code = handle.wait(timeout_s)
        text = handle.output()
        if check and code != 0:
            raise XenHostError(f"{self.name}: '{command}' failed ({code}):\n"
                               f"{text[-4000:]}")
        return text


def main():
    parser = argparse.ArgumentParser(
        description="Boot Xen in QEMU and run a command in dom0.")
    parser.add_argument("--hosts", type=int, choices=(1, 2), default=1,
                        help="two are joined by a network (eth0 in dom0)")
    parser.add_argument("--folder", help="kept; /share in dom0 (xa, xb)")
    parser.add_argument("--timeout", type=int, default=600)
    parser.add_argument("--memory", type=int, default=2048)
    parser.add_argument("--dom0", type=int, default=1024)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--cpu", default="", help="such as ,-avx2")
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    build()
    folder = args.folder or tempfile.mkdtemp(prefix="vnx-")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    opts = {"memory_mb": args.memory, "dom0_mb": args.dom0, "cpus": args.cpus,
            "cpu": args.cpu}
    link = os.path.join(folder, "link") if args.hosts == 2 else None
    with contextlib.ExitStack() as stack:
        # The last one connects to the first one's socket.
        for name in ("xb", "xa")[2 - args.hosts:]:
            host = stack.enter_context(
                XenHost(os.path.join(folder, name), name, link=link,
                        listen=name == "xb", **opts))
            print(f"{name}: up after {host.boot_seconds:.1f} s, "
                  f"folder {host.folder}", flush=True)
        command = host.start(" ".join(args.command))
        code = command.wait(args.timeout)
        print(command.output(), end="")
        print(f"exit code {code} after {command.seconds:.1f} s")
    if not args.folder:
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
