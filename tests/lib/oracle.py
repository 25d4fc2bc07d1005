"""The oracle's report lines, read from a guest's console log.

Format: docs/formats/oracle.md.
"""

import re
import time

# Every counter that must be 0.
VIOLATIONS = (
    "tcp_lost", "tcp_dup", "tcp_reset", "udp_lost", "udp_dup", "bc_lost",
    "bc_dup", "future", "forged", "mem_bad", "disk_bad",
)
CHANNELS = ("tcp_by", "udp_by", "bc_by")


class OracleError(Exception):
    """An oracle that reports a violation, or does not report at all."""


def parse_line(line):
    """A report line as a dict; None if it is not a whole one."""
    if not line.startswith("ORACLE id=") or not re.search(r" bc_by=\S*$", line):
        return None
    report = {}
    for word in line.split()[1:]:
        key, _, value = word.partition("=")
        if key in CHANNELS:
            report[key] = [int(v) for v in value.split(",") if v]
        else:
            report[key] = float(value) if key == "t" else int(value)
    return report


def read_reports(path):
    """All reports of a console log, and its lines that tell of trouble."""
    reports, trouble = [], []
    try:
        with open(path, "rb") as log:
            text = log.read().decode("latin1")
    except FileNotFoundError:
        return [], []
    # The last line may be cut: it counts once its end is there.
    for line in text.split("\n")[:-1]:
        line = line.strip("\r\x00 ")
        start = line.find("ORACLE")
        if start < 0:
            if "Kernel panic" in line or "BUG:" in line:
                trouble.append(line)
            continue
        line = line[start:]
        if line.startswith(("ORACLE-VIOLATION", "ORACLE-FATAL")):
            trouble.append(line)
        report = parse_line(line)
        if report:
            reports.append(report)
    return reports, trouble


class Oracle:
    """One guest's oracle, followed through its console log."""

    def __init__(self, name, console, peers, has_disk=False):
        self.name, self.console = name, console
        self.peers, self.has_disk = peers, has_disk

    def last(self):
        """The newest report or None. Raises if the guest is in trouble."""
        reports, trouble = read_reports(self.console)
        if trouble:
            raise OracleError(f"{self.name}: " + "; ".join(trouble[:3]))
        return reports[-1] if reports else None

    def first(self):
        """The oldest whole report or None."""
        reports, _ = read_reports(self.console)
        return reports[0] if reports else None

    def check(self, report):
        """Raise unless the report is free of violations."""
        bad = {k: report[k] for k in VIOLATIONS if report[k]}
        if bad:
            raise OracleError(f"{self.name}: violations {bad}")

    def is_up(self, report):
        return report is not None and report["peers_up"] == self.peers - 1 and \
            all(v > 0 for c in CHANNELS for v in report[c])

    def progressed(self, before, after, messages):
        """Did each channel from each peer, memory and disk go on?"""
        if before is None or after is None:
            return False
        if after["mem_pages"] <= before["mem_pages"]:
            return False
        if self.has_disk and \
                after["disk_rec"] < before["disk_rec"] + max(1, messages // 4):
            return False
        for channel in CHANNELS:
            # Broadcasts go out at a tenth of the rate.
            need = max(1, messages // 10) if channel == "bc_by" else messages
            for old, new in zip(before[channel], after[channel]):
                if new < old + need:
                    return False
        return True


def _wait(oracles, done, timeout_s, what, alive):
    """Wait until done(oracle, report) holds for every oracle."""
    end = time.monotonic() + timeout_s
    waiting = dict.fromkeys(oracles)
    while True:
        if alive:
            alive()
        for oracle in list(waiting):
            report = oracle.last()
            if report:
                oracle.check(report)
            waiting[oracle] = report
            if done(oracle, report):
                del waiting[oracle]
        if not waiting:
            return
        if time.monotonic() > end:
            raise OracleError(
                f"after {timeout_s:.0f} s not {what}: " + "; ".join(
                    f"{o.name}: {r}" for o, r in waiting.items()))
        time.sleep(0.1)


def wait_up(oracles, timeout_s=300, alive=None):
    """Wait until every oracle hears every peer on every channel."""
    _wait(oracles, lambda o, r: o.is_up(r), timeout_s, "up", alive)


def wait_progress(oracles, messages=100, timeout_s=300, alive=None, since=None):
    """Wait until every channel of every oracle took `messages` more since
    the reports `since` (by oracle; default: now), without a violation.
    Returns the last reports by name."""
    start = since or {o: o.last() for o in oracles}
    last = {}

    def done(oracle, report):
        if start[oracle] is None:
            start[oracle] = report
        last[oracle.name] = report
        return oracle.progressed(start[oracle], report, messages)

    _wait(oracles, done, timeout_s,
          f"{messages} messages further on every channel", alive)
    return last
