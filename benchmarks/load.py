"""The load generator: many WebSocket clients on one core, with raw sockets and epoll.

It must not be the bottleneck. What it sends is computed beforehand. What it receives is parsed and
compared byte by byte in ``check`` and ``one``; in a ``burst`` the kernel discards the bytes
(MSG_TRUNC) of all connections but one, the witness, which is kept and verified, and every other
connection must have received as many bytes as the witness.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import message, wire
from benchmarks.opening import TIMEOUT, open_connections
from benchmarks.peers import Peer, Server, Subscription
from benchmarks.wire import LoadError

# How much is read at a time: little where it is kept, since a buffer is made for it.
READ = 16 * 1024
CHUNK = 1024 * 1024
# The clients look for messages this often, in seconds, unless much is coming: one that sleeps until
# each message comes has the server's core wake it, which can cost the server more than the sending.
LOOK_INTERVAL = 0.001
BURST_LOOK_INTERVAL = 0.004
MUCH = 16 * 1024  # bytes for each connection that has something
_SO_TIMESTAMPNS = 35


@dataclass
class Timing:
    """Monotonic times of the first and of the last byte received, and the CPU used, in seconds."""

    first: float
    last: float
    cpu: float


class Fleet:
    """The clients of one server."""

    def __init__(self, peer: Peer, server: Server) -> None:
        self._peer = peer
        self._server = server
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        # File descriptor -> the client's number and the subscription id it chose, if any.
        self._clients: dict[int, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._sockets)

    def open(self, count: int, own_ids: bool = False) -> float:
        """Open *count* more connections, each with one subscription; return the seconds it took."""
        first = len(self)
        if own_ids:
            numbers = range(first, first + count)
            return self.open_each([[Subscription(f"client-{number:06d}")] for number in numbers])
        steps = self._peer.opening(self._server, [Subscription()])
        return self._open([""] * count, [steps] * count)

    def open_each(self, clients: Sequence[Sequence[Subscription]]) -> float:
        """Open a connection for each list of subscriptions; return the seconds it took."""
        ids = [subscriptions[0].id if subscriptions else "" for subscriptions in clients]
        return self._open(ids, [self._peer.opening(self._server, each) for each in clients])

    def _open(self, ids: Sequence[str], clients: Iterable[Any]) -> float:
        start = time.monotonic()
        first = len(self)
        for number, sock in open_connections(self._peer, self._server, clients, first):
            self._sockets[sock.fileno()] = sock
            self._clients[sock.fileno()] = (first + number, ids[number])
        seconds = time.monotonic() - start
        for fd in list(self._sockets)[first:]:
            self._epoll.register(fd, select.EPOLLIN)
        return seconds

    def close(self) -> None:
        """Cut all connections."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._clients.clear()

    def say_goodbye(self, count: int) -> None:
        """Close *count* connections with the closing handshake."""
        for fd in list(self._sockets)[:count]:
            sock = self._sockets.pop(fd)
            del self._clients[fd]
            sock.setblocking(True)
            sock.sendall(wire.CLOSE_FRAME)
            while sock.recv(READ):
                pass
            sock.close()

    def check(self, messages: range, users: int = message.USERS) -> int:
        """Receive *messages* on every connection and verify each byte; return their size."""
        streams = {fd: bytearray() for fd in self._sockets}
        due = dict.fromkeys(streams, messages.start)
        waiting = len(streams)
        size = 0
        while waiting:
            for fd, _ in self._poll():
                streams[fd] += self._read(fd)
                for text in wire.take_texts(streams[fd]):
                    self._verify(text, due[fd], fd, users)
                    due[fd] += 1
                    waiting -= due[fd] == messages.stop
                    size = max(size, len(text))
        if any(streams.values()):
            raise LoadError("bytes after the last message")
        return size

    def burst(self, messages: range) -> Timing:
        """Receive *messages* on every connection, as fast as they come."""
        witness_fd = next(iter(self._sockets))
        witness = bytearray()
        frames = position = received = 0
        totals = [0] * (max(self._sockets) + 1)
        into: list[Callable[..., int]] = [self._sockets[witness_fd].recv_into] * len(totals)
        for fd, sock in self._sockets.items():
            into[fd] = sock.recv_into
        scratch = bytearray(CHUNK)
        expected = -1
        cpu = time.process_time()
        ready = self._poll()
        first = time.monotonic()
        while True:
            before = received
            for fd, _ in ready:
                if fd == witness_fd:
                    witness += (data := self._read(fd, CHUNK))
                    count = len(data)
                else:
                    count = into[fd](scratch, CHUNK, socket.MSG_TRUNC)
                    if not count:
                        raise LoadError("the server closed a connection")
                totals[fd] += count
                received += count
            more, position = wire.count_frames(witness, position)
            frames += more
            if frames == len(messages):
                expected = len(witness) * len(self)
            if received == expected:
                break
            ready = self._look(0 if received - before > MUCH * len(ready) else BURST_LOOK_INTERVAL)
        last = time.monotonic()
        cpu = time.process_time() - cpu
        if any(totals[fd] != len(witness) for fd in self._sockets):
            raise LoadError("connections received different numbers of bytes")
        for sequence, text in zip(messages, wire.take_texts(witness), strict=True):
            self._verify(text, sequence, witness_fd)
        return Timing(first, last, cpu)

    def one(self, sequence: int) -> None:
        """Receive one message on every connection; all must receive the same bytes."""
        expected = b""
        waiting = len(self)
        parts: dict[int, bytes] = {}
        while waiting:
            for fd, _ in self._look(LOOK_INTERVAL):
                data = self._read(fd)
                if data != expected:
                    data = parts.pop(fd, b"") + data
                    if not expected and len(data) == wire.frame_end(data, 0):
                        self._verify(wire.frame_text(data), sequence, fd)
                        expected = data
                    elif data != expected:
                        if expected and len(data) >= len(expected):
                            raise LoadError("connections received different bytes")
                        parts[fd] = data
                        continue
                waiting -= 1

    def latencies(self, messages: int, until: float) -> list[int]:
        """Receive *messages* on every connection; return nanoseconds from publishing to arrival.

        Arrival is the kernel's time stamp of the last segment read, so what this process takes does
        not count. Stops at the monotonic time *until*, with what has come by then.
        """
        found: list[int] = []
        rest: dict[int, bytes] = {}
        stamp, skip, width = message.STAMP, len(message.STAMP), message.STAMP_DIGITS
        for sock in self._sockets.values():
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        while len(found) < messages * len(self) and time.monotonic() < until:
            for fd, _ in self._look(LOOK_INTERVAL):
                data, control, _, _ = self._sockets[fd].recvmsg(READ, 64)
                if not data:
                    raise LoadError("the server closed a connection")
                seconds, nanoseconds = struct.unpack("qq", control[0][2])
                arrival = seconds * 1_000_000_000 + nanoseconds
                data = rest.pop(fd, b"") + data
                start = 0
                while (end := wire.frame_end(data, start)) and end <= len(data):
                    digits = data.index(stamp, start) + skip
                    found.append(arrival - int(data[digits : digits + width]))
                    start = end
                if start < len(data):
                    rest[fd] = data[start:]
        return found

    def drain(self, frames: int) -> dict[int, list[dict[str, Any]]]:
        """Receive so many data messages, on whichever connections; return them by client."""
        streams = {fd: bytearray() for fd in self._sockets}
        messages: dict[int, list[dict[str, Any]]] = {}
        while frames > 0:
            for fd, _ in self._poll():
                streams[fd] += self._read(fd)
                texts = wire.take_texts(streams[fd])
                found = messages.setdefault(self._clients[fd][0], [])
                found.extend(self._peer.decode(text) for text in texts)
                frames -= len(texts)
        return messages

    def _verify(self, text: bytes, sequence: int, fd: int, users: int = message.USERS) -> None:
        received = self._peer.decode(text)
        event = received["data"]["event"]
        if received["type"] != "data" or event != message.event(sequence, users, event["sent"]):
            raise LoadError(f"event {sequence} expected, received {json.dumps(received)}")
        identity = self._clients[fd][1] or received["subscription_id"]
        if not identity or received["subscription_id"] != identity:
            raise LoadError(f"subscription id {received['subscription_id']!r}, not {identity!r}")

    def _look(self, interval: float) -> list[tuple[int, int]]:
        if interval:
            time.sleep(interval)
        return self._poll()

    def _poll(self) -> list[tuple[int, int]]:
        ready = self._epoll.poll(TIMEOUT)
        if not ready:
            raise LoadError(f"nothing received for {TIMEOUT:.0f} seconds")
        return ready

    def _read(self, fd: int, size: int = READ) -> bytes:
        data = self._sockets[fd].recv(size)
        if not data:
            raise LoadError("the server closed a connection")
        return data
