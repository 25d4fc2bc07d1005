"""Common to the system tests: a bed a test class, and what every test ends
with - the guests run on unharmed and the store is sound."""

import os
import shutil
import subprocess
import sys
import unittest

import bed as beds
import oracle as orc


def main():
    """unittest.main(), and 77 where guests cannot run at all."""
    if not shutil.which("qemu-system-x86_64"):
        print("skipped: no qemu-system-x86_64")
        sys.exit(77)
    subprocess.run([os.path.join(beds.TOP, "tests", "guest", "build")],
                   check=True)
    unittest.main(verbosity=2)


class BedTest(unittest.TestCase):
    """A running VNE `lab` of small guests, shared by the class's tests."""

    HOSTS = 2
    VMS = {"a": "h1", "b": "h2"}
    OPTS = {"memory": "128M", "ws": 8, "rate": 2, "mps": 20}
    UP = True

    @classmethod
    def before_hosts(cls):
        """The bed is there, its agents and switches are not."""

    @classmethod
    def setUpClass(cls):
        cls.bed = beds.Bed(hosts=cls.HOSTS, start=False)
        cls.addClassCleanup(cls.bed.close)
        cls.before_hosts()
        try:
            for name in cls.bed.hosts:
                cls.bed.start_host(name)
            cls.set_up_network()
        except BaseException:
            cls.bed.keep = True
            print(f"logs: {cls.bed.dir}", file=sys.stderr)
            raise

    @classmethod
    def set_up_network(cls):
        cls.yaml = cls.bed.write_vne(cls.VMS, opts=cls.OPTS)
        cls.bed.vnstore("init", cls.bed.store)
        if cls.UP:
            cls.bed.vnstore("up", cls.yaml)
            cls.wait_up()

    @classmethod
    def wait_up(cls):
        orc.wait_up(cls.oracles())

    @classmethod
    def oracles(cls):
        return cls.bed.oracles(cls.VMS, disk=cls.OPTS.get("disk", True))

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > before:
            self.bed.keep = True
            print(f"logs: {self.bed.dir}", file=sys.stderr)
        return result

    def assert_goes_on(self, oracles=None, messages=20):
        """Not one message lost, every channel alive."""
        orc.wait_progress(oracles or self.oracles(), messages)

    def assert_store_sound(self, store=None):
        self.bed.vnstore("verify", store=store)

    def assert_fails(self, result, *texts, code=1):
        """Exit status and a message that names the thing; no crash."""
        self.assertEqual(result.returncode, code,
                         result.stdout + result.stderr)
        for text in texts:
            self.assertIn(text, result.stderr)

    def names(self, store=None):
        found = self.bed.vnstore_json("list", store=store)["snapshots"]
        return [entry["name"] for entry in found]
