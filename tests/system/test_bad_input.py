#!/usr/bin/env python3
"""Bad input: each is a clear error that names the thing, and harms nothing."""

import glob
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import system_test  # noqa: E402


class BadVne(system_test.BedTest):
    """VNE files and hosts that are wrong, beside a network that runs."""

    def tearDown(self):
        self.assert_goes_on()
        self.assert_store_sound()

    def edited(self, file, old, new):
        with open(self.yaml, encoding="utf-8") as source:
            text = source.read()
        self.assertIn(old, text)
        path = os.path.join(self.bed.dir, file)
        with open(path, "w", encoding="utf-8") as out:
            out.write(text.replace(old, new, 1))
        return path

    def test_wrong_key(self):
        path = self.edited("key.yaml", "    memory:", "    memroy:")
        with open(path, encoding="utf-8") as text:
            line = next(n for n, words in enumerate(text, 1)
                        if "memroy" in words)
        for command in ("up", "snapshot"):
            self.assert_fails(self.bed.vnstore(command, path, check=False),
                              f"key.yaml:{line}:5", "memroy")

    def test_no_yaml(self):
        path = self.edited("broken.yaml", "vms:", "vms: [")
        self.assert_fails(self.bed.vnstore("up", path, check=False),
                          "broken.yaml:")

    def test_no_file(self):
        self.assert_fails(self.bed.vnstore("up", "nowhere.yaml", check=False),
                          "nowhere.yaml", "No such file")

    def test_unknown_host(self):
        path = self.edited("host.yaml", "    host: h2", "    host: h77")
        self.assert_fails(self.bed.vnstore("up", path, check=False),
                          "host.yaml:", "h77")

    def test_unknown_host_of_restore(self):
        self.bed.vnstore("snapshot", self.yaml)
        name = self.names()[-1]
        self.assert_fails(
            self.bed.vnstore("restore", name, "--to-hosts", "h88",
                             check=False), "h88")

    def test_nobody_listens(self):
        path = self.edited("nobody.yaml", "h2/agent.sock", "h2/nobody.sock")
        result = self.bed.vnstore("snapshot", path, check=False)
        self.assert_fails(result, "h2", "nobody.sock")

    def test_host_that_does_not_answer(self):
        """Its agent hangs: connections are taken, nothing is said."""
        agent = self.bed.hosts["h2"].agent
        agent.send_signal(signal.SIGSTOP)
        try:
            result = self.bed.vnstore("snapshot", self.yaml, check=False)
        finally:
            agent.send_signal(signal.SIGCONT)
        self.assert_fails(result, "h2")
        self.bed.vnstore("snapshot", self.yaml)

    def test_usage(self):
        for args in (("snapshot",), ("snapshot", self.yaml, "--colour"),
                     ("nonsense",)):
            result = self.bed.vnstore(*args, check=False)
            self.assertEqual(result.returncode, 64, result.stderr)


class BadStore(system_test.BedTest):
    """Stores and tars that are full, cut or damaged."""

    @classmethod
    def set_up_network(cls):
        super().set_up_network()
        cls.bed.vnstore("snapshot", cls.yaml)
        cls.tar = os.path.join(cls.bed.dir, "lab.tar")
        cls.bed.vnstore("export", "lab@1", "-o", cls.tar)

    def tearDown(self):
        self.assert_goes_on()
        self.assert_store_sound()

    def new_store(self, name):
        path = os.path.join(self.bed.dir, name)
        self.bed.vnstore("init", path)
        return path

    def test_truncated_tar(self):
        store = self.new_store("cut")
        with tarfile.open(self.tar) as tar:
            members = [m for m in tar if m.size]
        largest = max(members, key=lambda m: m.size)
        # In the first head, in an image, in the last member, before the last.
        for part in (100, largest.offset_data + largest.size // 2,
                     members[-1].offset_data + 10, members[-1].offset):
            path = os.path.join(self.bed.dir, "cut.tar")
            shutil.copyfile(self.tar, path)
            os.truncate(path, part)
            result = self.bed.vnstore("import", path, store=store,
                                      check=False)
            print(result.stderr.strip(), flush=True)
            self.assert_fails(result, "cut.tar")
            self.assertEqual(self.names(store), [])
            self.assert_store_sound(store)

    def test_damaged_tar(self):
        path = os.path.join(self.bed.dir, "damaged.tar")
        shutil.copyfile(self.tar, path)
        self.flip(path, os.path.getsize(path) // 2)
        store = self.new_store("damaged-tar")
        result = self.bed.vnstore("import", path, store=store, check=False)
        print(result.stderr.strip(), flush=True)
        self.assert_fails(result, "damaged.tar")
        self.assertEqual(self.names(store), [])

    @staticmethod
    def flip(path, offset):
        with open(path, "r+b") as data:
            data.seek(offset)
            byte = data.read(1)[0]
            data.seek(offset)
            data.write(bytes([byte ^ 0x40]))

    def test_damaged_pack(self):
        store = os.path.join(self.bed.dir, "damaged")
        shutil.copytree(self.bed.store, store)
        packs = glob.glob(f"{store}/packs/**/*.pack", recursive=True)
        self.assertTrue(packs)
        for pack in packs:
            for eighth in range(1, 8):
                self.flip(pack, os.path.getsize(pack) * eighth // 8)
        names = [os.path.splitext(os.path.basename(p))[0] for p in packs]
        result = self.bed.vnstore("verify", store=store, check=False)
        print((result.stdout + result.stderr).strip()[-400:], flush=True)
        self.assertIn(result.returncode, (1, 2))
        for name in names:
            self.assertIn(name, result.stdout + result.stderr)
        out = os.path.join(self.bed.dir, "from-damaged.tar")
        result = self.bed.vnstore("export", "lab@1", "-o", out, store=store,
                                  check=False)
        self.assert_fails(result, "pack")
        self.assertTrue(any(name in result.stderr for name in names),
                        result.stderr)
        self.assertFalse(os.path.exists(out), "a tar that is not whole")

    def test_no_store(self):
        result = self.bed.vnstore("list", store=self.bed.dir + "/nothing",
                                  check=False)
        self.assert_fails(result, "nothing")

    def test_unknown_snapshot(self):
        for command in (("show",), ("export", "-o", "/dev/null"),
                        ("delete",)):
            result = self.bed.vnstore(command[0], "lab@999", *command[1:],
                                      check=False)
            self.assert_fails(result, "lab@999")


class FullDisk(system_test.BedTest):
    """The store's file system has room for a part of a snapshot only."""

    SIZE = "24m"

    @classmethod
    def before_hosts(cls):
        """Mounted before the hosts start: each has its view of mounts."""
        if os.geteuid() != 0:
            raise unittest.SkipTest("needs root to mount a small tmpfs")
        mount = os.path.join(cls.bed.dir, "small")
        os.mkdir(mount)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={cls.SIZE}",
                        "small", mount], check=True)
        cls.addClassCleanup(subprocess.run, ["umount", "-l", mount],
                            check=True)
        cls.small = os.path.join(mount, "store")

    def test_full_disk(self):
        self.bed.vnstore("init", self.small)
        result = self.bed.vnstore("snapshot", self.yaml, store=self.small,
                                  check=False)
        print(result.stderr.strip(), flush=True)
        self.assert_fails(result, "No space left on device")
        self.assertEqual(self.names(self.small), [])
        self.assert_store_sound(self.small)
        self.assert_goes_on()
        self.bed.vnstore("snapshot", self.yaml)
        self.assert_store_sound()


if __name__ == "__main__":
    system_test.main()
