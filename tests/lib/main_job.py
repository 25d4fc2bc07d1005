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
    """Steps in order; `facts` collects what they showed: by table, row and
    column, in the order of their coming."""

    def __init__(self, bed):
        self.bed = bed
        self.facts = {}
        self.where = dict(VMS)
        self.window = [{}, {}]  # reports before and long after lab@2
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

    def fact(self, table, column, row, value):
        self.facts.setdefault(table, {}).setdefault(row, {})[column] = \
            str(value)

    def lines(self):
        """The tables as text."""
        for title, rows in self.facts.items():
            columns = list(dict.fromkeys(c for r in rows.values() for c in r))
            cells = [[title] + columns] + [
                [row] + [values.get(c, "") for c in columns]
                for row, values in rows.items()]
            widths = [max(len(line[i]) for line in cells)
                      for i in range(len(cells[0]))]
            yield ""
            for line in cells:
                yield "  " + "  ".join(
                    text.ljust(width)
                    for text, width in zip(line, widths)).rstrip()

    def oracles(self):
        return self.bed.oracles(self.where)

    def alive(self):
        self.bed.check_alive(set(self.where.values()))

    def up(self):
        self.bed.vnstore("init", self.bed.store)
        self.yaml = self.bed.write_vne(VMS)
        self.bed.vnstore("up", self.yaml)

    def talk(self):
        orc.wait_up(self.oracles(), alive=self.alive)
        orc.wait_progress(self.oracles(), MESSAGES, alive=self.alive)

    def snapshot_first(self):
        self.snapshot(1)

    def snapshot_second(self):
        self.window[0] = {o.name: o.last() for o in self.oracles()}
        self.snapshot(2)

    def snapshot(self, number):
        start = time.monotonic()
        report = self.bed.snapshot(self.yaml)
        took = time.monotonic() - start
        if report["name"] != f"lab@{number}":
            raise BedError(f"the snapshot's name is {report['name']}")
        self.snapshots[number] = report
        cut, size = report["cut"], report["bytes"]
        with_disk = {o.name for o in self.bed.oracles(VMS) if o.has_disk}
        median = statistics.median(vm["pause_ms"] for vm in cut["vms"]
                                   if vm["name"] not in with_disk)
        frames, label = cut["frames"], f"lab@{number}"

        def fact(row, value):
            self.fact("Snapshots", label, row, value)
        fact("taken in", f"{took:.1f} s")
        fact("pause of each VM, ms", " ".join(
            f"{vm['pause_ms']:.1f}" for vm in cut["vms"]))
        fact(f"median, memory only (target {PAUSE_TARGET_MS:.0f} ms)",
             f"{median:.1f} ms")
        fact(f"skew on one host (target {SKEW_TARGET_MS:.0f} ms)",
             f"{cut['host_skew_ms']:.1f} ms")
        fact("skew of all", f"{cut['skew_ms']:.1f} ms")
        fact("frames held", frames["held"])
        fact("frames in flight, recorded", frames["recorded"])
        fact("frames dropped, missing",
             f"{frames['dropped']}, {frames['missing']}")
        fact("memory and disks read", human(size["read"]))
        fact("of it unchanged", human(size["unchanged"]))
        fact("stored", human(size["stored"]))
        if not cut["lossless"]:
            raise BedError(f"{label} is not lossless: {json.dumps(cut)}")

    def go_on(self, label):
        last = orc.wait_progress(self.oracles(), MESSAGES, alive=self.alive)

        def total(counter):
            return sum(report[counter] for report in last.values())

        def fact(row, value):
            self.fact("Oracles", label, row, value)
        for kind, name in (("tcp", "TCP"), ("udp", "UDP"),
                           ("bc", "broadcast")):
            fact(f"{name} messages received", total(f"{kind}_recv"))
            fact(f"{name} lost, doubled",
                 f"{total(kind + '_lost')}, {total(kind + '_dup')}")
        fact("out of nowhere, forged",
             f"{total('future')}, {total('forged')}")
        fact("connections reset", total("tcp_reset"))
        fact("memory pages written", total("mem_pages"))
        fact("pages, disk records of another instant",
             f"{total('mem_bad')}, {total('disk_bad')}")

    def goes_on(self):
        self.go_on("running on")
        self.window[1] = {o.name: o.last() for o in self.oracles()}

    def check_continues(self):
        """The guests go on from lab@2: neither booted anew nor from later."""
        for oracle in self.oracles():
            first = oracle.first()
            before, after = (w[oracle.name] for w in self.window)
            for key in ("t", "tcp_sent", "udp_sent", "mem_pages", "disk_rec"):
                if not before[key] <= first[key] <= after[key]:
                    raise orc.OracleError(
                        f"{oracle.name} begins at {key}={first[key]}, not in "
                        f"{before[key]}..{after[key]}")

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
        self.fact("Restores", "in", "lab@2 on " + " ".join(
            f"{host}:{vm}" for vm, host in sorted(self.where.items())),
                  f"{took:.1f} s")

    def restore(self):
        self.do_restore(self.bed.store, ["h3", "h4", "h5"])

    def restored_goes_on(self):
        self.go_on("restored")
        self.check_continues()

    def restored_twice_goes_on(self):
        self.go_on("restored twice")
        self.check_continues()

    def export_import(self):
        start = time.monotonic()
        self.bed.vnstore("export", "lab@2", "-o", self.tar)
        listing = subprocess.run(["tar", "tvf", self.tar], check=True,
                                 stdout=subprocess.PIPE, text=True).stdout
        for wanted in ("SHA256SUMS", "manifest", "pc.ram", "disk"):
            if wanted not in listing:
                raise BedError(f"no {wanted} in the tar: {listing}")
        self.bed.vnstore("init", self.second_store)
        self.bed.vnstore("import", self.tar, store=self.second_store)
        self.fact("Restores", "in", "exported, listed and imported a tar of "
                  f"{human(os.path.getsize(self.tar))}, "
                  f"{len(listing.splitlines())} members",
                  f"{time.monotonic() - start:.1f} s")

    def restore_again(self):
        self.bed.vnstore("down", self.yaml)
        if self.bed.vm_pids():
            raise BedError("down left VMs running")
        self.do_restore(self.second_store, ["h5", "h4", "h3"])

    def verify(self):
        for store in (self.bed.store, self.second_store):
            self.bed.vnstore("verify", store=store)
        self.fact("Restores", "in", "verified both stores", "")
