#!/usr/bin/env python3
"""The main job of the project (tests/lib/main_job.py), as a test."""

import os
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import bed as beds  # noqa: E402
import main_job  # noqa: E402
import system_test  # noqa: E402


def run_job(test, bed):
    job = main_job.MainJob(bed)
    try:
        for what, action in job.steps():
            start = time.monotonic()
            print(what, end=" ", flush=True)
            action()
            print(f"{time.monotonic() - start:.1f} s", flush=True)
    except BaseException:
        bed.keep = True
        print(f"\nlogs: {bed.dir}", flush=True)
        raise
    finally:
        for line in job.lines():
            print(line, flush=True)
    test.assertEqual(set(job.snapshots), {1, 2})


class MainJobTest(unittest.TestCase):
    def test_main_job(self):
        with beds.Bed(hosts=5) as bed:
            run_job(self, bed)


class LoopbackTest(unittest.TestCase):
    """The same without network namespaces, as a user without root has it."""

    def test_main_job(self):
        self.addCleanup(setattr, beds, "can_make_namespaces",
                        beds.can_make_namespaces)
        beds.can_make_namespaces = lambda: False
        with beds.Bed(hosts=5) as bed:
            run_job(self, bed)


if __name__ == "__main__":
    system_test.main()
