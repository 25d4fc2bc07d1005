"""What tools/quickstart does once the packages are there."""

import argparse
import os
import subprocess
import sys
import time

import bed as beds
from main_job import MainJob
from oracle import OracleError

TTY = sys.stdout.isatty()


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if TTY else text


class Steps:
    def __init__(self, count):
        self.count, self.number = count, 0
        self.start = time.monotonic()

    def run(self, what, action):
        self.number += 1
        begin = time.monotonic()
        head = f"[{self.number:2}/{self.count}] {what}"
        print(head + " ...", end="\r" if TTY else "\n", flush=True)
        action()
        now = time.monotonic()
        line = f"{head}  {paint('32', 'ok')}  {now - begin:.1f} s"
        print(line if TTY else f"        ok  {now - begin:.1f} s"
              f"  (at {now - self.start:.0f} s)", flush=True)


def build(log):
    with open(log, "w", encoding="utf-8") as out:
        def logged(*args):
            subprocess.run(args, cwd=beds.TOP, stdout=out, check=True,
                           stderr=subprocess.STDOUT)
        logged("cmake", "--preset", "release")
        logged("cmake", "--build", "build/release")


def guest():
    beds.run(os.path.join(beds.TOP, "tests", "guest", "build"))


def conclude(job, seconds):
    print("\n" + paint("1", "What this run showed"))
    print(f"  5 hosts: {job.bed.net.kind}")
    for line in job.lines():
        print(line)
    print(f"\n{paint('32', 'PROVED')}: the network went on after the snapshot,"
          " and twice after its hosts were\nlost, without one message lost, "
          "doubled or from nowhere, without one connection\nreset, memory and "
          f"disks of one instant. {seconds:.0f} s.")


def explain(error, bed):
    if isinstance(error, subprocess.CalledProcessError):
        print(f"  {' '.join(map(str, error.cmd))}: exit {error.returncode}")
        if error.stdout:
            print(error.stdout[-2000:])
    else:
        print(f"  {error}")
    log = os.path.join(beds.TOP, "build", "quickstart.log")
    print(f"  logs: {bed.dir if bed else log}")


def main():
    parser = argparse.ArgumentParser(prog="tools/quickstart")
    parser.add_argument("--keep", action="store_true",
                        help="leave logs, store and tar behind")
    args = parser.parse_args()
    os.makedirs(os.path.join(beds.TOP, "build"), exist_ok=True)
    bed, step = None, ""
    steps = Steps(3 + len(MainJob.STEPS))

    def step_run(what, action):
        nonlocal step
        step = what
        steps.run(what, action)

    def start_hosts():
        nonlocal bed
        bed = beds.Bed(hosts=5, keep=args.keep)

    try:
        step_run("build into build/release/bin", lambda: build(
            os.path.join(beds.TOP, "build", "quickstart.log")))
        step_run("guest: Debian's cloud kernel, busybox and the oracle", guest)
        step_run("5 hosts, each an agent and a switch", start_hosts)
        job = MainJob(bed)
        for what, action in job.steps():
            step_run(what, action)
    except (beds.BedError, OracleError, OSError,
            subprocess.SubprocessError) as error:
        print(f"\n{paint('31', 'FAILED')}: {step}")
        if bed:
            bed.keep = True
        explain(error, bed)
        return 1
    finally:
        if bed:
            bed.close()
    conclude(job, time.monotonic() - steps.start)
    if args.keep:
        print(f"kept: {bed.dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
