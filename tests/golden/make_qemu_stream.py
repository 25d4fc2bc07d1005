#!/usr/bin/env python3
"""Make qemu-stream-*.xz: real migration streams of a tiny QEMU machine.

    make_qemu_stream.py OUT.xz [--mode cow|stop] [--memory MiB]

The machine has no firmware but sixteen instructions of ours: they fill eight
pages from 64 KiB on, then count at address 0x500 for ever. So the stream
holds no one else's code, and what must be in it is known:
page k (0..7) at 0x10000 + 0x1000 * k is filled with the little-endian word
0x1000 + 0x100 * k.
"""
import argparse
import json
import lzma
import os
import socket
import subprocess
import sys
import tempfile
import time

CODE = bytes.fromhex(
    "fa fc bb0010 ba0800"          # cli; cld; mov bx,1000h; mov dx,8
    "8ec3 31ff 89d8 b90008 f3ab"   # es=bx; di=0; ax=bx; cx=2048; rep stosw
    "81c30001 4a 75ee"             # bx+=100h; dec dx; jnz
    "31c0 8ed8"                    # ds=0
    "ff060005 ebfa")               # inc word [500h]; jmp


def firmware():
    rom = bytearray(65536)
    rom[0:len(CODE)] = CODE
    rom[0xfff0:0xfff5] = bytes.fromhex("ea000000f0")  # jmp f000:0000
    return bytes(rom)


class Qmp:
    def __init__(self, path):
        deadline = time.time() + 120
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(path)
                break
            except OSError:
                self.sock.close()
                if time.time() > deadline:
                    raise
                time.sleep(0.02)
        self.file = self.sock.makefile("rw")
        self.file.readline()
        self.run("qmp_capabilities")

    def run(self, command, **arguments):
        json.dump({"execute": command, "arguments": arguments}, self.file)
        self.file.write("\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise RuntimeError(f"QEMU ended during {command}")
            answer = json.loads(line)
            if "error" in answer:
                raise RuntimeError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def close(self):
        self.file.close()
        self.sock.close()

    def wait_migration(self):
        deadline = time.time() + 300
        while time.time() < deadline:
            status = self.run("query-migrate").get("status")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise RuntimeError(f"migration {status}")
            time.sleep(0.02)
        raise RuntimeError("migration timed out")


def machine_args(folder, memory_mib):
    rom = os.path.join(folder, "rom.bin")
    with open(rom, "wb") as f:
        f.write(firmware())
    return ["qemu-system-x86_64", "-accel", "tcg", "-machine",
            "pc-i440fx-7.2", "-cpu", "qemu64", "-m", str(memory_mib), "-bios",
            rom, "-nodefaults", "-display", "none", "-qmp",
            "unix:" + os.path.join(folder, "qmp") + ",server=on,wait=off"]


def capture(folder, mode, memory_mib):
    """The raw stream of a machine that counts, as a path in folder."""
    out = os.path.join(folder, "stream")
    qemu = subprocess.Popen(machine_args(folder, memory_mib))
    try:
        qmp = Qmp(os.path.join(folder, "qmp"))
        time.sleep(0.5)
        if mode == "cow":
            qmp.run("migrate-set-capabilities", capabilities=[
                {"capability": "background-snapshot", "state": True}])
        else:
            qmp.run("stop")
        qmp.run("migrate", uri="exec:cat > " + out)
        qmp.wait_migration()
        qmp.run("quit")
        qmp.close()
        qemu.wait(20)
    finally:
        if qemu.poll() is None:
            qemu.kill()
            qemu.wait()
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--mode", choices=["cow", "stop"], default="cow")
    parser.add_argument("--memory", type=int, default=16, metavar="MiB")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with open(capture(folder, args.mode, args.memory), "rb") as f:
            raw = f.read()
    with lzma.open(args.out, "wb", preset=9) as f:
        f.write(raw)
    print(f"{args.out}: {len(raw)} bytes, {os.path.getsize(args.out)} packed",
          file=sys.stderr)


if __name__ == "__main__":
    main()
