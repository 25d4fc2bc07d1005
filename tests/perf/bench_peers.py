"""The programs that are compared, each as its manual says for images of disks
and memory, all without encryption where that can be had (restic cannot).

A peer keeps one repository in a folder of its own, with its caches beside it.
Steps that are timed are one run of the program each. borg and restic are told
to read files that seem unchanged: memory and disks of a machine that runs
never are.
"""

import os
import shutil
import subprocess


class PeerError(Exception):
    """A program failed."""


def disk_usage(folder):
    """Bytes on the disk: blocks of all files below."""
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            total += os.lstat(os.path.join(base, name)).st_blocks * 512
    return total


class Peer:
    name = ""
    program = ""
    package = ""     # where it is not the program's name
    lz4 = False      # compresses with LZ4
    synced = True    # durable when it ends
    variant_of = ""  # for "x times borg": the program

    def __init__(self, folder):
        self.folder = folder
        self.repo = os.path.join(folder, "repo")
        self.env = dict(os.environ, HOME=folder, XDG_CACHE_HOME=folder)

    @classmethod
    def path(cls):
        return shutil.which(cls.program)

    @classmethod
    def version(cls):
        """The package's version, or None where there is no such program."""
        if not cls.path():
            return None
        return subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", cls.package or
             cls.program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, check=False).stdout or "not a package"

    def run(self, *args, cwd=None, stdin=None, stdout=subprocess.PIPE):
        done = subprocess.run(args, cwd=cwd, env=self.env, stdin=stdin,
                              stdout=stdout, stderr=subprocess.PIPE,
                              check=False)
        if done.returncode != 0:
            raise PeerError(f"{' '.join(args)}: {done.returncode}: "
                            f"{done.stderr.decode(errors='replace')[-500:]}")
        return done

    def begin(self):
        """A new, empty repository."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.init()

    def end(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def size(self):
        os.sync()
        return disk_usage(self.repo)

    def init(self):
        raise NotImplementedError

    def ingest(self, tag, folder, name):
        """Keep folder/name as `tag`."""
        raise NotImplementedError

    def restore(self, tag, name, out):
        """Write what `tag` holds below the new folder `out`; its path."""
        raise NotImplementedError


class Vnstore(Peer):
    name = program = "vnstore"
    lz4 = True
    binary = None  # set by the caller

    @classmethod
    def path(cls):
        return cls.binary

    def init(self):
        self.run(self.binary, "init", self.repo)

    def ingest(self, tag, folder, name):
        self.run(self.binary, "-s", self.repo, "put", f"vm@{tag}", name,
                 cwd=folder)

    def restore(self, tag, name, out):
        self.run(self.binary, "-s", self.repo, "get", f"vm@{tag}", "-o", out)
        return os.path.join(out, "file", name)

    def recompress(self):
        self.run(self.binary, "-s", self.repo, "gc", "--recompress", "zstd")

    def can_recompress(self):
        out = subprocess.run([self.binary, "gc", "--help"], check=False,
                             stdout=subprocess.PIPE, text=True).stdout
        return "--recompress" in out


class Borg(Peer):
    name, program, variant_of = "borg", "borg", "borg"
    package = "borgbackup"
    lz4 = True
    chunker = None

    def __init__(self, folder):
        super().__init__(folder)
        self.env.update(BORG_BASE_DIR=folder,
                        BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK="yes",
                        BORG_RELOCATED_REPO_ACCESS_IS_OK="yes")

    def init(self):
        self.run("borg", "init", "--encryption", "none", self.repo)

    def ingest(self, tag, folder, name):
        chunker = ["--chunker-params", self.chunker] if self.chunker else []
        self.run("borg", "create", "--compression", "lz4", "--files-cache",
                 "disabled", *chunker, f"{self.repo}::{tag}", name, cwd=folder)

    def restore(self, tag, name, out):
        os.makedirs(out)
        self.run("borg", "extract", "--sparse", f"{self.repo}::{tag}", cwd=out)
        return os.path.join(out, name)


class Borg64K(Borg):
    name, chunker = "borg fixed,65536", "fixed,65536"


class Borg4K(Borg):
    name, chunker = "borg fixed,4096", "fixed,4096"


class Restic(Peer):
    name = program = variant_of = "restic"

    def __init__(self, folder):
        super().__init__(folder)
        self.env.update(RESTIC_PASSWORD="bench", RESTIC_REPOSITORY=self.repo,
                        RESTIC_CACHE_DIR=os.path.join(folder, "cache"))

    def init(self):
        self.run("restic", "init", "--repository-version", "2")

    def ingest(self, tag, folder, name):
        self.run("restic", "backup", "--quiet", "--force", "--tag", tag, name,
                 cwd=folder)

    def restore(self, tag, name, out):
        self.run("restic", "restore", "latest", "--tag", tag, "--target", out)
        for base, _, files in os.walk(out):
            if name in files:
                return os.path.join(base, name)
        raise PeerError("restic restored no file")


class Casync(Peer):
    name = program = "casync"
    synced = False

    def init(self):
        os.makedirs(self.repo)

    def _index(self, tag):
        return os.path.join(self.repo, f"{tag}.caibx")

    def ingest(self, tag, folder, name):
        self.run("casync", "make", "--store",
                 os.path.join(self.repo, "default.castr"), self._index(tag),
                 name, cwd=folder)

    def restore(self, tag, name, out):
        os.makedirs(out)
        path = os.path.join(out, name)
        self.run("casync", "extract", "--store",
                 os.path.join(self.repo, "default.castr"), self._index(tag),
                 path)
        return path


class Zbackup(Peer):
    name, program = "zbackup lzo", "zbackup"
    synced = False

    def init(self):
        self.run("zbackup", "--non-encrypted", "init", self.repo)

    def _backup(self, tag):
        return os.path.join(self.repo, "backups", tag)

    def ingest(self, tag, folder, name):
        with open(os.path.join(folder, name), "rb") as source:
            self.run("zbackup", "--non-encrypted", "--silent",
                     "-o", "bundle.compression_method=lzo",
                     "backup", self._backup(tag), stdin=source)

    def restore(self, tag, name, out):
        os.makedirs(out)
        path = os.path.join(out, name)
        with open(path, "wb") as target:
            self.run("zbackup", "--non-encrypted", "--silent", "restore",
                     self._backup(tag), stdout=target)
        return path


OTHERS = [Borg, Borg64K, Borg4K, Restic, Casync, Zbackup]
