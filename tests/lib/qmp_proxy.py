"""A QMP monitor in the middle: passes everything, tampers with the stream.

Listens like a QEMU monitor and talks to a real one. A descriptor given with
`getfd` is kept and a pipe of ours goes to QEMU instead, a `unix:` address in
`migrate` is replaced by one of ours; the stream then passes through
`tamper(offset, data) -> data or None`, None ending it early. What QEMU sends
is always read to its end: QEMU 7.2 leaves a guest hanging otherwise, which is
another matter (capture/vm_qemu_guard.c).
"""

import array
import json
import os
import socket
import threading


class QmpProxy:
    def __init__(self, qemu_path, path):
        self.qemu_path, self.path = qemu_path, path
        self.tamper = None
        self.migrations = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(4)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,),
                             daemon=True).start()

    def _serve(self, client):
        qemu = socket.socket(socket.AF_UNIX)
        qemu.connect(self.qemu_path)
        threading.Thread(target=self._pass_back, args=(qemu, client),
                         daemon=True).start()
        buffered, fds = b"", []
        while True:
            try:
                data, ancillary, _, _ = client.recvmsg(65536, 1024)
            except OSError:
                break
            for level, kind, raw in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    got = array.array("i")
                    got.frombytes(raw)
                    fds.extend(got)
            if not data:
                break
            buffered += data
            while buffered.strip():
                try:
                    command, end = json.JSONDecoder().raw_decode(
                        buffered.decode().lstrip())
                except ValueError:
                    break
                skipped = len(buffered) - len(buffered.lstrip())
                buffered = buffered[skipped + end:]
                self._forward(qemu, command, fds)
        for sock in (qemu, client):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    @staticmethod
    def _pass_back(qemu, client):
        while True:
            try:
                data = qemu.recv(65536)
                if not data:
                    break
                client.sendall(data)
            except OSError:
                break
        client.close()

    def _forward(self, qemu, command, fds):
        name = command.get("execute")
        line = json.dumps(command).encode() + b"\n"
        if name == "getfd" and fds:
            theirs, ours = socket.socketpair()
            socket.send_fds(qemu, [line], [theirs.fileno()])
            theirs.close()
            target = fds.pop(0)
            self._pump(lambda: ours, lambda data: os.write(target, data),
                       lambda: os.close(target))
            return
        uri = command.get("arguments", {}).get("uri", "")
        if name == "migrate" and uri.startswith("unix:"):
            path = f"{self.path}.{self.migrations}"
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(1)
            target = socket.socket(socket.AF_UNIX)
            target.connect(uri[5:])
            command["arguments"]["uri"] = "unix:" + path
            line = json.dumps(command).encode() + b"\n"
            self._pump(lambda: listener.accept()[0], target.send,
                       target.close)
        qemu.sendall(line)

    def _pump(self, source, write, close):
        self.migrations += 1
        threading.Thread(target=self._run_pump, args=(source, write, close),
                         daemon=True).start()

    def _run_pump(self, source, write, close):
        offset, stream, closed = 0, None, False
        try:
            stream = source()
            while True:
                data = stream.recv(65536)
                if not data:
                    break
                out = self.tamper(offset, data) if self.tamper else data
                offset += len(data)
                closed = closed or self._put(out, write, close)
        except OSError:
            pass
        if not closed:
            close()
        if stream:
            stream.close()

    @staticmethod
    def _put(data, write, close):
        """True when the reader's end of the stream is closed now."""
        try:
            while data:
                data = data[write(data):]
        except OSError:
            data = None
        if data is None:
            close()
        return data is None
