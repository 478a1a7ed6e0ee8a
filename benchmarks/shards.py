"""One and several Valkeys: what they take in, and a server whose types are on different ones."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.appends import Appends, send_all
from benchmarks.load import Fleet
from benchmarks.machine import cpu_seconds
from benchmarks.peers import Server, Step, Subscription, encode, launch_shard
from benchmarks.peers.catalogue import Realtime
from benchmarks.publisher import Publisher
from benchmarks.runs import Figures

# Of two shards, one has the first and one the second.
KINDS = ("metrics", "events")
ROUND_SECONDS = 1.0
CHECKED = 5


class Intake:
    """So many Valkeys that do nothing but take in what is published of two types."""

    def __init__(self, shards: int, ending: contextlib.ExitStack) -> None:
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        started = [
            launch_shard(ending, directory / str(number), core=None) for number in range(shards)
        ]
        self._pids = [process.child.pid for process, _ in started]
        self._ports = [port for _, port in started]

    def take(self, calls: int, batch: int) -> Figures:
        """Have so many calls of each type, of so many messages each, taken in."""
        ports = self._ports
        appends = [
            Appends(ports[number % len(ports)], kind, calls, batch)
            for number, kind in enumerate(KINDS)
        ]
        before = cpu_seconds(self._pids)
        seconds = send_all(appends)
        cpu = cpu_seconds(self._pids) - before
        messages = len(KINDS) * calls * batch
        return {"rate": messages / seconds, "cpu": cpu / messages, "server": cpu / seconds}


class OfType(Realtime):
    """This project's server, to whose *kind* clients subscribe."""

    def __init__(self, kind: str, shards: int) -> None:
        super().__init__(kind, "", 0, batch=1, shards=shards)
        self._kind = kind

    def opening(self, server: Server, subscriptions: Sequence[Subscription]) -> list[Step]:
        """Subscribe to the type."""
        message = {"type": "subscribe", "data": {"type": self._kind}}
        return [*super().opening(server, []), Step(encode(message), b'"subscribed"')]

    def decode(self, text: bytes) -> Any:
        """Have the payload where that of events is."""
        from realtime.protocol import PAYLOAD_KEYS

        decoded = json.loads(text)
        decoded["data"]["event"] = decoded["data"].pop(PAYLOAD_KEYS[self._kind])
        return decoded


class Deliveries:
    """A server with so many shards; half its clients are subscribed to each of two types."""

    def __init__(self, shards: int, connections: int, ending: contextlib.ExitStack) -> None:
        peers = [OfType(kind, shards) for kind in KINDS]
        self._server = ending.enter_context(peers[0].running())
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory()))
        self._halves = []
        for peer in peers:
            server = replace(self._server, publisher=["realtime", "1", peer.name])
            publisher = Publisher(server, directory)
            ending.callback(publisher.stop)
            fleet = Fleet(peer, server)
            ending.callback(fleet.close)
            fleet.open(connections // len(KINDS))
            fleet.check(publisher.order("burst", CHECKED))
            publisher.answer()
            self._halves.append((publisher, fleet))

    def paced(self) -> Figures:
        """Publish a message of each type when those before have arrived."""
        deliveries = 0
        start = time.monotonic()
        before = cpu_seconds(self._server.pids)
        while time.monotonic() < start + ROUND_SECONDS:
            numbers = [publisher.order("one").start for publisher, _ in self._halves]
            for (publisher, fleet), number in zip(self._halves, numbers, strict=True):
                fleet.one(number)
                publisher.answer()
                deliveries += len(fleet)
        cpu = cpu_seconds(self._server.pids) - before
        seconds = time.monotonic() - start
        return {"rate": deliveries / seconds, "cpu": cpu / deliveries, "server": cpu / seconds}
