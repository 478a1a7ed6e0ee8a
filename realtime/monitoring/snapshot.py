"""What each serving process reports of itself, and the whole that these make.

A process writes its figures into Redis every two seconds with its sign of life, and reads those of
the others in the same breath; those of a process that has gone are left out. With a layer of one
process that process is the whole. Knows figures, not what is counted where
(:mod:`realtime.monitoring.counters`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from realtime.cluster import get_cluster


class Distribution(msgspec.Struct):
    """A histogram: values up to each bound, those above all, and the sum of all."""

    bounds: list[float]
    counts: list[int]
    total: float


class Figures(msgspec.Struct):
    """One process's figures: counters since it started, current numbers, rates of 2 seconds.

    ``at`` and ``started`` are in seconds since 1970. ``lag`` is the mean time from publishing to
    writing in seconds, of the messages of the last two seconds, or ``None`` without any;
    ``loop_lag`` is how late the event loop was, ``round_trip`` what the last question to the
    channel layer took, in seconds. ``buffered`` is bytes that clients have not taken.
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
    distributions: dict[str, Distribution]
    # Subscription type -> messages in the log. During an upgrade there are processes without it.
    log: dict[str, int] = {}


_decoder = msgspec.json.Decoder(Figures)


async def exchange(mine: Figures) -> list[Figures]:
    """Report a process's figures; return those of all, its own at least. Raises ``Unavailable``."""
    texts = await get_cluster().exchange(mine.process, msgspec.json.encode(mine))
    figures = map(_decoder.decode, texts)
    return _sorted([mine, *(other for other in figures if other.process != mine.process)])


def read_all() -> list[Figures]:
    """Return what the running processes reported; blocks.

    Raises:
        realtime.cluster.clients.Unavailable: the channel layer does not answer.
    """
    latest: dict[str, Figures] = {}
    for figures in map(_decoder.decode, get_cluster().read_figures()):
        other = latest.get(figures.process)
        if other is None or other.at < figures.at:
            latest[figures.process] = figures
    return _sorted(latest.values())


def _sorted(processes: Iterable[Figures]) -> list[Figures]:
    return sorted(processes, key=lambda figures: figures.process)


def whole(processes: Sequence[Figures]) -> dict[str, Any]:
    """Make one of many.

    Numbers are sums, but for ``published_per_second``: each process takes what is published, so
    the most that any takes counts. ``lag`` is the mean weighted by deliveries; ``loop_lag`` and
    ``round_trip`` are the worst. ``log`` is the longest that any has seen.
    """
    delivering = [one for one in processes if one.lag is not None]
    weight = sum(one.delivered_per_second for one in delivering)
    weighted = sum((one.lag or 0) * one.delivered_per_second for one in delivering)
    result: dict[str, Any] = {
        "processes": len(processes),
        "hosts": len({one.host for one in processes}),
        "lag": weighted / weight if weight else None,
        "loop_lag": max((one.loop_lag for one in processes), default=0.0),
        "round_trip": max((one.round_trip for one in processes), default=0.0),
    }
    published = (one.published_per_second for one in processes)
    result["published_per_second"] = max(published, default=0.0)
    for name in (
        "connections",
        "buffered",
        "received_per_second",
        "delivered_per_second",
    ):
        result[name] = sum(getattr(one, name) for one in processes)
    result["subscriptions"] = _sum(one.subscriptions for one in processes)
    kinds = {kind for one in processes for kind in one.log}
    result["log"] = {kind: max(one.log.get(kind, 0) for one in processes) for kind in sorted(kinds)}
    result |= _sum(one.counters for one in processes)
    return result


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total
