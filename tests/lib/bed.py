"""A test bed: hosts with agents and switches, guests with the oracle.

As root every host is a network namespace, joined by veth to a bridge in one
more namespace; else all are on loopback with a UDP port each. Everything lies
in one folder. Whatever way the program ends, processes and namespaces go: at
its end, or by a reaper process that sees its pipe close.
"""

import atexit
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from oracle import Oracle

TOP = os.path.realpath(
    os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
GUEST = os.path.join(TOP, "build", "guest")
BIN = os.environ.get("VN_BIN", os.path.join(TOP, "build", "release", "bin"))
QEMU_APPEND = "console=ttyS0 quiet no_timer_check tsc=unstable panic=1 "
XEN_APPEND = "console=hvc0 quiet panic=1 "
APPEND = ("oracle.id={id} oracle.peers={peers} oracle.ws={ws} "
          "oracle.rate={rate} oracle.mps={mps} oracle.disk={disk}")
VM_PROGRAMS = ("qemu-system-x86_64",)
DAEMONS = ("vnagentd", "violind", "vnstore")


class BedError(Exception):
    """The bed could not do what was asked; logs are in the bed's folder."""


def run(*args, **kwargs):
    return subprocess.run(args, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, **kwargs)


def can_make_namespaces():
    if os.geteuid() != 0 or not shutil.which("ip"):
        return False
    name = f"vnb-{os.getpid()}-try"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "exec", name, "true")
    except subprocess.CalledProcessError:
        return False
    finally:
        remove_namespaces([name])
    return True


def find_processes(folder, programs, part=""):
    """Ids of processes of these programs with `part` of the folder's content
    in their arguments."""
    needle = (folder + "/").encode()
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            with open(path, "rb") as text:
                words = text.read()
        except OSError:
            continue
        program = os.path.basename(words.split(b"\0")[0]).decode()
        if program in programs and needle in words and part.encode() in words:
            found.append(int(path.split("/")[2]))
    return found


def kill_all(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def remove_namespaces(names):
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False,
                       stderr=subprocess.DEVNULL)


def reap(folder, prefix):
    """The reaper: wait until the bed's process ends; then, unless it said
    that it has cleaned up, do so. Reparented, so that a test runner which
    kills the whole tree of a test does not kill this."""
    if os.fork():
        os._exit(0)
    if sys.stdin.read():
        return
    kill_all(find_processes(folder, DAEMONS + VM_PROGRAMS))
    if prefix:
        names = subprocess.run(["ip", "netns", "list"], check=False, text=True,
                               stdout=subprocess.PIPE).stdout.split()
        remove_namespaces([n for n in names if n.startswith(prefix)])


class Namespaces:
    """h1 is 10.99.0.1 in namespace vnb-PID-h1, and so on."""

    kind = "network namespaces joined by veth"

    def __init__(self, count):
        self.prefix = f"vnb-{os.getpid()}-"
        self.made = []
        hub = self._add("br")
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge",
            "stp_state", "0", "forward_delay", "0")
        run("ip", "-n", hub, "link", "set", "br0", "up")
        for i in range(1, count + 1):
            host = self._add(f"h{i}")
            run("ip", "link", "add", "eth0", "netns", host, "type", "veth",
                "peer", "name", f"p{i}", "netns", hub)
            run("ip", "-n", hub, "link", "set", f"p{i}", "master", "br0", "up")
            run("ip", "-n", host, "addr", "add", f"10.99.0.{i}/24", "dev",
                "eth0")
            run("ip", "-n", host, "link", "set", "lo", "up")
            run("ip", "-n", host, "link", "set", "eth0", "up")

    def _add(self, name):
        name = self.prefix + name
        run("ip", "netns", "add", name)
        self.made.append(name)
        return name

    def underlay(self, i):
        return f"10.99.0.{i}:6081"

    def command(self, i, args):
        return ["ip", "netns", "exec", f"{self.prefix}h{i}"] + args

    def link(self, i, state):
        """Cut host i off ("down") or join it again ("up")."""
        run("ip", "-n", self.prefix + "br", "link", "set", f"p{i}", state)

    def close(self):
        remove_namespaces(reversed(self.made))
        self.made = []


class Loopback:
    """Without root: every host on 127.0.0.1, h1 on UDP port 16081."""

    kind = "separate ports on loopback"
    prefix = ""

    def __init__(self, _count):
        pass

    def underlay(self, i):
        return f"127.0.0.1:{16080 + i}"

    def command(self, _i, args):
        return args

    def close(self):
        pass


class Host:
    def __init__(self, index, folder):
        self.index, self.name = index, f"h{index}"
        self.dir = os.path.join(folder, self.name)
        self.violin_socket = os.path.join(self.dir, "violind.sock")
        self.agent_socket = os.path.join(self.dir, "agent.sock")
        self.state = os.path.join(self.dir, "state")
        self.violind = self.agent = None
        os.makedirs(self.state)


class Bed:
    """`with Bed(hosts=5) as bed:` - started hosts, no VMs yet.

    keep: leave the folder behind. The folder stays as well when the with
    block ends by an exception, so that the logs can be read.
    """

    def __init__(self, hosts=5, keep=False, start=True, net=None):
        self.keep = keep
        # Short: a unix socket's path has room for 107 bytes.
        self.dir = tempfile.mkdtemp(prefix="vnb-")
        self.processes = []
        self.net = self.reaper = None
        self.closed = False
        self.consoles_kept = 0
        self.store = os.path.join(self.dir, "store")
        atexit.register(self.close)
        self.old_handlers = {
            s: signal.signal(s, self._on_signal)
            for s in (signal.SIGTERM, signal.SIGHUP)}
        try:
            self.net = (net or (Namespaces if can_make_namespaces() else
                                Loopback))(hosts)
            self.hosts = {}
            self._start_reaper()
            for i in range(1, hosts + 1):
                self.hosts[f"h{i}"] = Host(i, self.dir)
            if start:
                for name in self.hosts:
                    self.start_host(name)
        except BaseException:
            self.keep = True
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, _value, _trace):
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self.keep = True
        self.close()

    @staticmethod
    def _on_signal(number, _frame):
        raise SystemExit(128 + number)

    def _start_reaper(self):
        self.reaper = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), self.dir,
             self.net.prefix], stdin=subprocess.PIPE, start_new_session=True)
        self.reaper.wait()

    # ---- processes ----

    def _spawn(self, host, what, args, env=None):
        log = open(os.path.join(host.dir, what + ".log"), "ab")
        process = subprocess.Popen(
            self.net.command(host.index, args), stdin=subprocess.DEVNULL,
            stdout=log, stderr=log, env={**os.environ, **(env or {})},
            start_new_session=True)
        log.close()
        self.processes.append(process)
        return process

    def _wait_socket(self, process, path, what, log):
        end = time.monotonic() + 120
        while not os.path.exists(path):
            if process.poll() is not None or time.monotonic() > end:
                with open(log, encoding="utf-8", errors="replace") as text:
                    raise BedError(f"{what} did not come up: "
                                   f"{text.read()[-800:].strip()}")
            time.sleep(0.02)

    def start_violind(self, name):
        host = self.hosts[name]
        if os.path.exists(host.violin_socket):
            os.unlink(host.violin_socket)
        host.violind = self._spawn(host, "violind", [
            os.path.join(BIN, "violind"), "--socket", host.violin_socket,
            "--underlay", self.net.underlay(host.index)])
        self._wait_socket(host.violind, host.violin_socket, f"violind {name}",
                          os.path.join(host.dir, "violind.log"))

    def start_agent(self, name, env=None):
        host = self.hosts[name]
        if os.path.exists(host.agent_socket):
            os.unlink(host.agent_socket)
        host.agent = self._spawn(host, "agent", [
            os.path.join(BIN, "vnagentd"), "--name", name,
            "--listen", "unix:" + host.agent_socket,
            "--violin", host.violin_socket, "--state-dir", host.state], env)
        self._wait_socket(host.agent, host.agent_socket, f"vnagentd {name}",
                          os.path.join(host.dir, "agent.log"))

    def start_host(self, name, env=None):
        self.start_violind(name)
        self.start_agent(name, env)

    @staticmethod
    def kill(process):
        """SIGKILL and wait; `ip netns exec` has become the program itself."""
        if process is not None and process.poll() is None:
            process.kill()
            process.wait()

    def vm_pids(self, host=None, vm=None):
        part = f"/{host}/" if host else f".{vm}/" if vm else ""
        return find_processes(self.dir, VM_PROGRAMS, part)

    def kill_vms(self, host=None, vm=None):
        pids = self.vm_pids(host, vm)
        kill_all(pids)
        end = time.monotonic() + 120
        while set(pids) & set(self.vm_pids()) and time.monotonic() < end:
            time.sleep(0.02)
        return len(pids)

    def kill_host(self, name):
        """The host loses power: VMs, switch and agent die at once."""
        host = self.hosts[name]
        for process in (host.agent, host.violind):
            if process and process.poll() is None:
                process.kill()
        count = self.kill_vms(name)
        self.kill(host.agent)
        self.kill(host.violind)
        return count

    def check_alive(self, hosts=None):
        for host in self.hosts.values():
            if hosts is not None and host.name not in hosts:
                continue
            for what in ("violind", "agent"):
                process = getattr(host, what)
                if process is not None and process.poll() is not None:
                    raise BedError(f"{what} of {host.name} ended with "
                                   f"{process.returncode}, see {host.dir}")

    # ---- the network under test ----

    def write_vne(self, vms, name="lab", file=None, opts=None, extra=""):
        """vms: {"a": "h1", ...}. The first has a disk unless opts says
        otherwise; opts["xen"]: {"a": "pvh", ...}, those that are domains of
        Xen. Returns the file's path."""
        o = {"memory": "256M", "ws": 32, "rate": 4, "mps": 20, "disk": True,
             "peers": len(vms), "xen": {}}
        o.update(opts or {})
        lines = [f"name: {name}", "vni: 77", "hosts:"]
        for host in self.hosts.values():
            lines += [f"  - name: {host.name}",
                      f"    agent: \"unix:{host.agent_socket}\"",
                      "    underlay: "
                      f"\"{self.net.underlay(host.index)}\""]
        lines.append("vms:")
        for i, (vm, host) in enumerate(vms.items(), 1):
            disk = o["disk"] and i == 1
            xen = o["xen"].get(vm)
            append = (XEN_APPEND if xen else QEMU_APPEND) + APPEND.format(
                id=i, disk=int(disk), **{
                    k: o[k] for k in ("peers", "ws", "rate", "mps")})
            if xen:
                # Else each RDTSC costs an exit to the hypervisor.
                lines += [f"  - name: {vm}", "    backend: xen",
                          f"    type: {xen}", f"    host: {host}",
                          "    extra_args: ['tsc_mode=\"native\"', "
                          "'cpus=\"all,^0\"']"]
            else:
                lines += [f"  - name: {vm}", f"    host: {host}"]
            lines += [f"    memory: {o['memory']}",
                      f"    kernel: {GUEST}/vmlinuz",
                      f"    initrd: {GUEST}/initrd.gz",
                      f"    append: \"{append}\""]
            if disk:
                lines += ["    disks:", f"      - path: {vm}.raw",
                          "        format: raw"]
                with open(os.path.join(self.dir, vm + ".raw"), "wb") as out:
                    out.truncate(64 << 20)
            lines += ["    nics:", f"      - mac: \"52:54:00:77:00:{i:02x}\""]
        path = os.path.join(self.dir, file or name + ".yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n" + extra)
        return path

    def oracles(self, vms, name="lab", disk=True):
        """The oracles of {"a": "h1", ...}, in the order of the VNE file."""
        order = sorted(vms)
        return [Oracle(vm, self.console(vm, vms[vm], name), len(vms),
                       disk and vm == order[0]) for vm in order]

    def console(self, vm, host, name="lab"):
        return os.path.join(self.hosts[host].state, "vms", f"{name}.{vm}",
                            "console.log")

    def put_consoles_aside(self):
        """So that after a restore only new reports are read."""
        self.consoles_kept += 1
        for path in glob.glob(f"{self.dir}/h*/state/vms/*/console.log"):
            os.rename(path, f"{path}.{self.consoles_kept}")

    # ---- vnstore ----

    def vnstore(self, *args, check=True, store=None, env=None, timeout=300):
        """Run it; result has .stdout, .stderr, .returncode."""
        environ = {**os.environ, "VNSTORE_STORE": store or self.store,
                   **(env or {})}
        result = subprocess.run(
            [os.path.join(BIN, "vnstore"), *args], env=environ, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, timeout=timeout, check=False)
        with open(os.path.join(self.dir, "vnstore.log"), "a",
                  encoding="utf-8") as log:
            log.write(f"$ vnstore {' '.join(args)}\n{result.stdout}"
                      f"{result.stderr}[exit {result.returncode}]\n")
        if check and result.returncode:
            raise BedError(f"vnstore {' '.join(args)}: exit "
                           f"{result.returncode}: {result.stderr.strip()}")
        return result

    def vnstore_json(self, *args, **kwargs):
        result = self.vnstore(*args, "--json", **kwargs)
        try:
            return json.loads(result.stdout)
        except ValueError as error:
            raise BedError(f"vnstore {' '.join(args)} --json: {error}: "
                           f"{result.stdout[:200]!r}") from error

    def snapshot(self, vne, *args, **kwargs):
        """Its name, and "cut" and "bytes" of docs/formats/manifest.md."""
        manifest = self.vnstore_json("snapshot", vne, *args, **kwargs)
        return {"name": manifest["name"], "cut": manifest["meta"]["cut"],
                "bytes": manifest["meta"]["bytes"]}

    def start_vnstore(self, *args, env=None):
        """In the background; its output goes to the bed's folder."""
        with open(os.path.join(self.dir, "vnstore.log"), "a",
                  encoding="utf-8") as log:
            process = subprocess.Popen(
                [os.path.join(BIN, "vnstore"), *args],
                env={**os.environ, "VNSTORE_STORE": self.store, **(env or {})},
                stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    # ---- the end ----

    def close(self):
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
        # VMs and watchdogs outlive their agents.
        kill_all(find_processes(self.dir, DAEMONS + VM_PROGRAMS))
        for process in self.processes:
            process.wait()
            if process.stderr:
                process.stderr.close()
        if self.net:
            self.net.close()
        if self.reaper:
            self.reaper.stdin.write(b"clean")
            self.reaper.stdin.close()
        if not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)
        for number, handler in self.old_handlers.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    reap(sys.argv[1], sys.argv[2])
