"""A hub of a few lines, to test the oracle without any part of vnstore.

Each guest has a connected datagram socket: one frame a datagram, as QEMU's
`-netdev dgram,local.type=fd` has it. Every frame goes to all others. A test
may set `tamper`: a function (source index, frame) -> list of frames.
"""

import select
import socket
import threading


class Hub:
    def __init__(self, ports):
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                 for _ in range(ports)]
        self.ours = [p[0] for p in pairs]
        self.theirs = [p[1] for p in pairs]
        for sock in self.ours:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self.tamper = None
        self.frames = 0
        self._stop = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        queues = {sock: [] for sock in self.ours}
        while not self._stop:
            blocked = [s for s in self.ours if queues[s]]
            readable, _, _ = select.select(self.ours, blocked, [], 0.2)
            for sock in readable:
                self._take(sock, queues)
            for sock in self.ours:
                self._flush(sock, queues[sock])

    def _take(self, sock, queues):
        source = self.ours.index(sock)
        while True:
            try:
                frame = sock.recv(65536, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return
            self.frames += 1
            frames = self.tamper(source, frame) if self.tamper else [frame]
            for other in self.ours:
                if other is not sock:
                    queues[other].extend(frames)

    @staticmethod
    def _flush(sock, queue):
        while queue:
            try:
                sock.send(queue[0], socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                return
            queue.pop(0)

    def close(self):
        self._stop = True
        self._thread.join()
        for sock in self.ours + self.theirs:
            sock.close()
