#!/usr/bin/env python3
"""Runs one scenario of vm_tool (see vm_tool.c) on the oracle guest."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.join(HERE, "..", "..")
GUEST = os.path.join(TOP, "build", "guest")


def vms_in(folder):
    """Emulators whose command line names the folder."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read()
        except OSError:
            continue
        if b"qemu-system" in words and folder.encode() in words:
            yield int(pid)


def main():
    if not shutil.which("qemu-system-x86_64"):
        print("skipped: no qemu-system-x86_64")
        return 77
    subprocess.run([os.path.join(TOP, "tests", "guest", "build")], check=True)
    work = tempfile.mkdtemp(prefix="vn-vm-")
    try:
        tool = os.path.join(os.environ["VN_BIN"], "vm_tool")
        done = subprocess.run([tool, sys.argv[1], os.path.abspath(GUEST),
                               work], timeout=900, check=False)
    finally:
        for pid in vms_in(work):
            os.kill(pid, signal.SIGKILL)
    if done.returncode == 0:
        shutil.rmtree(work, ignore_errors=True)
    else:
        print(f"logs: {work}", file=sys.stderr)
    return done.returncode


sys.exit(main())
