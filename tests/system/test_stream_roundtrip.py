#!/usr/bin/env python3
"""A real VM's state through parser, store and synthesis into another QEMU.

A machine runs, is stopped, its memory is dumped and its migration stream
taken apart into a store; the stream made from the store is loaded by a fresh
QEMU. The memory must be equal byte for byte, and the VM must run on.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "golden"),
                os.path.join(HERE, "..", "verify")]
import make_qemu_stream as maker  # noqa: E402
import qemu_stream as verify  # noqa: E402

TOOL = os.path.join(os.environ.get("VN_BIN", "build/release/bin"),
                    "stream_tool")
MEMORY_MIB = 48


class Machine:
    """One QEMU, killed at the end of a `with`."""

    def __init__(self, folder, name, arguments):
        self.folder = os.path.join(folder, name)
        os.mkdir(self.folder)
        qmp = os.path.join(self.folder, "qmp")
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg", "-machine",
             "pc-i440fx-7.2", "-cpu", "qemu64", "-m", str(MEMORY_MIB),
             "-nodefaults", "-display", "none", "-qmp",
             f"unix:{qmp},server=on,wait=off"] + arguments)
        self.qmp = None
        try:
            self.qmp = maker.Qmp(qmp)
        except OSError:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.qmp:
            self.qmp.close()
        self.process.kill()
        self.process.wait()

    def dump(self, name, holes):
        """Guest memory, without the regions in `holes`."""
        path = os.path.join(self.folder, name)
        self.qmp.run("pmemsave", val=0, size=MEMORY_MIB << 20, filename=path)
        with open(path, "rb") as f:
            data = bytearray(f.read())
        os.unlink(path)
        for begin, end in holes:
            data[begin:end] = bytes(end - begin)
        return bytes(data)

    def counter(self):
        """What the tiny firmware counts."""
        return int.from_bytes(self.dump("counter", [])[0x500:0x502], "little")

    def await_counter(self, value=0):
        """Until the tiny firmware counts, and its pages are filled; with a
        value, until it has counted on."""
        deadline = time.time() + 300
        while self.counter() in (0, value):
            if time.time() > deadline:
                raise RuntimeError("the guest does not run")
            time.sleep(0.02)

    def capture(self, mode):
        path = os.path.join(self.folder, "stream")
        if mode == "cow":
            self.qmp.run("migrate-set-capabilities", capabilities=[
                {"capability": "background-snapshot", "state": True}])
        self.qmp.run("migrate", uri="exec:cat > " + path)
        self.qmp.wait_migration()
        return path

    def await_loaded(self):
        deadline = time.time() + 300
        while time.time() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError("QEMU ended while it loaded")
            if self.qmp.run("query-migrate").get("status") == "completed":
                return
            time.sleep(0.02)
        raise RuntimeError("QEMU did not finish loading")


class StreamRoundTrip(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="vn-stream-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.rom = os.path.join(self.folder, "rom.bin")
        with open(self.rom, "wb") as f:
            f.write(maker.firmware())

    def tool(self, command, path):
        subprocess.run([TOOL, command, os.path.join(self.folder, "store"),
                        "vm", path], check=True, timeout=600)

    def through_store(self, stream):
        """Through the store; what comes out must say the same."""
        out = os.path.join(self.folder, "synthesised")
        self.tool("put", stream)
        self.tool("write", out)
        self.assertEqual([], list(verify.differences(verify.load(stream),
                                                     verify.load(out))))
        self.assertLess(os.path.getsize(out), os.path.getsize(stream) + 65536)
        return out

    def restore(self, arguments, stream):
        target = Machine(self.folder, "target", arguments + [
            "-S", "-incoming", "exec:cat " + stream])
        self.addCleanup(target.close)
        target.await_loaded()
        self.assertFalse(target.qmp.run("query-status")["running"])
        return target

    def round_trip(self, arguments, holes, ready):
        with Machine(self.folder, "source", arguments) as source:
            ready(source)
            source.qmp.run("stop")
            before = source.dump("memory", holes)
            stream = self.through_store(source.capture("stop"))
        target = self.restore(arguments, stream)
        after = target.dump("memory", holes)
        if before != after:
            wrong = [i for i in range(0, len(before), 4096)
                     if before[i:i + 4096] != after[i:i + 4096]]
            self.fail(f"{len(wrong)} pages differ, first at {wrong[0]:#x}")
        self.assertTrue(any(before))
        target.qmp.run("cont")
        self.assertTrue(target.qmp.run("query-status")["running"])
        return target, before

    def test_tiny_firmware(self):
        target, before = self.round_trip(["-bios", self.rom], [],
                                         Machine.await_counter)
        for page in range(8):
            word = (0x1000 + 0x100 * page).to_bytes(2, "little")
            at = 0x10000 + 0x1000 * page
            self.assertEqual(word * 2048, before[at:at + 4096])
        target.await_counter(target.counter())

    def test_bios_and_video(self):
        """Several blocks that the target fills before it loads."""
        self.round_trip(["-vga", "std", "-device", "virtio-net-pci"],
                        [(0xa0000, 0xc0000)], lambda source: time.sleep(1.5))

    def test_while_running(self):
        """background-snapshot: the memory is of the instant it began."""
        arguments = ["-bios", self.rom]
        with Machine(self.folder, "source", arguments) as source:
            source.await_counter()
            stream = self.through_store(source.capture("cow"))
            self.assertTrue(source.qmp.run("query-status")["running"])
        target = self.restore(arguments, stream)
        memory = b"".join(verify.load(stream).memory("pc.ram"))
        dump = target.dump("memory", [(0xc0000, 0x100000)])
        self.assertEqual(memory[:0xc0000], dump[:0xc0000])
        self.assertEqual(memory[0x100000:], dump[0x100000:])
        target.qmp.run("cont")
        target.await_counter(target.counter())

    def test_damaged_stream(self):
        """A stream cut off inside of the memory is refused with its place."""
        with Machine(self.folder, "source", ["-bios", self.rom]) as source:
            source.qmp.run("stop")
            stream = source.capture("stop")
        os.truncate(stream, 50000)
        put = subprocess.run([TOOL, "put", os.path.join(self.folder, "store"),
                              "vm", stream], capture_output=True, text=True,
                             timeout=600, check=False)
        self.assertEqual(1, put.returncode)
        self.assertIn("ended after 50000 bytes", put.stderr)


if __name__ == "__main__":
    if not shutil.which("qemu-system-x86_64"):
        print("skipped: no qemu-system-x86_64")
        sys.exit(77)
    unittest.main(verbosity=2)
