"""Hostile clients: what they cost the others in latency, and the server in memory.

A hundred clients that behave receive 20 messages a second. Beside them, 20 that never read what
they asked for (1 MB/s each), 20 of the same that send a ping each second, and one and five that
send pings as fast as they can without reading the answers; who is closed comes back at once. Then
two hundred of every kind (:mod:`benchmarks.attackers`), for three times as long. Last, how long a
ping waits while messages fan out to 2,000 connections. Only this project's server is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import django

from benchmarks import attackers, report, wire
from benchmarks.latency import percentile
from benchmarks.load import Fleet
from benchmarks.machine import resident_bytes
from benchmarks.peers import Peer, Server, encode
from benchmarks.publisher import Publisher
from benchmarks.runs import Figures, one_by_one

GOOD = 100
RATE = 20
CROWD = 2000
PING = encode({"type": "ping"})
SUBSCRIBE = encode({"type": "subscribe", "data": {"type": "metrics"}})
LARGE = {"text": "x" * 10_000}


def enter(peer: Peer, server: Server, subscribes: bool) -> socket.socket:
    """Return the socket of a client that is authenticated, with a small receive buffer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(2.0)
    sock.connect(server.address)
    sock.sendall(wire.upgrade(peer.path))
    read_until(sock, b"\r\n\r\n")
    for step in peer.opening(server, []):
        sock.sendall(step.frame)
        read_until(sock, step.expect)
    if subscribes:
        sock.sendall(SUBSCRIBE)
    return sock


def read_until(sock: socket.socket, wanted: bytes) -> None:
    """Read until some bytes have come; drop them."""
    received = b""
    while wanted not in received:
        part = sock.recv(4096)
        if not part:
            raise ConnectionError("the server has closed")
        received = received[-len(wanted) :] + part


class Hostile:
    """Clients of one kind, each in a thread that comes back when it is closed."""

    def __init__(
        self, peer: Peer, server: Server, count: int, pause: float, subscribes: bool
    ) -> None:
        self._peer, self._server = peer, server
        self._pause, self._subscribes = pause, subscribes
        self._stopped = threading.Event()
        self.closed = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            with (
                contextlib.suppress(OSError),
                enter(self._peer, self._server, self._subscribes) as sock,
            ):
                while not self._stopped.wait(self._pause or 0):
                    sock.sendall(PING * (1 if self._pause else 100))
            self.closed += 1

    def stop(self) -> None:
        """End the threads."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def large_messages() -> Iterator[None]:
    """Publish 1 MB of metrics a second, in the background."""
    from realtime import publish_many

    stopped = threading.Event()

    def publish() -> None:
        while not stopped.wait(0.1):
            publish_many("metrics", [LARGE] * 10)

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def measure(peer: Peer, options: argparse.Namespace) -> dict[str, Figures]:
    """Measure the well-behaved alone, then beside each kind of hostile client."""
    sections: dict[str, Figures] = {}
    with peer.running() as server, tempfile.TemporaryDirectory() as directory:
        os.environ |= server.environment
        django.setup()
        fleet = Fleet(peer, server)
        fleet.open(GOOD)
        publisher = Publisher(server, Path(directory))
        seconds: float = options.seconds
        try:
            with large_messages():
                latency(fleet, publisher, 2)  # warms up
                before = resident_bytes(server.main)
                alone = latency(fleet, publisher, seconds)
                sections["nobody"] = alone | {"growth": 0.0, "closed": 0.0}
                for title, count, pause, subscribes in (
                    ("20 that never read", 20, 3600.0, True),
                    ("20 that never read and ping", 20, 1.0, True),
                    ("one that floods", 1, 0.0, False),
                    ("5 that flood", 5, 0.0, False),
                ):
                    hostile = Hostile(peer, server, count, pause, subscribes)
                    figures = latency(fleet, publisher, seconds)
                    hostile.stop()
                    sections[title] = figures | effects(server, before, hostile.closed)
                siege = attackers.start(*server.address, server.token)
                figures = latency(fleet, publisher, 3 * seconds)
                closed = json.loads(siege.communicate("")[0])
                sections["200 of every kind"] = figures | effects(
                    server, before, sum(closed.values())
                )
        finally:
            publisher.stop()
            fleet.close()
        sections["fan-out to 2,000"] = pings_during_fan_out(peer, server)
    return sections


def effects(server: Server, before: int, closed: int) -> Figures:
    """Return how much the server has grown, and how many were closed."""
    return {"growth": float(resident_bytes(server.main) - before), "closed": float(closed)}


def latency(fleet: Fleet, publisher: Publisher, seconds: float) -> Figures:
    """Return percentiles, in milliseconds, of publish to arrival."""
    messages = int(seconds * RATE)
    publisher.order("rate", messages, RATE)
    found = sorted(fleet.latencies(messages, time.monotonic() + 60))
    publisher.answer()
    assert len(found) == messages * GOOD, "a client that behaves has lost messages"
    return {name: percentile(found, at) for name, at in (("p50", 0.5), ("p99", 0.99))}


def pings_during_fan_out(peer: Peer, server: Server) -> Figures:
    """Return percentiles of the time a ping takes while 100 messages go to 2,000 connections."""
    from realtime import publish

    fleet = Fleet(peer, server)
    with contextlib.closing(fleet):
        fleet.open(CROWD)
        sock = enter(peer, server, subscribes=False)
        waits: list[float] = []
        thread = threading.Thread(target=lambda: [publish("events", {"n": n}) for n in range(100)])
        thread.start()
        until = time.monotonic() + 3
        while time.monotonic() < until:
            began = time.monotonic()
            sock.sendall(PING)
            read_until(sock, b'"pong"')
            waits.append((time.monotonic() - began) * 1000)
        thread.join()
        sock.close()
    waits.sort()
    return {"p50": percentile_of(waits, 0.5), "p99": percentile_of(waits, 0.99)} | {
        "longest": waits[-1],
        "growth": 0.0,
        "closed": 0.0,
    }


def percentile_of(values: list[float], share: float) -> float:
    """Return a percentile of sorted values."""
    return values[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    """Measure and print."""
    parser = report.parser(__doc__, [report.OURS], runs=3)
    parser.add_argument("--seconds", type=float, default=0, help="for each kind: 10, quick 4")
    options = report.begin(parser, only=(report.OURS,))
    options.seconds = options.seconds or (4.0 if options.quick else 10.0)
    medians = one_by_one(options, lambda peer: measure(peer, options))
    calm = medians["nobody"][report.OURS]["p99"]
    columns = ["beside", "p50, ms", "p99, ms", "p99 against nobody", "memory, MB", "closed"]
    rows = []
    for title, peers in medians.items():
        figures = peers[report.OURS]
        rows.append(
            [
                title,
                f"{figures['p50']:.2f}",
                f"{figures['p99']:.2f}",
                report.ratio(figures["p99"], calm),
                f"{figures['growth'] / 1e6:+.1f}",
                report.count(figures["closed"]),
            ]
        )
    table = report.table("latency of clients that behave; growth of the server", columns, rows)
    report.finish(
        "hostile", options, {"seconds": options.seconds}, json.loads(json.dumps(medians)), [table]
    )


if __name__ == "__main__":
    main()
