#!/usr/bin/env python3
"""Deaths in the middle of a snapshot: of a VM, an agent, a coordinator, a
switch. Whoever dies, no VM stays paused, no message is lost by those who
live, and no half snapshot is visible."""

import os
import signal
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import system_test  # noqa: E402


class Deaths(system_test.BedTest):
    """Each test starts its own network and takes it down."""

    UP = False
    VMS = {"a": "h1", "b": "h1", "c": "h2"}

    def setUp(self):
        self.bed.put_consoles_aside()
        self.before = set(self.names())

    def up(self):
        self.bed.vnstore("up", self.yaml)
        self.wait_up()

    def tearDown(self):
        self.bed.kill_vms()
        for name in self.bed.hosts:
            self.bed.kill_host(name)
            self.bed.start_host(name)
        self.assert_store_sound()

    def restart_agent(self, name, env):
        self.bed.kill(self.bed.hosts[name].agent)
        self.bed.start_agent(name, env)

    def memory_goes_on(self, names=None):
        """The VMs run, whether or not a network joins them."""
        guests = [o for o in self.oracles() if names is None or
                  o.name in names]
        start = {o: o.last()["mem_pages"] for o in guests}
        end = time.monotonic() + 120
        while any(o.last()["mem_pages"] <= start[o] + 500 for o in guests):
            if time.monotonic() > end:
                self.fail("a VM stands still: " + ", ".join(
                    o.name for o in guests
                    if o.last()["mem_pages"] <= start[o] + 500))
            time.sleep(0.1)

    def assert_nothing_new(self):
        self.assertEqual(set(self.names()), self.before)

    # ---- a VM ----

    def at_fault_point(self, name, action):
        """Snapshot; when h1's agent is at this point, do something."""
        self.restart_agent("h1", {"VN_FAULT": f"{name}:1:stop"})
        self.up()
        snapshot = self.bed.start_vnstore("snapshot", self.yaml)
        agent = self.bed.hosts["h1"].agent
        end = time.monotonic() + 120
        while self.process_state(agent.pid) != "T":
            self.assertLess(time.monotonic(), end, f"{name} was not passed")
            time.sleep(0.01)
        action()
        agent.send_signal(signal.SIGCONT)
        stderr = snapshot.communicate(timeout=300)[1]
        print(stderr.strip(), flush=True)
        self.assertEqual(snapshot.returncode, 1, stderr)
        self.assert_nothing_new()
        return stderr

    @staticmethod
    def process_state(pid):
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]

    def vm_dies(self, point):
        stderr = self.at_fault_point(
            point, lambda: self.bed.kill_vms(vm="b"))
        self.assertIn("'b'", stderr)
        self.memory_goes_on({"a", "c"})

    def test_vm_dies_before_the_cut(self):
        self.vm_dies("agent.hold")

    def test_vm_dies_while_stopped(self):
        self.vm_dies("agent.stopped")

    def test_vm_dies_while_saved(self):
        self.vm_dies("agent.captured")

    def test_vm_is_dead_already(self):
        self.up()
        self.bed.kill_vms(vm="b")
        result = self.bed.vnstore("snapshot", self.yaml, check=False)
        self.assert_fails(result, "'b'")
        self.memory_goes_on({"a", "c"})
        self.assert_nothing_new()

    # ---- an agent ----

    def agent_dies(self, fault):
        self.restart_agent("h1", {"VN_FAULT": fault})
        self.up()
        result = self.bed.vnstore("snapshot", self.yaml, check=False)
        print(result.stderr.strip(), flush=True)
        self.assert_fails(result, "h1")
        self.assertIsNotNone(self.bed.hosts["h1"].agent.poll(),
                             f"{fault} did not kill the agent")
        self.assert_goes_on()
        self.assert_nothing_new()
        self.another_agent_takes_up()

    def another_agent_takes_up(self):
        """It can snapshot the network, and stop it."""
        self.restart_agent("h1", {})
        result = self.snapshot_when_idle({})
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_goes_on()
        self.bed.vnstore("down", self.yaml)
        self.assertEqual(self.bed.vm_pids(), [])

    def test_agent_dies_holding(self):
        self.agent_dies("agent.hold:1:kill")

    def test_agent_dies_with_stopped_vms(self):
        self.agent_dies("agent.stopped:1:kill")

    def test_agent_dies_after_capture(self):
        self.agent_dies("agent.captured:1:kill")

    def test_agent_dies_when_saved(self):
        self.agent_dies("agent.saved:1:kill")

    def test_agent_fails(self):
        """It lives and says what went wrong; the next snapshot succeeds."""
        self.restart_agent("h1", {"VN_FAULT": "agent.captured"})
        self.up()
        result = self.bed.vnstore("snapshot", self.yaml, check=False)
        self.assert_fails(result, "h1")
        self.assert_goes_on()
        self.assert_nothing_new()
        self.bed.vnstore("snapshot", self.yaml)
        self.assert_goes_on()

    # ---- the coordinator ----

    def test_coordinator_dies(self):
        """At many moments, the last one just before the commit."""
        self.up()
        for delay in (0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.4):
            # It never commits, however late it is killed.
            snapshot = self.bed.start_vnstore(
                "snapshot", self.yaml, env={"VN_FAULT": "coord.commit:1:stop"})
            time.sleep(delay)
            snapshot.kill()
            snapshot.communicate()
            self.assert_goes_on(messages=10)
            self.assert_nothing_new()
        result = self.snapshot_when_idle({"VN_FAULT": "coord.commit:1:kill"})
        self.assertEqual(result.returncode, -9, result.stderr)
        self.assert_goes_on()
        self.assert_nothing_new()
        result = self.snapshot_when_idle({})
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assert_goes_on()

    def snapshot_when_idle(self, env):
        """Agents may still be giving up the one before: busy until then."""
        end = time.monotonic() + 120
        while True:
            result = self.bed.vnstore("snapshot", self.yaml, check=False,
                                      env=env)
            if "busy" not in result.stderr or time.monotonic() > end:
                return result
            time.sleep(0.2)

    # ---- a switch ----

    def test_switch_dies(self):
        """Its network is gone, its VMs are not."""
        stderr = self.at_fault_point(
            "agent.stopped",
            lambda: self.bed.kill(self.bed.hosts["h1"].violind))
        self.assertIn("h1", stderr)
        self.memory_goes_on()


if __name__ == "__main__":
    system_test.main()
