#!/usr/bin/env python3
"""A VM that somebody else started: attached to over its monitor, joined to the
switch by unix sockets, snapshotted with one of ours, let go, restored."""

import json
import os
import socket
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import bed as beds  # noqa: E402
import oracle as orc  # noqa: E402
import system_test  # noqa: E402

MAC = "52:54:00:77:00:01"


class Attach(system_test.BedTest):
    VMS = {"a": "h1", "b": "h2"}
    OPTS = {**system_test.BedTest.OPTS, "disk": False}
    UP = False

    @classmethod
    def path(cls, name):
        return os.path.join(cls.bed.dir, name)

    @classmethod
    def start_theirs(cls):
        append = beds.APPEND.format(id=1, disk=0, **{
            k: {"peers": 2, **cls.OPTS}[k]
            for k in ("peers", "ws", "rate", "mps")})
        args = ["qemu-system-x86_64", "-nodefaults", "-display", "none",
                "-name", "theirs", "-machine", "pc", "-cpu", "qemu64",
                "-m", cls.OPTS["memory"],
                "-kernel", f"{beds.GUEST}/vmlinuz",
                "-initrd", f"{beds.GUEST}/initrd.gz", "-append", append,
                "-serial", f"file:{cls.path('theirs.log')}",
                "-qmp", f"unix:{cls.path('theirs.qmp')},server=on,wait=off",
                "-netdev", "dgram,id=net0,local.type=unix,"
                f"local.path={cls.path('vm.sock')},remote.type=unix,"
                f"remote.path={cls.path('switch.sock')}",
                "-device", f"virtio-net-pci,netdev=net0,mac={MAC},id=nic0,"
                "addr=0x14,romfile="]
        process = subprocess.Popen(args, stdin=subprocess.DEVNULL)
        cls.bed.processes.append(process)
        return process

    @classmethod
    def set_up_network(cls):
        cls.theirs = cls.start_theirs()
        cls.yaml = cls.bed.write_vne(cls.VMS, opts=cls.OPTS)
        with open(cls.yaml, encoding="utf-8") as file:
            text = file.read().replace(
                f'      - mac: "{MAC}"',
                f'      - mac: "{MAC}"\n        unix: {{local: '
                f'{cls.path("vm.sock")}, remote: {cls.path("switch.sock")}}}\n'
                f'    qmp: {cls.path("theirs.qmp")}')
        with open(cls.yaml, "w", encoding="utf-8") as file:
            file.write(text)
        cls.bed.vnstore("init", cls.bed.store)

    def status_of_theirs(self):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.path("theirs.qmp"))
            monitor = s.makefile("rw", encoding="utf-8")
            monitor.readline()
            for command in ("qmp_capabilities", "query-status"):
                monitor.write(json.dumps({"execute": command}) + "\n")
                monitor.flush()
                reply = json.loads(monitor.readline())
                while "return" not in reply:
                    reply = json.loads(monitor.readline())
        return reply["return"]["status"]

    def test_attached_snapshotted_let_go_restored(self):
        end = time.monotonic() + 120
        while not os.path.exists(self.path("theirs.qmp")):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)
        self.bed.vnstore("up", self.yaml)
        b = self.oracles()[1]
        mixed = [orc.Oracle("a", self.path("theirs.log"), 2, False), b]
        orc.wait_up(mixed)
        orc.wait_progress(mixed, 20)
        cut = self.bed.snapshot(self.yaml)["cut"]
        self.assertTrue(cut["lossless"], cut)
        self.assertEqual([vm["mode"] for vm in cut["vms"]], ["cow", "cow"])
        orc.wait_progress(mixed, 20)
        self.bed.vnstore("down", self.yaml)
        self.assertIsNone(self.theirs.poll(), "down ended a VM of others")
        self.assertEqual(self.status_of_theirs(), "running")
        self.theirs.kill()
        self.bed.put_consoles_aside()
        self.bed.vnstore("restore", "lab@1", "--to-hosts", "h2")
        restored = self.bed.oracles({"a": "h2", "b": "h2"}, disk=False)
        orc.wait_progress(restored, 20)
        self.assert_store_sound()


if __name__ == "__main__":
    system_test.main()
