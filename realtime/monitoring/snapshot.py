"""What serving processes and processors report of themselves, and the totals of all processes.

A process makes a snapshot every two seconds, writes it into Redis after its sign of life, and reads
those of the others in the same step; those of processes that have gone are left out. With a channel
layer of one process there is only that process. Knows nothing of which numbers there are
(:mod:`realtime.monitoring.metrics`) and of when they are read.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import psutil

from realtime.cluster import get_cluster
from realtime.monitoring.metrics import (
    COUNTERS_BY_TYPE,
    HISTOGRAMS,
    METRICS,
    PLAIN_COUNTERS,
    Counters,
    Histogram,
)

# Seconds between two measurements of how late the loop is, and of how many the worst one counts.
MEASURE_INTERVAL = 0.25
MEASUREMENTS = 8
# Connections that are asked before other tasks may run.
AT_ONCE = 1000
# Seconds after which a processor that nobody runs is forgotten.
FORGET_AFTER = 86_400


class Snapshot(msgspec.Struct):
    """What one process reports: counters since it started, current numbers, rates of 2 seconds.

    ``at`` and ``started`` are in seconds since 1970. ``lag`` is the mean time from publishing to
    writing in seconds, of the messages of the last two seconds, or ``None`` without any;
    ``loop_lag`` is how late the event loop was, ``round_trip`` how long the channel layer took for
    its last answer, in seconds. ``buffered`` is bytes that clients have not taken.
    """

    process: str
    host: str
    pid: int
    at: float
    started: float
    draining: bool
    connections: int
    subscriptions: dict[str, int]
    buffered: int
    resident: int
    received_per_second: float
    published_per_second: float
    delivered_per_second: float
    lag: float | None
    loop_lag: float
    round_trip: float
    counters: dict[str, int]
    # Name -> subscription type -> count.
    by_type: dict[str, dict[str, int]]
    closes: dict[int, int]
    distributions: dict[str, Histogram]
    # Subscription type -> messages in the log. During an upgrade there are processes without it.
    log: dict[str, int] = {}

    def numbers(self) -> dict[str, Any]:
        """Return all numbers under the fields of their metrics, as far as this process has them."""
        own = msgspec.structs.asdict(self)
        return own | self.counters | self.by_type | self.distributions


class Buffering(Protocol):
    """A connection whose client may leave things unread."""

    def buffered_bytes(self) -> int:
        """Return how many bytes wait."""


class Sampler:
    """Makes snapshots of a process's counters, with rates since the snapshot before.

    It also measures what nobody counts: how late the loop is, and what clients leave unread.
    """

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
        counters, now = self._counters, time.monotonic()
        current = (
            counters.messages_received,
            sum(counters.published.values()),
            sum(counters.delivered.values()),
            counters.latency.count,
            counters.latency.total,
        )
        received, published, delivered, live, latency = (
            new - old for new, old in zip(current, self._before, strict=True)
        )
        elapsed = max(now - self._at, 0.001)
        self._before, self._at = current, now
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
            received_per_second=received / elapsed,
            published_per_second=published / elapsed,
            delivered_per_second=delivered / elapsed,
            lag=latency / live if live else None,  # messages that are replayed are not late
            loop_lag=counters.loop_lag,
            round_trip=counters.round_trip,
            counters=counters.read(PLAIN_COUNTERS),
            by_type=counters.read(COUNTERS_BY_TYPE),
            closes=dict(counters.closes),
            distributions=counters.read(HISTOGRAMS),
        )


_decoder = msgspec.json.Decoder(Snapshot)


async def exchange(own: Snapshot) -> list[Snapshot]:
    """Report a process's figures; return those of all, its own at least. Raises ``Unavailable``."""
    return _newest(await get_cluster().exchange(own.process, msgspec.json.encode(own)), own)


def read_all() -> list[Snapshot]:
    """Return what the running processes reported; blocks. Raises ``Unavailable``."""
    return _newest(get_cluster().read_figures())


def _newest(texts: Iterable[bytes], *own: Snapshot) -> list[Snapshot]:
    """Return the newest snapshot of each process, in the order of their names."""
    snapshots = sorted([*map(_decoder.decode, texts), *own], key=lambda snapshot: snapshot.at)
    newest = {snapshot.process: snapshot for snapshot in snapshots}
    return [newest[name] for name in sorted(newest)]


def add_up(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Return the totals of processes: what each metric of the table adds up to, and some more.

    ``lag`` is the mean over all deliveries, or ``None`` without any.
    """
    numbers = [snapshot.numbers() for snapshot in snapshots]
    late = [snapshot for snapshot in snapshots if snapshot.lag is not None]
    weight = sum(snapshot.delivered_per_second for snapshot in late)
    weighted = sum((snapshot.lag or 0) * snapshot.delivered_per_second for snapshot in late)
    return {
        "processes": len(snapshots),
        "hosts": len({snapshot.host for snapshot in snapshots}),
        "lag": weighted / weight if weight else None,
        **{metric.field: metric.add_up(numbers) for metric in METRICS if metric.total},
    }


# Processors: rules and predictors. A report stays after its process has ended: an operator has to
# learn that nobody runs a processor any more.


class Report(msgspec.Struct):
    """The state of a processor.

    ``group`` names the processes that share its work, ``source`` the subscription type that it
    reads. ``lag`` is the number of messages in the source's log that it has not taken in,
    ``read_at`` when it last took in what it had read, in seconds since 1970. ``left_out`` is how
    many messages did not count, by reason.
    """

    group: str
    processor: str
    source: str
    lag: int
    read_at: float
    left_out: dict[str, int] = {}


_report = msgspec.json.Decoder(Report)


async def report(group: str, names: Collection[str], running: Sequence[Report]) -> None:
    """Report the processors that run here; forget those of the group that are not in *names*.

    Raises ``Unavailable``.
    """
    long_ago = time.time() - FORGET_AFTER
    reports = {each.processor: each for each in (*await read_reports(), *running)}
    forgotten = {
        name
        for name, each in reports.items()
        if each.read_at < long_ago or (each.group == group and name not in names)
    }
    rows = {
        each.processor: msgspec.json.encode(each)
        for each in running
        if each.processor not in forgotten
    }
    await get_cluster().write_rows("processors", rows, forgotten, seconds=FORGET_AFTER)


async def read_reports() -> list[Report]:
    """Return how all processors stand, in the order of their names. Raises as :func:`report`."""
    rows = await get_cluster().read_rows("processors")
    return sorted(map(_report.decode, rows.values()), key=lambda report: report.processor)
