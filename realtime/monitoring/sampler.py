"""Watches one node: how late its loop is, what its clients leave unread; makes its figures.

Knows statistics and the clock; what becomes of the figures is :mod:`realtime.monitoring.snapshot`'.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterable
from typing import Protocol

import psutil

from realtime.monitoring.counters import COUNTERS_BY_TYPE, Histogram, Stats
from realtime.monitoring.snapshot import Distribution, Figures

# Seconds between looks at how late the loop is.
LOOK_INTERVAL = 0.25
# Connections looked at before others have their turn.
AT_ONCE = 1000


class Buffering(Protocol):
    """A connection whose client may leave things unread."""

    def buffered_bytes(self) -> int:
        """Return how many bytes wait."""


class Observer:
    """Turns a node's counters into figures, with rates since the time before."""

    def __init__(self, name: str, stats: Stats) -> None:
        self._name = name
        self._stats = stats
        self._started = time.time()
        self._process = psutil.Process()
        self._at = time.monotonic()
        # Received, published, delivered, latency's number and sum when figures were made last.
        self._before: tuple[float, ...] = (0, 0, 0, 0, 0)

    async def watch_loop(self) -> None:
        """Measure how late the loop is, until cancelled."""
        worst, looks = 0.0, 0
        while True:
            due = time.monotonic() + LOOK_INTERVAL
            await asyncio.sleep(LOOK_INTERVAL)
            worst = max(worst, time.monotonic() - due)
            looks += 1
            if looks * LOOK_INTERVAL >= 2:
                self._stats.loop_lag, worst, looks = worst, 0.0, 0

    async def observe(self, outlets: Iterable[Buffering], draining: bool) -> Figures:
        """Return this process's figures."""
        buffered = 0
        for number, outlet in enumerate(list(outlets), 1):
            buffered += outlet.buffered_bytes()
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
        stats = self._stats
        received, published, delivered, lag = self._rates()
        return Figures(
            process=self._name,
            host=socket.gethostname(),
            pid=os.getpid(),
            at=time.time(),
            started=self._started,
            draining=draining,
            connections=stats.active_clients,
            subscriptions=dict(stats.subscriptions),
            log=dict(stats.log),
            buffered=buffered,
            resident=self._process.memory_info().rss,
            received_per_second=received,
            published_per_second=published,
            delivered_per_second=delivered,
            lag=lag,
            loop_lag=stats.loop_lag,
            round_trip=stats.round_trip,
            counters=stats.counters,
            by_type={name: dict(getattr(stats, name)) for name in COUNTERS_BY_TYPE},
            closes=dict(stats.closes),
            distributions={
                "latency": _distribution(stats.latency),
                "fan_out": _distribution(stats.fan_out),
            },
        )

    def _rates(self) -> tuple[float, float, float, float | None]:
        stats, now = self._stats, time.monotonic()
        current = (
            stats.messages_received,
            sum(stats.published.values()),
            sum(stats.delivered.values()),
            stats.latency.count,
            stats.latency.total,
        )
        elapsed = max(now - self._at, 0.001)
        received, published, delivered, live, latency = (
            new - old for new, old in zip(current, self._before, strict=True)
        )
        self._before, self._at = current, now
        lag = latency / live if live else None  # what is replayed is not late
        return received / elapsed, published / elapsed, delivered / elapsed, lag


def _distribution(histogram: Histogram) -> Distribution:
    return Distribution(list(histogram.bounds), list(histogram.counts), histogram.total)
