"""What the benchmark's figures mean and what they are held to.

A target is FACTOR x a yardstick that was measured in the same run, or a plain
number. `ratio` of a result is the value divided by the yardstick (or by the
number); it is held against the factor (or against 1). Figures without a target
are there to be read beside the others.
"""

import math

AT_LEAST, AT_MOST = ">=", "<="


class Target:
    def __init__(self, title, factor=None, sense=AT_LEAST, number=None,
                 text=None):
        self.title, self.factor, self.sense = title, factor, sense
        self.number, self.text = number, text

    def judge(self, value, yardsticks):
        """{"yardstick", "target", "ratio", "met"} for a value."""
        yard = self._yardstick(yardsticks)
        result = {"yardstick": yard and {"name": yard["name"],
                                         "value": yard["value"]},
                  "target": self.text, "ratio": None, "met": None}
        base = self.number if self.number else yard and yard["value"]
        if not base or not math.isfinite(value):
            return result
        result["ratio"] = value / base
        if self.factor is None and self.number is None:
            return result
        limit = self.factor if self.factor is not None else 1
        sign = 1 if self.sense == AT_LEAST else -1
        result["met"] = sign * result["ratio"] >= sign * limit
        return result

    def _yardstick(self, yardsticks):
        """The hardest to pass is what counts: the physical limit for rates is
        the lowest, among other programs it is the best."""
        known = [y for y in yardsticks if y.get("value")]
        if not known:
            return None
        return min(known, key=lambda y: y["value"])


def ratio(title, factor, text, sense=AT_LEAST):
    return Target(title, factor=factor, sense=sense, text=text)


def number(title, value, text, sense=AT_LEAST):
    return Target(title, number=value, sense=sense, text=text)


def shown(title):
    return Target(title)


# In the order of the table. The key is the figure's name.
TARGETS = {
    "ingest.first": ratio(
        "first ingest, all cores", 0.8,
        "0.8 x cores x LZ4, or 0.8 x disk, whichever is lower"),
    "limit.lz4": shown("LZ4 alone, all cores at once"),
    "ingest.first.core": shown("first ingest, one core"),
    "ingest.same.core": ratio(
        "same image again, one core", 0.5, "0.5 x memcpy"),
    "ingest.changed.core": ratio(
        "10 % changed, one core", 0.5, "0.5 x memcpy"),
    "ingest.same": shown("same image again, all cores"),
    "ingest.changed": shown("10 % changed, all cores"),
    "ingest.duplicates.core": ratio(
        "pages of another VM, one core", 0.7, "0.7 x keyed BLAKE3"),
    "restore.warm": ratio("restore, cache warm", 0.4, "0.4 x memcpy"),
    "restore.warm.core": shown("restore, warm, one core"),
    "restore.cold": ratio(
        "restore, cache cold", 0.8,
        "0.8 x the disk's read speed on the same packs"),
    "pages.random.core": number(
        "random 4 KiB pages, one core", 250e3, "250,000 pages/s"),
    "index.insert": number(
        "index: inserts, large batches", 1e6, "1 M/s"),
    "index.find": number("index: look-ups, sorted", 1e6, "1 M/s"),
    "index.miss": number("index: misses", 3e6, "3 M/s"),
    "index.open": number("index: open", 1.0, "under 1 s", AT_MOST),
    "index.space": number(
        "index: file after gc", 70, "70 bytes a chunk", AT_MOST),
    "gc.whole": ratio(
        "gc, dead packs", 1.0, "faster than reading the living packs once",
        AT_MOST),
    "gc.mixed": ratio(
        "gc, every pack half dead", 1.0,
        "faster than reading the living packs once", AT_MOST),
    "gc.writer": number(
        "a writer beside gc", 30, "slowed by under 30 %", AT_MOST),
    "verify.full": shown("verify, full"),
    "verify.full.core": shown("verify, full, one core"),
    "program.first": ratio(
        "first ingest, programs", 3, "3 x the fastest other"),
    "program.same.restic": ratio("same again / restic", 5, "5 x restic"),
    "program.same.borg": ratio("same again / borg", 10, "10 x borg"),
    "program.changed.restic": ratio("10 % changed / restic", 5, "5 x restic"),
    "program.changed.borg": ratio("10 % changed / borg", 10, "10 x borg"),
    "program.restore": ratio(
        "restore, programs", 3, "3 x the fastest other"),
    "program.size": ratio(
        "size of both images", 1.05, "1.05 x the smallest that uses LZ4",
        AT_MOST),
    "guest.size": ratio(
        "a real guest: size", 1.1, "1.1 x restic (zstd)", AT_MOST),
    "guest.size.zstd": ratio(
        "a real guest: recompressed", 1.0, "1.0 x restic (zstd)", AT_MOST),
    "guest.ingest": shown("a real guest: ingest"),
}
