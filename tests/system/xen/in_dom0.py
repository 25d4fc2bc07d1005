#!/usr/bin/env python3
"""What test_xen.py has done in dom0: one step a call, each prints its facts
and fails on the first thing that is not as it must be.

    in_dom0.py live        3 PVH domains: two snapshots under load, exported
    in_dom0.py restore TYPE   on another Xen host: import, restore, go on
    ...

State between steps of one host lies in STATE (dom0's own disk).
"""

import json
import os
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "..", "lib"))
import oracle as orc  # noqa: E402
from bed import BIN, Bed, BedError, Loopback  # noqa: E402

SHARE = "/share"
MEMORY = "112M"
MESSAGES = 40
TOOL = os.path.join(BIN, "xen_tool")


def say(text):
    print(text, flush=True)


def sh(command, check=True, timeout=120):
    result = subprocess.run(["bash", "-c", command], text=True, check=False,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            timeout=timeout)
    if check and result.returncode:
        raise BedError(f"'{command}': exit {result.returncode}: "
                       f"{result.stdout[-2000:]}")
    return result.stdout


class Network:
    """A VNE of Xen domains on this host."""

    def __init__(self, kind, vms="abc", disk=False, **opts):
        self.bed = Bed(hosts=1, net=Loopback, keep=True)
        self.kind = kind
        self.vms = {vm: "h1" for vm in vms}
        self.disk = disk
        self.opts = {"memory": MEMORY, "ws": 4, "rate": 1, "mps": 10,
                     "disk": disk, "xen": {vm: kind for vm in vms}, **opts}
        self.yaml = None

    def up(self):
        self.bed.vnstore("init", self.bed.store)
        self.yaml = self.bed.write_vne(self.vms, opts=self.opts)
        begin = time.monotonic()
        self.bed.vnstore("up", self.yaml)
        say(f"up: {len(self.vms)} {self.kind} domains in "
            f"{time.monotonic() - begin:.1f} s")

    def oracles(self):
        return self.bed.oracles(self.vms, disk=self.disk)

    def talk(self):
        orc.wait_up(self.oracles(), timeout_s=180, alive=self.bed.check_alive)
        orc.wait_progress(self.oracles(), MESSAGES, timeout_s=120,
                          alive=self.bed.check_alive)
        say("the oracles talk over TCP, UDP and broadcast")

    def go_on(self, what):
        orc.wait_progress(self.oracles(), MESSAGES, timeout_s=180,
                          alive=self.bed.check_alive)
        say(f"{what}: nothing lost, doubled or out of nowhere")

    def snapshot(self, mode="auto"):
        begin = time.monotonic()
        manifest = self.bed.vnstore_json("snapshot", self.yaml, "--mode", mode)
        seconds = time.monotonic() - begin
        cut, size = manifest["meta"]["cut"], manifest["meta"]["bytes"]
        frames = cut["frames"]
        pauses = [vm["pause_ms"] for vm in cut["vms"]]
        say(f"{manifest['name']}: {seconds:.1f} s, pause ms "
            f"{' '.join(f'{p:.1f}' for p in pauses)}, median "
            f"{statistics.median(pauses):.1f}, skew {cut['skew_ms']:.1f} ms; "
            f"frames held {frames['held']}, recorded {frames['recorded']}, "
            f"dropped {frames['dropped']}, missing {frames['missing']}; "
            f"bytes read {size['read']}, unchanged {size['unchanged']}, "
            f"stored {size['stored']}")
        if not cut["lossless"]:
            raise BedError(f"not lossless: {json.dumps(cut)}")
        return manifest

    def close(self):
        sh("for d in $(xl list | awk 'NR > 2 {print $1}'); do "
           "xl destroy $d; done")
        self.bed.close()


def live():
    net = Network("pvh", disk=True)
    net.up()
    net.talk()
    net.snapshot()
    net.go_on("the network that was snapshotted")
    net.snapshot()
    net.go_on("the network that was snapshotted again")
    net.bed.vnstore("export", "lab@2", "-o", f"{SHARE}/pvh.tar")
    net.bed.vnstore("verify")
    say(sh("xl list"))
    net.close()


STEPS = {"live": live}


def main():
    os.environ["TMPDIR"] = "/var/tmp"
    STEPS[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
