#!/usr/bin/env python3
"""What test_xen.py has done in dom0: one step a call. A step prints its facts,
and fails on the first thing that is not as it must be.

    on host A      live     PVH domains: snapshots under load, beside xl's own
                   idle     a second snapshot of a domain that does nothing
                   pv       PV domains, mode stop; pages shared with PVH
                   hvm      an HVM domain, snapshotted and restored here
    on host B      restored SNAPSHOT   come from A by way of the store, goes on
                   exported SNAPSHOT VM   what stock tools say of what we write
    anywhere       tool SCENARIO TYPE  the back end alone (xen_tool.c)

/data is a disk that outlives a host; the store lies there.
"""

import glob
import json
import os
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "..", "lib"))
import oracle as orc  # noqa: E402
from bed import BIN, Bed, BedError, Loopback  # noqa: E402

STORE = "/data/store"
MEMORY = "112M"
MESSAGES = 40


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

    def __init__(self, name, kind, vms="abc", disk=False, **opts):
        self.bed = Bed(hosts=1, net=Loopback, keep=True)
        self.bed.store = STORE
        self.name, self.kind = name, kind
        self.vms = {vm: "h1" for vm in vms}
        self.disk = disk
        self.opts = {"memory": MEMORY, "ws": 4, "rate": 1, "mps": 10,
                     "disk": disk, "xen": {vm: kind for vm in vms}, **opts}
        self.yaml = None

    def up(self):
        self.yaml = self.bed.write_vne(self.vms, name=self.name,
                                       opts=self.opts)
        begin = time.monotonic()
        self.bed.vnstore("up", self.yaml)
        say(f"up: {len(self.vms)} {self.kind} domains in "
            f"{time.monotonic() - begin:.1f} s")

    def oracles(self):
        return self.bed.oracles(self.vms, name=self.name, disk=self.disk)

    def wait_reports(self, count):
        """Of oracles that talk to nobody: memory goes on, unharmed."""
        for oracle in self.oracles():
            first, end = None, time.monotonic() + 300
            while True:
                report = oracle.last()
                if report:
                    oracle.check(report)
                    first = first or report
                    if report["t"] >= first["t"] + count / 2:
                        break
                if time.monotonic() > end:
                    raise BedError(f"{oracle.name} reports no more: {report}")
                time.sleep(0.2)

    def restore(self, name):
        begin = time.monotonic()
        self.bed.put_consoles_aside()
        self.bed.vnstore("restore", name, "--hosts", self.yaml,
                         "--to-hosts", "h1")
        say(f"restore {name}: {time.monotonic() - begin:.1f} s")

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


def power_off():
    """All domains of this host end."""
    sh("for d in $(xl list | awk 'NR > 2 {print $2}'); do "
       "xl destroy $d; done")


def destroy_all(net):
    power_off()
    net.bed.close()


# ---- host A ---------------------------------------------------------------


def compare_with_xl(net, pause_ms):
    """`xl save -c` of the same domain in the same run."""
    standing = subprocess.Popen(
        [os.path.join(BIN, "xen_standing"), "c", "60", net.bed.dir],
        stdout=subprocess.PIPE, text=True)
    begin = time.monotonic()
    sh("xl save -c c /data/c.save")
    took = time.monotonic() - begin
    standing.send_signal(signal.SIGTERM)
    longest = float(standing.communicate(timeout=30)[0])
    os.unlink("/data/c.save")
    say(f"xl save -c of domain c: stands {longest:.0f} ms (all in all "
        f"{took:.1f} s); ours {pause_ms:.1f} ms: {longest / pause_ms:.1f} "
        "times shorter (target 10)")
    return longest / pause_ms


def live():
    sh(f"{BIN}/vnstore init {STORE}")
    net = Network("live", "pvh", disk=True)
    net.up()
    net.talk()
    net.snapshot()
    net.go_on("the network that was snapshotted")
    cut = net.snapshot()["meta"]["cut"]
    net.go_on("the network that was snapshotted again")
    ours = next(vm["pause_ms"] for vm in cut["vms"] if vm["name"] == "c")
    compare_with_xl(net, ours)
    destroy_all(net)


def deaf(net):
    """Its only domain is paused when it is asked to suspend."""
    log = os.path.join(net.bed.dir, "h1", "agent.log")
    mark = "pass vm=a number=0"

    def passes():
        with open(log, encoding="utf-8") as text:
            return text.read().count(mark)
    before = passes()
    snapshot = net.bed.start_vnstore("snapshot", net.yaml)
    while passes() == before:
        time.sleep(0.05)
    sh("xl pause a")
    code, text = snapshot.wait(60), snapshot.stderr.read()
    if code == 0 or "did not acknowledge the suspend request" not in text:
        raise BedError(f"a deaf guest: exit {code}: {text}")
    net.wait_reports(2)
    say("a guest that ignores the suspend request runs on; the error names it")


def idle():
    os.environ["VN_LOG"] = "debug"  # deaf() follows the agent's steps
    net = Network("idle", "pvh", vms="a", rate=0, mps=0)
    net.up()
    net.wait_reports(4)
    net.snapshot()
    size = net.snapshot()["meta"]["bytes"]
    share = size["new"] / (112 << 20)
    say(f"second snapshot of an idle domain: {100 * share:.2f} % of its memory "
        "is new (target < 5 %)")
    if share >= 0.05:
        raise BedError(f"too much new: {size}")
    say("phases of both, microseconds:\n" + sh(
        "grep -Eo 'vm_xen: (prepared|stopped|copied|captured) .*' "
        f"{net.bed.dir}/h1/agent.log"))
    deaf(net)
    destroy_all(net)


def pv():
    net = Network("pv", "pv")
    net.up()
    net.talk()
    size = net.snapshot()["meta"]["bytes"]
    net.go_on("the PV network that was snapshotted")
    known = size["read"] - size["new"] - size["zero"] - size["unchanged"]
    say(f"of the PV domains' pages {known >> 10} KiB were in the store already "
        "(from each other and from PVH domains of the same kernel)")
    if known < 8 << 20:
        raise BedError(f"PVH and PV share no pages: {size}")
    net.snapshot()
    net.go_on("the PV network, again")
    destroy_all(net)


def hvm():
    net = Network("hvm", "hvm", vms="a", mps=0)
    net.up()
    net.wait_reports(4)
    name = net.snapshot()["name"]
    net.wait_reports(4)
    net.bed.vnstore("down", net.yaml)
    net.restore(name)
    net.wait_reports(4)
    say("the restored HVM domain goes on")
    destroy_all(net)


def rebooted():
    """A domain that reboots has its port on its new interface."""
    net = Network("reboot", "pvh", vms="ab")
    net.up()
    net.talk()
    console, end = net.oracles()[0].console, time.monotonic() + 300
    first = len(orc.read_reports(console)[0])
    sh("xenstore-write /local/domain/$(xl domid a)/control/shutdown reboot")
    # Its peer remembers the one before, and the new oracle says so: it hears.
    while not any("from 2" in line for line in orc.read_reports(console)[1]):
        if time.monotonic() > end:
            raise BedError("no network after a reboot")
        time.sleep(0.2)
    again = orc.read_reports(console)[0][first:]
    if again and again[0]["t"] > 60:
        raise BedError(f"it did not reboot: {again[0]}")
    say("a domain that rebooted hears its peer again")
    destroy_all(net)


# ---- host B ---------------------------------------------------------------


def restored(name):
    kind = name.split("@")[0]
    net = Network(kind, "pv" if kind == "pv" else "pvh", disk=kind == "live")
    net.yaml = net.bed.write_vne(net.vms, name=kind, opts=net.opts)
    net.restore(name)
    net.go_on(f"{name}, on another host")
    net.snapshot()
    net.go_on(f"{name}, snapshotted there")
    net.bed.vnstore("down", net.yaml)
    if "Domain-0" not in sh("xl list | tail -n 1"):
        raise BedError("domains are left: " + sh("xl list"))
    net.bed.close()


def exported(name, vm):
    os.environ["PYTHONPATH"] = glob.glob("/usr/lib/xen-*/lib/python")[0]
    path = f"/data/{vm}.xl"
    sh(f"VNSTORE_STORE={STORE} {BIN}/vnstore export {name} --vm {vm} "
       f"--format xl -o {path}")
    sh(f"verify-stream-v2 -f xl -i {path}")
    sh(f"xl restore -e {path}")
    sh(f"xl list {vm}")
    say(f"{name}/{vm}: verify-stream-v2 accepts it, xl restore runs it")
    power_off()
    os.unlink(path)


def refuse(net, word, *args, store=None):
    """A command fails, says why, and leaves no domain behind."""
    names = "xl list | awk 'NR > 1 {print $1}'"
    before = sh(names)
    result = net.bed.vnstore(*args, check=False, store=store)
    text = result.stderr.strip()
    if result.returncode == 0 or word not in text:
        raise BedError(f"{args}: exit {result.returncode}: {text}")
    if sh(names) != before:
        raise BedError(f"domains before: {before}, after: {sh(names)}")
    say(text)


def small_host(name):
    """This host's CPUs cannot what those of the snapshot can; and its store is
    full."""
    net = Network("idle", "pvh", vms="a", rate=0, mps=0)
    net.yaml = net.bed.write_vne(net.vms, name="idle", opts=net.opts)
    refuse(net, "features that the domain was started with: avx2", "restore",
           name, "--hosts", net.yaml, "--to-hosts", "h1")
    net.bed.close()

    net = Network("full", "pvh", vms="a", rate=0, mps=0)
    net.up()
    net.wait_reports(4)
    sh("mkdir /var/tmp/small; mount -t tmpfs -o size=7m none /var/tmp/small; "
       f"{BIN}/vnstore init /var/tmp/small/store")
    refuse(net, "No space left", "snapshot", net.yaml,
           store="/var/tmp/small/store")
    net.wait_reports(4)
    listed = net.bed.vnstore_json("list", store="/var/tmp/small/store")
    listed = listed["snapshots"]
    net.bed.vnstore("verify", store="/var/tmp/small/store")
    if listed:
        raise BedError(f"a snapshot in a full store: {listed}")
    net.bed.vnstore("down", net.yaml)
    sh("umount /var/tmp/small")
    net.bed.close()


def tool(scenario, kind):
    """Scenarios of the back end alone: guests that are deaf or die, agents
    that die, domains of others."""
    work = f"/var/tmp/tool-{scenario}"
    os.mkdir(work)
    print(sh(f"{BIN}/xen_tool {scenario} {kind} /src/build/guest {work}",
             timeout=300), end="")
    power_off()


STEPS = {step.__name__: step
         for step in (live, idle, pv, hvm, rebooted, restored, exported,
                      small_host, tool)}


def main():
    os.environ["TMPDIR"] = "/var/tmp"
    begin = time.monotonic()
    STEPS[sys.argv[1]](*sys.argv[2:])
    os.sync()
    say(f"{' '.join(sys.argv[1:])}: {time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
