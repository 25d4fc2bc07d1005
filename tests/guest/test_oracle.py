#!/usr/bin/env python3
"""Tests the oracle itself, on plain QEMU and a hub of a few lines.

Undisturbed it must report no violation; and it must see each wrong that is
done to it: a lost, a doubled, a forged and an overtaking frame, a broken
connection. An oracle that sees nothing would make every other test green.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "lib"))
from hub import Hub  # noqa: E402
import oracle as orc  # noqa: E402

GUEST = os.path.join(HERE, "..", "..", "build", "guest")
UDP_PORT = (7001).to_bytes(2, "big")


def is_udp_data(frame, kind=1):
    """An oracle's UDP message: head 42 bytes into the frame, type at +6."""
    return len(frame) > 42 + 40 and frame[12:14] == b"\x08\x00" and \
        frame[23] == 17 and frame[36:38] == UDP_PORT and frame[48] == kind


class Guests:
    def __init__(self, count, extra="", disk=False):
        self.dir = tempfile.TemporaryDirectory(prefix="vn-oracle-")
        self.hub = Hub(count)
        self.processes, self.oracles = [], []
        for i in range(1, count + 1):
            self.start(i, count, extra, disk and i == 1)

    def start(self, i, count, extra, disk):
        console = os.path.join(self.dir.name, f"{i}.log")
        fd = self.hub.theirs[i - 1].fileno()
        args = [
            "qemu-system-x86_64", "-nodefaults", "-display", "none",
            "-no-reboot", "-machine", "pc,accel=tcg", "-m", "128",
            "-kernel", os.path.join(GUEST, "vmlinuz"),
            "-initrd", os.path.join(GUEST, "initrd.gz"),
            "-append", "console=ttyS0 quiet no_timer_check tsc=unstable "
            f"panic=1 oracle.id={i} oracle.peers={count} oracle.ws=8 "
            f"oracle.disk={int(disk)} {extra}",
            "-serial", f"file:{console}",
            "-netdev", f"dgram,id=n0,local.type=fd,local.str={fd}",
            "-device", f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:{i:02x}",
        ]
        if disk:
            image = os.path.join(self.dir.name, f"{i}.raw")
            with open(image, "wb") as out:
                out.truncate(16 << 20)
            args += ["-drive", f"file={image},format=raw,if=virtio"]
        self.processes.append(subprocess.Popen(args, pass_fds=[fd]))
        self.oracles.append(orc.Oracle(f"guest {i}", console, count, disk))

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.hub.close()
        self.dir.cleanup()


class Undisturbed(unittest.TestCase):
    def test_no_violation(self):
        guests = Guests(3, disk=True)
        self.addCleanup(guests.close)
        orc.wait_up(guests.oracles)
        last = orc.wait_progress(guests.oracles, messages=100)
        for name, report in last.items():
            print(name, {k: v for k, v in report.items() if v}, flush=True)


class Disturbed(unittest.TestCase):
    """One pair of guests; each test does one wrong and expects one name."""

    def wait_for(self, guest, counter, value):
        end = time.monotonic() + 300
        while time.monotonic() < end:
            reports, _ = orc.read_reports(guest.console)
            if reports and reports[-1][counter] >= value:
                return
            time.sleep(0.1)
        self.fail(f"{counter} did not reach {value}")

    def expect(self, tamper, counter):
        self.guests = Guests(2)
        self.addCleanup(self.guests.close)
        orc.wait_up(self.guests.oracles)
        self.done = False
        if counter == "tcp_reset":
            self.restart_second()
        self.guests.hub.tamper = tamper
        end = time.monotonic() + 300
        while time.monotonic() < end:
            for guest in self.guests.oracles:
                reports, trouble = orc.read_reports(guest.console)
                if reports and reports[-1][counter]:
                    self.assertTrue(trouble, "no sentence about it")
                    print(trouble[0], flush=True)
                    return
            time.sleep(0.1)
        self.fail(f"no guest counted {counter}")

    def once(self, wanted, change):
        def tamper(_source, frame):
            if not self.done and wanted(frame):
                self.done = True
                return change(frame)
            return [frame]
        return tamper

    def test_lost(self):
        self.expect(self.once(is_udp_data, lambda f: []), "udp_lost")

    def test_lost_broadcast(self):
        self.expect(self.once(lambda f: is_udp_data(f, 2), lambda f: []),
                    "bc_lost")

    def test_doubled(self):
        self.expect(self.once(is_udp_data, lambda f: [f, f]), "udp_dup")

    def test_all_lost_for_a_while(self):
        """The last of a window: nothing shows the gap but SKIP."""
        silent_until = []

        def tamper(source, frame):
            if source or not is_udp_data(frame):
                return [frame]
            if not silent_until:
                silent_until.append(time.monotonic() + 3)
            return [frame] if time.monotonic() > silent_until[0] else []
        self.expect(tamper, "udp_lost")

    def test_from_the_future(self):
        """A message that claims to have heard more than was said. The UDP
        checksum is switched off, as IPv4 allows."""
        def change(frame):
            at = 42 + 32  # `acked` of the head
            return [frame[:40] + b"\0\0" + frame[42:at] +
                    (1 << 40).to_bytes(8, "little") + frame[at + 8:]]
        self.expect(self.once(is_udp_data, change), "future")

    def test_forged(self):
        def change(frame):
            return [frame[:40] + b"\0\0" + frame[42:-1] +
                    bytes([frame[-1] ^ 1])]
        self.expect(self.once(lambda f: is_udp_data(f) and len(f) > 300,
                              change), "forged")

    def test_disk_of_another_instant(self):
        """An older record comes back, as from an older disk image."""
        guests = Guests(1, disk=True)
        self.addCleanup(guests.close)
        image = os.path.join(guests.dir.name, "1.raw")
        self.wait_for(guests.oracles[0], "disk_rec", 50)
        with open(image, "r+b") as disk:
            disk.seek(20 * 4096)
            old = disk.read(4096)
            for slot in range(21, 200):
                disk.seek(slot * 4096)
                disk.write(old)
        self.wait_for(guests.oracles[0], "disk_bad", 1)

    def test_connection_reset(self):
        """The peer is there again without its past: it answers with RST."""
        self.expect(None, "tcp_reset")

    def restart_second(self):
        self.guests.processes[1].kill()
        self.guests.processes[1].wait()
        self.guests.start(2, 2, "", False)


if __name__ == "__main__":
    if not shutil.which("qemu-system-x86_64"):
        print("skipped: no qemu-system-x86_64")
        sys.exit(77)
    subprocess.run([os.path.join(HERE, "build")], check=True)
    unittest.main(verbosity=2)
