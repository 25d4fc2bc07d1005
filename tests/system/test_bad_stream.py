#!/usr/bin/env python3
"""A VM whose emulator sends a stream that is no migration stream.

A real guest, attached to over a QMP monitor in the middle that spoils the
stream. Each snapshot must fail with a sentence that names the VM, the guest
must go on, and the next snapshot, unspoilt, must succeed.
"""

import os
import random
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import bed as beds  # noqa: E402
import oracle as orc  # noqa: E402
import system_test  # noqa: E402
from qmp_proxy import QmpProxy  # noqa: E402

SEED = int(os.environ.get("VN_SEED", time.time_ns() % 1000000))


class BadStream(system_test.BedTest):
    HOSTS = 1

    @classmethod
    def set_up_network(cls):
        folder = cls.bed.dir
        console, qmp = f"{folder}/console.log", f"{folder}/qemu.sock"
        append = beds.APPEND.format(id=1, peers=1, ws=16, rate=4, mps=0,
                                    disk=0)
        cls.qemu = subprocess.Popen([
            "qemu-system-x86_64", "-nodefaults", "-display", "none",
            "-machine", "pc,accel=tcg", "-m", "128", "-kernel",
            f"{beds.GUEST}/vmlinuz", "-initrd", f"{beds.GUEST}/initrd.gz",
            "-append", append, "-serial", f"file:{console}", "-qmp",
            f"unix:{qmp},server=on,wait=off"])
        cls.addClassCleanup(cls.qemu.wait)
        cls.addClassCleanup(cls.qemu.kill)
        cls.guest = orc.Oracle("a", console, 1)
        cls.wait(lambda: cls.guest.last() and os.path.exists(qmp))
        cls.proxy = QmpProxy(qmp, f"{folder}/proxy.sock")
        cls.addClassCleanup(cls.proxy.close)
        host = cls.bed.hosts["h1"]
        cls.yaml = os.path.join(folder, "lab.yaml")
        with open(cls.yaml, "w", encoding="utf-8") as out:
            out.write(f"""name: lab
vni: 77
hosts:
  - name: h1
    agent: "unix:{host.agent_socket}"
    underlay: "{cls.bed.net.underlay(1)}"
vms:
  - name: a
    host: h1
    memory: 128M
    qmp: {cls.proxy.path}
""")
        cls.bed.vnstore("init", cls.bed.store)
        cls.bed.vnstore("up", cls.yaml)

    @staticmethod
    def wait(done, timeout_s=300):
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise AssertionError("timed out")
            time.sleep(0.1)

    def oracle_goes_on(self):
        start = self.guest.last()["mem_pages"]
        self.wait(lambda: self.guest.last()["mem_pages"] > start + 1000)
        self.guest.check(self.guest.last())

    def spoil(self, tamper, *texts):
        migrations = self.proxy.migrations
        self.proxy.tamper = tamper
        result = self.bed.vnstore("snapshot", self.yaml, check=False)
        self.proxy.tamper = None
        print(result.stderr.strip(), flush=True)
        self.assertGreater(self.proxy.migrations, migrations,
                           "the stream did not pass through the proxy")
        self.assert_fails(result, "'a'", *texts)
        self.oracle_goes_on()
        before = self.names()
        self.bed.vnstore("snapshot", self.yaml)
        self.assertEqual(len(self.names()), len(before) + 1)
        self.oracle_goes_on()
        self.assert_store_sound()

    def test_garbage_from_the_start(self):
        noise = random.Random(SEED)
        print("seed", SEED)
        self.spoil(lambda offset, data: noise.randbytes(len(data)), "at byte 0")

    def test_garbage_in_the_middle(self):
        """From 1 MiB on: sections and pages that make no sense."""
        noise = random.Random(SEED)

        def tamper(offset, data):
            good = max(0, (1 << 20) - offset)
            return data[:good] + noise.randbytes(len(data[good:]))
        self.spoil(tamper, "at byte 10")

    def test_cut_short(self):
        self.spoil(lambda offset, data: data if offset < 4 << 20 else None)


if __name__ == "__main__":
    system_test.main()
