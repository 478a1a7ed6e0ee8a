"""Makes the snapshots of one process: reads its counters, and measures what nobody counts.

It measures how late the event loop is, and asks connections what their clients leave unread. Knows
nothing of where a snapshot goes (:mod:`realtime.monitoring.snapshot`).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterable
from typing import Protocol

import psutil

from realtime.monitoring.metrics import COUNTERS_BY_TYPE, HISTOGRAMS, PLAIN_COUNTERS, Counters
from realtime.monitoring.snapshot import Snapshot

# Seconds between two measurements of how late the loop is, and of how many the worst one counts.
MEASURE_INTERVAL = 0.25
MEASUREMENTS = 8
# Connections that are asked before other tasks may run.
AT_ONCE = 1000


class Buffering(Protocol):
    """A connection whose client may leave things unread."""

    def buffered_bytes(self) -> int:
        """Return how many bytes wait."""


class Sampler:
    """Makes snapshots of a process's counters, with rates since the snapshot before."""

    def __init__(self, name: str, counters: Counters) -> None:
        self._name = name
        self._counters = counters
        self._started = time.time()
        self._process = psutil.Process()
        # When the last snapshot was made, and what the rates are worked out from.
        self._at = time.monotonic()
        self._before: tuple[float, ...] = (0, 0, 0, 0, 0)

    async def watch_loop(self) -> None:
        """Measure how late the loop is, until cancelled."""
        while True:
            worst = 0.0
            for _ in range(MEASUREMENTS):
                due = time.monotonic() + MEASURE_INTERVAL
                await asyncio.sleep(MEASURE_INTERVAL)
                worst = max(worst, time.monotonic() - due)
            self._counters.loop_lag = worst

    async def take_snapshot(self, connections: Iterable[Buffering], draining: bool) -> Snapshot:
        """Return a copy of this process's numbers."""
        buffered = 0
        for number, connection in enumerate(list(connections), 1):
            buffered += connection.buffered_bytes()
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        counters = self._counters
        received, published, delivered, lag = self._rates()
        return Snapshot(
            process=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            at=time.time(),
            started=self._started,
            draining=draining,
            connections=counters.active_clients,
            subscriptions=dict(counters.subscriptions),
            log=dict(counters.log),
            buffered=buffered,
            resident=self._process.memory_info().rss,
            received_per_second=received,
            published_per_second=published,
            delivered_per_second=delivered,
            lag=lag,
            loop_lag=counters.loop_lag,
            round_trip=counters.round_trip,
            counters=counters.read(PLAIN_COUNTERS),
            by_type=counters.read(COUNTERS_BY_TYPE),
            closes=dict(counters.closes),
            distributions=counters.read(HISTOGRAMS),
        )

    def _rates(self) -> tuple[float, float, float, float | None]:
        """Return the messages per second received, published and delivered, and their mean lag."""
        counters, now = self._counters, time.monotonic()
        current = (
            counters.messages_received,
            sum(counters.published.values()),
            sum(counters.delivered.values()),
            counters.latency.count,
            counters.latency.total,
        )
        elapsed = max(now - self._at, 0.001)
        received, published, delivered, live, latency = (
            new - old for new, old in zip(current, self._before, strict=True)
        )
        self._before, self._at = current, now
        lag = latency / live if live else None  # messages that are replayed are not late
        return received / elapsed, published / elapsed, delivered / elapsed, lag
