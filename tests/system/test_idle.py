#!/usr/bin/env python3
"""The second snapshot of an idle guest stores almost nothing; in another domain
of the store the next stores all of it once more."""

import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import system_test  # noqa: E402

MEMORY = 256 << 20
LIMIT = 0.05


class Idle(system_test.BedTest):
    HOSTS = 1
    VMS = {"a": "h1"}
    OPTS = {"memory": "256M", "ws": 64, "rate": 0, "mps": 0, "disk": False}

    @classmethod
    def wait_up(cls):
        """One guest without peers: it is up once it reports."""
        (oracle,) = cls.oracles()
        end = time.monotonic() + 300
        while oracle.last() is None and time.monotonic() < end:
            time.sleep(0.1)

    def test_second_snapshot(self):
        time.sleep(3)  # boot has settled
        first = self.bed.snapshot(self.yaml)
        time.sleep(1)
        second = self.bed.snapshot(self.yaml)
        print("first:", first["bytes"], "second:", second["bytes"])
        self.assertGreater(first["bytes"]["new"], 64 << 20)
        self.assertLess(second["bytes"]["new"], LIMIT * MEMORY)
        self.assert_store_sound()
        self.in_a_domain()

    def in_a_domain(self):
        """Of a guest that had been snapshotted in none."""
        red = self.bed.write_vne(self.VMS, file="red.yaml", opts=self.OPTS,
                                 extra="domain: red\n")
        third = self.bed.snapshot(red)
        fourth = self.bed.snapshot(red)
        print("third:", third["bytes"], "fourth:", fourth["bytes"])
        self.assertGreater(third["bytes"]["new"], 64 << 20)
        self.assertEqual(third["bytes"]["unchanged"], 0)
        self.assertLess(fourth["bytes"]["new"], LIMIT * MEMORY)
        self.assertIn("red", self.bed.vnstore("list").stdout)
        self.assert_store_sound()


if __name__ == "__main__":
    system_test.main()
