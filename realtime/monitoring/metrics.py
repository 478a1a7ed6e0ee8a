"""What a process counts and measures: the one table of its numbers, and how they add up. Pure.

Every number of :class:`Counters` and every row of :data:`GAUGES` is a :class:`Metric`. Snapshots,
totals, ``/metrics`` and ``/api/stats`` go through :data:`METRICS`, so a new counter is one line in
:class:`Counters`, besides the line that counts.
"""

# What the functions below return is a dataclass's field, not a default that instances share.
# ruff: noqa: RUF009

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from realtime.protocol import SUBSCRIPTION_TYPES

if TYPE_CHECKING:
    from realtime.config import WebSocketConfig

# Upper bounds: seconds from publishing to writing, and connections that a message goes to.
LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
FAN_OUT_BOUNDS = (1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)
# Of the configuration in force, what get_stats() has.
CONFIG_KEYS = ("host", "port", "max_connections", "require_auth")

ByType = dict[str, int]


class Metric(NamedTuple):
    """A number of a process, or several of them: one for each value of the label *by*.

    ``field`` is its key in a snapshot and in the totals. ``about`` is its help text in Prometheus,
    which does not get a metric without one; ``name`` its name there after ``realtime_``, if not the
    field's. Metrics of the same name differ in ``labels``. ``total`` makes the total of the numbers
    of all processes; a metric without it has no total.
    """

    field: str
    about: str = ""
    name: str = ""
    total: Callable[[Sequence[Any]], Any] | None = None
    by: str = ""
    labels: Mapping[str, str] = MappingProxyType({})
    # One of Prometheus' types: counter, gauge or histogram.
    type: str = "gauge"

    def add_up(self, numbers: Sequence[Mapping[str, Any]]) -> Any:
        """Return the total of the values that processes have for this metric among their numbers.

        During an upgrade there are processes that do not count everything yet.
        """
        assert self.total is not None
        values = [own[self.field] for own in numbers if self.field in own]
        if not self.by:
            return self.total(values) if values else 0
        labels = dict.fromkeys(label for value in values for label in value)
        return {
            label: self.total([value[label] for value in values if label in value])
            for label in labels
        }


@dataclass(slots=True)
class Histogram:
    """How many values were up to each of some bounds, how many above all, and the sum of all."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value that has occurred so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


def _by_type() -> ByType:
    return dict.fromkeys(SUBSCRIPTION_TYPES, 0)


def counted(about: str, make: Callable[[], Any] = int, **more: Any) -> Any:
    """Declare a number that only grows, or several of them: the fields of its :class:`Metric`."""
    return field(default_factory=make, metadata={"about": about, "type": "counter", **more})


number = partial(counted, total=sum)
by_type = partial(counted, make=_by_type, by="type", total=sum)
attempts = partial(number, "Attempts to authenticate", name="authentications")


@dataclass(slots=True)
class Counters:
    """The numbers of this process. To count is to add to an attribute, without a lock.

    Those of connections and messages have been counted since the process started.
    """

    is_running: bool = False
    # Current numbers, which GAUGES describes. ``log`` has the types whose log answered when it was
    # last asked.
    active_clients: int = 0
    subscriptions: ByType = field(default_factory=_by_type)
    log: ByType = field(default_factory=dict)
    loop_lag: float = 0.0
    round_trip: float = 0.0

    total_connections: int = number("Connections that were taken", name="handshakes")
    refused_connections: int = number("Connections there was no room for, or refused")
    messages_received: int = number("Messages from clients")
    received_bytes: int = number("Bytes of messages from clients")
    messages_sent: int = number("Messages and replies to clients")
    rate_limited: int = number("Messages refused by the rate limit")
    slow_consumers: int = number("Connections closed because the client did not read")
    # Every process looks at the same servers.
    evicted_keys: int = number("Keys that full Redis or Valkey servers have removed", total=max)
    replays: int = number("Subscriptions that got retained messages first")
    authenticated: int = attempts(labels={"result": "accepted"})
    auth_failures: int = attempts(labels={"result": "refused"})
    # Attempts that got no answer in time.
    auth_unavailable: int = attempts(labels={"result": "unavailable"})

    # Every process receives all that is published, so the total is what one of them has received.
    published: ByType = by_type("Messages that the channel layer or the log has brought", total=max)
    published_bytes: ByType = by_type("Bytes of the payloads that these have brought", total=max)
    delivered: ByType = by_type("Data messages to clients")
    delivered_bytes: ByType = by_type("Bytes of data messages to clients")
    replayed: ByType = by_type("Data messages to clients that resumed or rewound")
    repaired: ByType = by_type("Messages that the channel layer did not bring and the log did")
    lost: ByType = by_type("Messages that could not be delivered any more")
    dead_connections: ByType = by_type("Times that a group's connection was dead or led elsewhere")
    dropped: ByType = by_type("Data messages not sent to clients that had chosen to miss some")
    # 1006 is the code of a connection that ended without a close frame.
    closes: Counter[int] = counted("Connections that ended, by close code", Counter, by="code")

    latency: Histogram = counted(
        "From publishing to writing to a client's socket",
        partial(Histogram, LATENCY_BOUNDS),
        name="publish_to_write_seconds",
        type="histogram",
    )
    fan_out: Histogram = counted(
        "Connections that a message goes to with one filter",
        partial(Histogram, FAN_OUT_BOUNDS),
        name="fan_out_connections",
        type="histogram",
    )

    def read(self, metrics: Iterable[Metric]) -> dict[str, Any]:
        """Return copies of some of the numbers, under the fields of their metrics."""
        return {metric.field: deepcopy(getattr(self, metric.field)) for metric in metrics}

    def report(self, config: WebSocketConfig) -> dict[str, Any]:
        """Return what ``get_stats()`` returns of a process: the documented keys, and more.

        ``messages_sent`` counts data messages and replies to clients; ``messages_published``
        counts, by type, messages that reached this process through the channel layer.
        """
        return {
            "is_running": self.is_running,
            "active_clients": self.active_clients,
            "total_subscriptions": sum(self.subscriptions.values()),
            "config": {name: getattr(config, name) for name in CONFIG_KEYS},
            **self.read(PLAIN_COUNTERS),
            "subscriptions_by_type": dict(self.subscriptions),
            "messages_published": dict(self.published),
        }


_COUNTED = tuple(Metric(f.name, **f.metadata) for f in fields(Counters) if f.metadata)
# The numbers of a snapshot that do not only grow.
GAUGES = (
    Metric("connections", "Open connections", total=sum),
    Metric("subscriptions", "Subscriptions", total=sum, by="type"),
    # There is one log, and each process asks for its length at a time of its own.
    Metric("log", "Messages in the log, the same for all processes", "log_messages", max, "type"),
    Metric("buffered", "Bytes that clients have not taken", "buffered_bytes", sum),
    Metric("resident", "Resident memory of the process", "resident_bytes", sum),
    Metric("draining", "Whether the process is ending"),
    Metric("loop_lag", "How late the event loop was at most, of late", "loop_lag_seconds", max),
    Metric("round_trip", "The last question to the channel layer", "layer_round_trip_seconds", max),
    Metric("started", "When the process started, since 1970", "start_time_seconds"),
    Metric("at", "When the process reported this, since 1970", "report_time_seconds"),
    # Prometheus works out rates itself.
    Metric("received_per_second", total=sum),
    Metric("published_per_second", total=max),
    Metric("delivered_per_second", total=sum),
)
METRICS = (*GAUGES, *_COUNTED)
# Those of a process's counters that are one number, that have one for each type, and histograms.
PLAIN_COUNTERS = tuple(m for m in _COUNTED if m.type == "counter" and not m.by)
COUNTERS_BY_TYPE = tuple(m for m in _COUNTED if m.by == "type")
HISTOGRAMS = tuple(m for m in _COUNTED if m.type == "histogram")
