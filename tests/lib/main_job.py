"""The main job: snapshot a running network, lose its hosts, bring it back.

tools/quickstart shows it to a person; tests/system/test_main_job.py runs the
same code. Four guests on h1 and h2, all talking, writing memory, one writing
its disk. Each step raises on the first thing that is not as it must be.
"""

import json
import os
import statistics
import subprocess
import time

import oracle as orc
from bed import BedError

VMS = {"a": "h1", "b": "h1", "c": "h2", "d": "h2"}
MESSAGES = 100  # more on every channel count as "goes on"
PAUSE_TARGET_MS, SKEW_TARGET_MS = 15.0, 5.0


def human(size):
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


class MainJob:
    """Steps in order; `facts` collects (what, value) lines for the table."""

    def __init__(self, bed):
        self.bed = bed
        self.facts = []
        self.where = dict(VMS)
        self.snapshots = {}
        self.tar = os.path.join(bed.dir, "lab.tar")
        self.second_store = os.path.join(bed.dir, "store2")
        self.yaml = None

    STEPS = [
        ("vnstore init, up: 4 guests of 256 MiB on h1 and h2", "up"),
        ("the oracles talk over TCP and UDP, all to all", "talk"),
        ("vnstore snapshot lab, under load", "snapshot_first"),
        ("vnstore snapshot lab, under load, again", "snapshot_second"),
        ("the network that was snapshotted goes on", "goes_on"),
        ("SIGKILL to all VMs, switches and agents of h1 and h2", "kill"),
        ("vnstore restore lab@2 --to-hosts h3,h4,h5", "restore"),
        ("the restored oracles go on", "restored_goes_on"),
        ("vnstore export, tar tvf, import into a second store",
         "export_import"),
        ("vnstore down, restore from the second store", "restore_again"),
        ("these oracles go on as well", "restored_twice_goes_on"),
        ("vnstore verify of both stores", "verify"),
    ]

    def steps(self):
        return [(what, getattr(self, name)) for what, name in self.STEPS]

    def fact(self, what, value):
        self.facts.append((what, value))

    def oracles(self):
        return self.bed.oracles(self.where)

    def alive(self):
        self.bed.check_alive(set(self.where.values()))

    def up(self):
        self.bed.vnstore("init", self.bed.store)
        self.yaml = self.bed.write_vne(VMS)
        self.bed.vnstore("up", self.yaml)

    def talk(self):
        orc.wait_up(self.oracles(), timeout_s=120, alive=self.alive)
        orc.wait_progress(self.oracles(), MESSAGES, alive=self.alive)

    def snapshot_first(self):
        self.snapshot(1)

    def snapshot_second(self):
        self.snapshot(2)

    def snapshot(self, number):
        start = time.monotonic()
        report = self.bed.snapshot(self.yaml)
        took = time.monotonic() - start
        if report["name"] != f"lab@{number}":
            raise BedError(f"the snapshot's name is {report['name']}")
        self.snapshots[number] = report
        cut, size = report["cut"], report["bytes"]
        pauses = [vm["pause_ms"] for vm in cut["vms"]]
        disks = self.bed.oracles(VMS)
        memory_only = [vm["pause_ms"] for vm in cut["vms"]
                       if not next(o for o in disks
                                   if o.name == vm["name"]).has_disk]
        label = f"lab@{number}"
        self.fact(f"{label}: taken in", f"{took:.1f} s")
        self.fact(f"{label}: pause of each VM",
                  ", ".join(f"{p:.1f}" for p in pauses) + " ms")
        self.fact(f"{label}: median pause, memory only",
                  f"{statistics.median(memory_only):.1f} ms "
                  f"(target {PAUSE_TARGET_MS:.0f})")
        self.fact(f"{label}: skew on one host",
                  f"{cut['host_skew_ms']:.1f} ms "
                  f"(target {SKEW_TARGET_MS:.0f}); all "
                  f"{cut['skew_ms']:.1f} ms")
        frames = cut["frames"]
        self.fact(f"{label}: frames held, recorded, dropped, missing",
                  ", ".join(str(frames[k]) for k in
                            ("held", "recorded", "dropped", "missing")))
        self.fact(f"{label}: read, unchanged, stored",
                  f"{human(size['read'])}, {human(size['unchanged'])}, "
                  f"{human(size['stored'])}")
        if frames["dropped"] or frames["missing"] or not cut["lossless"]:
            raise BedError(f"{label} is not lossless: {json.dumps(cut)}")

    def go_on(self, label):
        last = orc.wait_progress(self.oracles(), MESSAGES, alive=self.alive)
        for kind, name in (("tcp", "TCP"), ("udp", "UDP"),
                           ("bc", "broadcast")):
            count = sum(r[f"{kind}_recv"] for r in last.values())
            lost = sum(r[f"{kind}_lost"] for r in last.values())
            twice = sum(r[f"{kind}_dup"] for r in last.values())
            self.fact(f"{label}: {name} messages",
                      f"{count} received, {lost} lost, {twice} doubled")
        self.fact(f"{label}: out of nowhere, forged, resets",
                  ", ".join(str(sum(r[k] for r in last.values()))
                            for k in ("future", "forged", "tcp_reset")))
        self.fact(f"{label}: memory, disk not of one instant",
                  ", ".join(str(sum(r[k] for r in last.values()))
                            for k in ("mem_bad", "disk_bad")))

    def goes_on(self):
        self.go_on("running on")

    def kill(self):
        count = sum(self.bed.kill_host(h) for h in ("h1", "h2"))
        if count != len(VMS) or self.bed.vm_pids():
            raise BedError(f"killed {count} VMs, left {self.bed.vm_pids()}")

    def do_restore(self, store, hosts):
        self.bed.put_consoles_aside()
        start = time.monotonic()
        report = self.bed.vnstore_json(
            "restore", "lab@2", "--to-hosts", ",".join(hosts), store=store)
        took = time.monotonic() - start
        self.where = {vm["name"]: vm["host"] for vm in report["vms"]}
        if set(self.where) != set(VMS) or \
                not set(self.where.values()) <= set(hosts):
            raise BedError(f"restored as {self.where}")
        self.fact("restored on " + ",".join(sorted(set(self.where.values()))),
                  f"in {took:.1f} s")

    def restore(self):
        self.do_restore(self.bed.store, ["h3", "h4", "h5"])

    def restored_goes_on(self):
        self.go_on("restored")

    def restored_twice_goes_on(self):
        self.go_on("restored twice")

    def export_import(self):
        self.bed.vnstore("export", "lab@2", "-o", self.tar)
        listing = subprocess.run(["tar", "tvf", self.tar], check=True,
                                 stdout=subprocess.PIPE, text=True).stdout
        for wanted in ("SHA256SUMS", "manifest", "pc.ram", "disk"):
            if wanted not in listing:
                raise BedError(f"no {wanted} in the tar: {listing}")
        self.fact("exported tar", f"{human(os.path.getsize(self.tar))}, "
                  f"{len(listing.splitlines())} members")
        self.bed.vnstore("init", self.second_store)
        self.bed.vnstore("import", self.tar, store=self.second_store)

    def restore_again(self):
        self.bed.vnstore("down", self.yaml)
        if self.bed.vm_pids():
            raise BedError("down left VMs running")
        self.do_restore(self.second_store, ["h5", "h4", "h3"])

    def verify(self):
        for store in (self.bed.store, self.second_store):
            self.bed.vnstore("verify", store=store)
        self.fact("both stores", "verified")
