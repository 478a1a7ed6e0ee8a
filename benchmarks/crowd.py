"""Clients that keep their subscription: they come back when they are told to, and resume.

Raw sockets and epoll, as in :mod:`benchmarks.load`. Every event is looked at: what a client misses
and what it gets twice is counted. Messages are the same bytes for all clients, so each is decoded
once.
"""

from __future__ import annotations

import heapq
import json
import random
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from benchmarks import wire
from benchmarks.opening import open_connections
from benchmarks.peers import Peer, Server, Subscription, encode
from benchmarks.wire import LoadError

READ = 64 * 1024
TIMEOUT = 60.0
# Seconds until the next try when nobody listens, as the contract asks: with jitter.
REFUSED_PAUSE = (0.3, 0.7)
_UPGRADE, _AUTHENTICATE, _SUBSCRIBE, _LIVE = range(4)


@dataclass(slots=True)
class Absence:
    """Monotonic times of one client's way from one server to the next; ``refused`` tries before."""

    told: float
    asked_for: float = 0.0
    connecting: float = 0.0
    upgraded: float = 0.0
    subscribed: float = 0.0
    refused: int = 0


@dataclass(slots=True)
class Client:
    """One client: its socket, and up to where it has received."""

    sock: socket.socket
    stage: int = _LIVE
    buffer: bytearray = field(default_factory=bytearray)
    position: tuple[str, int] | None = None
    expected: int = 0
    absence: Absence | None = None


class Crowd:
    """All clients, who go from one server to another when the first ends."""

    def __init__(self, peer: Peer, server: Server, count: int) -> None:
        self._peer, self._server = peer, server
        self._epoll = select.epoll()
        steps = peer.opening(server, [Subscription()])
        self._auth = steps[0].frame
        opened = open_connections(peer, server, [steps] * count, 0)
        self.clients = [Client(sock) for _, sock in opened]
        self._by_fd = {client.sock.fileno(): client for client in self.clients}
        for fd in self._by_fd:
            self._epoll.register(fd, select.EPOLLIN)
        # When who comes back; numbers tell those of the same moment apart.
        self._coming: list[tuple[float, int, Client]] = []
        self._numbers = iter(range(1_000_000_000))
        self.patient = True
        self.lost = self.repeated = 0

    def begin(self, first: int) -> None:
        """Expect the events from number *first* on."""
        for client in self.clients:
            client.expected = first

    def run(self, address: tuple[str, int], until: int) -> None:
        """Receive until every client has the event before number *until*.

        A client whose server ends goes to *address*: when it is told to, or, if the crowd is not
        patient, at once.
        """
        self._address = address
        deadline = time.monotonic() + TIMEOUT
        waiting = {id(client): client for client in self.clients}
        while waiting:
            if time.monotonic() > deadline:
                raise LoadError(f"{len(waiting)} clients are not back, or have not all events")
            while self._coming and self._coming[0][0] <= time.monotonic():
                self._connect(heapq.heappop(self._coming)[2])
            pause = self._coming[0][0] - time.monotonic() if self._coming else 1.0
            for fd, _ in self._epoll.poll(max(0.0, min(pause, 1.0))):
                client = self._by_fd[fd]
                self._serve(client)
                if client.expected >= until and client.stage == _LIVE:
                    waiting.pop(id(client), None)

    def _serve(self, client: Client) -> None:
        """Do what a client's socket is ready for."""
        try:
            data = client.sock.recv(READ)
        except ConnectionRefusedError:
            assert client.absence is not None
            client.absence.refused += 1
            self._leave(client, random.uniform(*REFUSED_PAUSE))
            return
        except BlockingIOError:  # connected
            client.sock.send(wire.upgrade(self._peer.path))
            self._epoll.modify(client.sock.fileno(), select.EPOLLIN)
            return
        except ConnectionResetError:
            data = b""
        client.buffer += data
        if not data:
            self._end(client)
        elif client.stage == _UPGRADE:
            self._upgraded(client)
        else:
            self._read(client)

    def _upgraded(self, client: Client) -> None:
        if wire.take_upgrade(client.buffer):
            assert client.absence is not None
            client.absence.upgraded = time.monotonic()
            client.sock.send(self._auth)
            client.stage = _AUTHENTICATE

    def _read(self, client: Client) -> None:
        while frame := wire.take_frame(client.buffer):
            first_byte, payload = frame
            if first_byte == wire.CLOSE:
                client.sock.send(wire.CLOSE_FRAME)
                self._end(client)
                return
            kind, *values = _decode(payload)
            if kind == "data":
                self._take(client, *values)
            elif kind == "restarting":
                now = time.monotonic()
                client.absence = Absence(now, now + values[0] * self.patient)
            elif kind == "auth_success":
                client.sock.send(_subscribe(client.position))
                client.stage = _SUBSCRIBE
            elif kind == "subscribed":
                assert client.absence is not None
                client.absence.subscribed = time.monotonic()
                client.stage = _LIVE
            else:
                raise LoadError(f"unexpected message: {payload!r}")

    def _take(self, client: Client, sequence: int, position: tuple[str, int] | None) -> None:
        if sequence < client.expected:
            self.repeated += 1
            return
        self.lost += sequence - client.expected
        client.expected = sequence + 1
        client.position = position

    def _end(self, client: Client) -> None:
        """Go, since the server has closed or was cut off; if it said nothing, come back at once."""
        if client.stage != _LIVE:
            raise LoadError("the server closed a connection that was being opened")
        now = time.monotonic()
        client.absence = client.absence or Absence(now, now)
        self._leave(client, max(0.0, client.absence.asked_for - now))

    def _leave(self, client: Client, pause: float) -> None:
        del self._by_fd[client.sock.fileno()]
        client.sock.close()
        client.buffer.clear()
        client.stage = _UPGRADE
        heapq.heappush(self._coming, (time.monotonic() + pause, next(self._numbers), client))

    def _connect(self, client: Client) -> None:
        assert client.absence is not None
        client.sock = socket.socket()
        client.sock.setblocking(False)
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.absence.connecting = time.monotonic()
        client.sock.connect_ex(self._address)
        self._by_fd[client.sock.fileno()] = client
        # Writable when connected; then what is read says whether it is.
        self._epoll.register(client.sock.fileno(), select.EPOLLOUT)

    def absences(self) -> Sequence[Absence]:
        """Return how all clients went over."""
        return [client.absence for client in self.clients if client.absence is not None]

    def close(self) -> None:
        """Cut all connections."""
        for client in self.clients:
            client.sock.close()


@lru_cache(maxsize=256)
def _decode(payload: bytes) -> tuple[Any, ...]:
    """Return the kind of a message and what matters in it."""
    message = json.loads(payload)
    kind = message["type"]
    if kind == "data":
        metadata = message["metadata"]
        position = (metadata["epoch"], metadata["offset"]) if metadata else None
        return kind, int(message["data"]["event"]["event_id"].removeprefix("evt_")), position
    if kind == "error" and message["data"]["code"] == "restarting":
        return "restarting", message["data"]["details"]["retry_after"]
    return (kind,)


def _subscribe(position: tuple[str, int] | None) -> bytes:
    data: dict[str, Any] = {"type": "events", "filters": {}}
    if position is not None:
        data["resume"] = {"epoch": position[0], "offset": position[1]}
    return encode({"type": "subscribe", "data": data})
