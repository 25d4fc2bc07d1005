#!/usr/bin/env python3
"""Xen: live snapshots of real domains on one Xen host, restored on another.

Both hosts are QEMU machines that boot Debian's Xen and dom0 in software
emulation; the steps are tests/system/xen/in_dom0.py. The hosts share a disk,
one after the other: A is switched off before B starts.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import xen_host  # noqa: E402

STEP = "VN_BIN={bin} python3 /src/tests/system/xen/in_dom0.py {step}"
TIMEOUT_S = 400
ON_A = ["live", "idle", "pv", "hvm", "rebooted"]
ON_B = ["restored live@2", "restored pv@2", "exported live@2 b",
        "exported pv@1 b", "exported hvm@1 a", "tool deaf pvh",
        "tool deaths pvh", "tool rescue pvh", "tool attach pvh"]
ON_C = ["small_host idle@2"]


class Xen(unittest.TestCase):
    """In order; a host is kept for all of its steps."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="vnx-", dir="/var/tmp")
        cls.disk = os.path.join(cls.folder, "data.ext4")
        xen_host.make_disk(cls.disk)

    @classmethod
    def tearDownClass(cls):
        os.unlink(cls.disk)
        if cls.kept:
            print(f"logs: {cls.folder}", file=sys.stderr)
        else:
            shutil.rmtree(cls.folder)

    kept = False

    def run_steps(self, name, steps, **options):
        programs = os.path.realpath(os.environ["VN_BIN"])
        inside = os.path.join("/src", os.path.relpath(programs, xen_host.TOP))
        with xen_host.XenHost(os.path.join(self.folder, name), name,
                              disk=self.disk, **options) as host:
            print(f"Xen host {name}: up after {host.boot_seconds:.1f} s",
                  flush=True)
            for step in steps:
                try:
                    print(host.run(STEP.format(bin=inside, step=step),
                                   TIMEOUT_S), end="", flush=True)
                except xen_host.XenHostError:
                    type(self).kept = True
                    host.run("find /var/tmp /data -type s -delete; "
                             "cp -r /var/tmp/vnb-* /var/tmp/tool-* /var/log/xen "
                             "/share; "
                             "xl dmesg >/share/xl-dmesg", check=False)
                    raise
            host.run("umount /data")

    def test_1_host_a(self):
        self.run_steps("xa", ON_A)

    def test_2_host_b(self):
        self.run_steps("xb", ON_B)

    def test_3_small_host(self):
        self.run_steps("xc", ON_C, cpu=",-avx2")


def main():
    if not shutil.which("qemu-system-x86_64"):
        print("skipped: no qemu-system-x86_64")
        sys.exit(77)
    top = xen_host.TOP
    subprocess.run([os.path.join(top, "tests", "guest", "build")], check=True)
    xen_host.build()
    unittest.main(verbosity=2, failfast=True)


if __name__ == "__main__":
    main()
