"""Opens many WebSocket connections quickly: handshake, authentication, subscriptions."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks import wire
from benchmarks.peers import Peer, Server, Step
from benchmarks.wire import LoadError

# Connections that are being opened at a time: less than any server's listen backlog.
AT_A_TIME = 32
# Per source address, well within the range of local ports.
PER_ADDRESS = 20_000
TIMEOUT = 60.0


@dataclass
class _Opening:
    """A connection on its way to be subscribed."""

    sock: socket.socket
    steps: Sequence[Step]
    buffer: bytearray = field(default_factory=bytearray)
    upgraded: bool = False
    done: int = 0

    def advance(self) -> bool:
        """Take what has come and send what follows; true when nothing is left to do."""
        data = self.sock.recv(65_536)
        if not data:
            raise LoadError("the server closed a connection that was being opened")
        self.buffer += data
        if not self.upgraded:
            self.upgraded = wire.take_upgrade(self.buffer)
            if not self.upgraded:
                return False
            self._send()
        for text in wire.take_texts(self.buffer):
            if self.done == len(self.steps) or self.steps[self.done].expect not in text:
                raise LoadError(f"unexpected answer: {text!r}")
            self.done += 1
            self._send()
        return self.done == len(self.steps)

    def _send(self) -> None:
        if self.done < len(self.steps) and self.steps[self.done].frame:
            self.sock.send(self.steps[self.done].frame)


def open_connections(
    peer: Peer, server: Server, clients: Iterable[Sequence[Step]], existing: int
) -> Iterator[tuple[int, socket.socket]]:
    """Open a connection for each item of *clients*; yield number and socket when it is subscribed.

    *existing* connections are open already, which matters for the local ports.
    """
    epoll = select.epoll()
    opening: dict[int, tuple[int, _Opening]] = {}
    waiting = enumerate(clients)
    while True:
        while len(opening) < AT_A_TIME and (following := next(waiting, None)) is not None:
            number, steps = following
            sock = _connect(server.address, existing + number)
            epoll.register(sock, select.EPOLLIN)
            opening[sock.fileno()] = number, _Opening(sock, steps)
            sock.send(wire.upgrade(peer.path))
        if not opening:
            return
        ready = epoll.poll(TIMEOUT)
        if not ready:
            raise LoadError(f"no answer to a handshake for {TIMEOUT:.0f} seconds")
        for fd, _ in ready:
            number, connection = opening[fd]
            if connection.advance():
                del opening[fd]
                epoll.unregister(fd)
                yield number, connection.sock


def _connect(address: tuple[str, int], existing: int) -> socket.socket:
    sock = socket.socket()
    if existing >= PER_ADDRESS:
        sock.bind((f"127.0.0.{1 + existing // PER_ADDRESS}", 0))
    sock.connect(address)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock
