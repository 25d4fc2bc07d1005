#!/usr/bin/env python3
"""An agent that is reached over TLS: with certificates of one authority it
works as over a unix socket, without them or with another's nobody gets in."""

import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "..", "lib"))
import bed as beds  # noqa: E402
import system_test  # noqa: E402

CERTS = os.path.join(beds.TOP, "tools", "vnstore-certs")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Tls(system_test.BedTest):
    HOSTS = 1
    VMS = {"a": "h1"}
    UP = False

    @classmethod
    def before_hosts(cls):
        cls.bed.net.close()
        cls.bed.net = beds.Loopback(1)
        cls.port = free_port()
        for pki in ("pki", "strangers"):
            beds.run(CERTS, os.path.join(cls.bed.dir, pki), "h1,127.0.0.1",
                     "admin")

    @classmethod
    def set_up_network(cls):
        """Another agent for the same switch, on TLS."""
        host = cls.bed.hosts["h1"]
        cls.bed.kill(host.agent)
        host.agent = cls.bed._spawn(host, "agent", [
            os.path.join(beds.BIN, "vnagentd"), "--name", "h1",
            "--listen", f"tls:127.0.0.1:{cls.port}",
            "--violin", host.violin_socket, "--state-dir", host.state,
            "--tls-dir", os.path.join(cls.bed.dir, "pki", "h1")])
        cls.yaml = cls.bed.write_vne(cls.VMS, opts={**cls.OPTS, "peers": 1})
        with open(cls.yaml, encoding="utf-8") as file:
            text = file.read().replace("unix:" + host.agent_socket,
                                       f"tls:127.0.0.1:{cls.port}")
        with open(cls.yaml, "w", encoding="utf-8") as file:
            file.write(text)
        cls.bed.vnstore("init", cls.bed.store)

    def vnstore(self, *args, pki="pki", **kwargs):
        return self.bed.vnstore(
            *args, "--tls-dir", os.path.join(self.bed.dir, pki, "admin"),
            **kwargs)

    def test_strangers_stay_out(self):
        for result in (
                self.vnstore("up", self.yaml, pki="strangers", check=False),
                self.bed.vnstore("up", self.yaml, check=False)):
            print(result.stderr.strip(), flush=True)
            self.assert_fails(result, "h1")
        self.assertEqual(self.bed.vm_pids(), [])

    def test_up_snapshot_restore_down(self):
        self.vnstore("up", self.yaml)
        self.vnstore("snapshot", self.yaml)
        self.vnstore("down", self.yaml)
        self.assertEqual(self.bed.vm_pids(), [])
        self.vnstore("restore", "lab@1")
        self.assertEqual(len(self.bed.vm_pids()), 1)
        self.vnstore("down", self.yaml)
        self.assert_store_sound()


if __name__ == "__main__":
    system_test.main()
