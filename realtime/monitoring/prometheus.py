"""Figures in the text format of Prometheus. Knows names and units; nothing of where they are from.

Names and units follow Prometheus' own practice (prometheus.io/docs/practices/naming).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from realtime.monitoring.processors import Report
from realtime.monitoring.snapshot import Figures

__all__ = ["CONTENT_TYPE_LATEST", "expose", "expose_outbox", "expose_processors"]

# Counter -> its name in Prometheus, and what it counts.
COUNTERS = {
    "total_connections": ("handshakes", "Connections that were taken"),
    "refused_connections": ("refused_connections", "Connections there was no room for, or refused"),
    "messages_received": ("messages_received", "Messages from clients"),
    "received_bytes": ("received_bytes", "Bytes of messages from clients"),
    "messages_sent": ("messages_sent", "Messages and replies to clients"),
    "rate_limited": ("rate_limited", "Messages refused by the rate limit"),
    "slow_consumers": ("slow_consumers", "Connections closed because the client did not read"),
    "replays": ("replays", "Subscriptions that got retained messages first"),
}
COUNTERS_BY_TYPE = {
    "published": ("published", "Messages that the channel layer or the log has brought"),
    "published_bytes": ("published_bytes", "Bytes of the payloads that these have brought"),
    "delivered": ("delivered", "Data messages to clients"),
    "delivered_bytes": ("delivered_bytes", "Bytes of data messages to clients"),
    "replayed": ("replayed", "Data messages to clients that resumed or rewound"),
    "repaired": ("repaired", "Messages that the channel layer did not bring and the log did"),
    "lost": ("lost", "Messages that could not be delivered any more"),
    "dropped": ("dropped", "Data messages not sent to clients that had chosen to miss some"),
}
GAUGES = {
    "connections": ("connections", "Open connections"),
    "at": ("report_time_seconds", "When the process reported this, since 1970"),
    "buffered": ("buffered_bytes", "Bytes that clients have not taken"),
    "resident": ("resident_bytes", "Resident memory of the process"),
    "draining": ("draining", "Whether the process is ending"),
    "loop_lag": ("loop_lag_seconds", "How late the event loop was at most, of late"),
    "round_trip": ("layer_round_trip_seconds", "The last question to the channel layer"),
    "started": ("start_time_seconds", "When the process started, since 1970"),
}
GAUGES_BY_TYPE = {
    "subscriptions": ("subscriptions", "Subscriptions"),
    "log": ("log_messages", "Messages in the log, the same for all processes"),
}
AUTHENTICATIONS = {
    "accepted": "authenticated",
    "refused": "auth_failures",
    "unavailable": "auth_unavailable",
}
DISTRIBUTIONS = {
    "latency": ("publish_to_write_seconds", "From publishing to writing to a client's socket"),
    "fan_out": ("fan_out_connections", "Connections that a message goes to with one filter"),
}


def expose(processes: Sequence[Figures]) -> bytes:
    """Return the figures of processes, each with its name as a label."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(processes))
    return generate_latest(registry)


class _Collector:
    def __init__(self, processes: Sequence[Figures]) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with a value of each process."""
        yield from self._gauges()
        yield from self._counters()
        for field, (name, about) in DISTRIBUTIONS.items():
            histogram = HistogramMetricFamily(f"realtime_{name}", about, labels=["process"])
            for one in self._processes:
                known = one.distributions[field]
                bounds = [*map(str, known.bounds), "+Inf"]
                buckets = list(zip(bounds, accumulate(known.counts), strict=True))
                histogram.add_metric([one.process], buckets, known.total)
            yield histogram

    def _gauges(self) -> Iterator[Metric]:
        for field, (name, about) in GAUGES.items():
            gauge = GaugeMetricFamily(f"realtime_{name}", about, labels=["process"])
            for one in self._processes:
                gauge.add_metric([one.process], float(getattr(one, field)))
            yield gauge
        for field, (name, about) in GAUGES_BY_TYPE.items():
            gauge = GaugeMetricFamily(f"realtime_{name}", about, labels=["process", "type"])
            for one in self._processes:
                for kind, count in getattr(one, field).items():
                    gauge.add_metric([one.process, kind], count)
            yield gauge

    def _counters(self) -> Iterator[Metric]:
        # During an upgrade there are processes that do not count everything yet.
        for field, (name, about) in COUNTERS.items():
            counter = CounterMetricFamily(f"realtime_{name}", about, labels=["process"])
            for one in self._processes:
                counter.add_metric([one.process], one.counters.get(field, 0))
            yield counter
        for field, (name, about) in COUNTERS_BY_TYPE.items():
            counter = CounterMetricFamily(f"realtime_{name}", about, labels=["process", "type"])
            for one in self._processes:
                for kind, count in one.by_type.get(field, {}).items():
                    counter.add_metric([one.process, kind], count)
            yield counter
        counter = CounterMetricFamily(
            "realtime_authentications", "Attempts to authenticate", labels=["process", "result"]
        )
        for one in self._processes:
            for result, field in AUTHENTICATIONS.items():
                counter.add_metric([one.process, result], one.counters.get(field, 0))
        yield counter
        counter = CounterMetricFamily(
            "realtime_closes", "Connections that ended, by close code", labels=["process", "code"]
        )
        for one in self._processes:
            for code, count in one.closes.items():
                counter.add_metric([one.process, str(code)], count)
        yield counter


def expose_outbox(waiting: int, parked: int, age: float) -> bytes:
    """Return the figures of the outbox, which are the same on every host; *age* in seconds."""
    messages = GaugeMetricFamily(
        "realtime_outbox_messages", "Messages that are not published yet", labels=["state"]
    )
    messages.add_metric(["waiting"], waiting)
    messages.add_metric(["parked"], parked)
    oldest = GaugeMetricFamily(
        "realtime_outbox_oldest_seconds", "For how long the oldest message has waited", value=age
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(messages, oldest))
    return generate_latest(registry)


def expose_processors(reports: Sequence[Report]) -> bytes:
    """Return the figures of processors, which are the same on every host."""
    labels = ["processor", "type"]
    lag = GaugeMetricFamily(
        "realtime_processor_lag_messages", "Messages that it has not taken in", labels=labels
    )
    read = GaugeMetricFamily(
        "realtime_processor_read_time_seconds",
        "When it last read its type's log, since 1970",
        labels=labels,
    )
    for one in reports:
        lag.add_metric([one.processor, one.source], one.lag)
        read.add_metric([one.processor, one.source], one.read_at)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Fixed(lag, read))
    return generate_latest(registry)


class _Fixed:
    def __init__(self, *metrics: Metric) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._metrics
