"""A running peer with its clients and its publisher, as most benchmarks need it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import Fleet
from benchmarks.machine import cpu_seconds
from benchmarks.peers import Peer
from benchmarks.publisher import Publisher
from benchmarks.runs import Figures

CHECKED = 5


class Bench:
    """Starts a server, so many clients and a publisher; what *ending* unwinds stops them."""

    def __init__(self, peer: Peer, connections: int, ending: contextlib.ExitStack) -> None:
        self.peer = peer
        self.connections = connections
        self.server = ending.enter_context(peer.running())
        directory = ending.enter_context(TemporaryDirectory())
        self.publisher = Publisher(self.server, Path(directory))
        ending.callback(self.publisher.stop)
        self.fleet = Fleet(peer, self.server)
        ending.callback(self.fleet.close)
        self.open()

    def open(self, own_ids: bool = False) -> None:
        """Connect the clients, and see that every byte that they receive is right."""
        if len(self.fleet):
            self.fleet.close()
            time.sleep(0.5)  # the server notices
        self.fleet.open(self.connections, own_ids)
        for _ in range(2):
            self.size = self.check()

    def check(self) -> int:
        """Verify some messages on all connections; return the size of one."""
        size = self.fleet.check(self.publisher.order("burst", CHECKED))
        self.publisher.answer()
        return size


class Usage:
    """The CPU that server, load generator and publisher use from now on."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._start = time.monotonic()
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        server = cpu_seconds(self._bench.server.pids)
        return server, time.process_time(), self._bench.publisher.cpu()

    def figures(self, deliveries: int) -> Figures:
        """Return the server's seconds per delivery, and everyone's share of a core."""
        seconds = time.monotonic() - self._start
        server, load, publisher = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        return {
            "rate": deliveries / seconds,
            "cpu": server / deliveries,
            "server": server / seconds,
            "load": load / seconds,
            "publisher": publisher / seconds,
        }
