"""Snapshots, the outbox and processors in the text format of Prometheus.

Names and units follow Prometheus' own practice (prometheus.io/docs/practices/naming). Knows nothing
of where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import prometheus_client.core as families
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from realtime.monitoring.metrics import METRICS, Histogram, Metric, MetricType
from realtime.monitoring.processors import Report
from realtime.monitoring.snapshot import Snapshot

__all__ = ["CONTENT_TYPE_LATEST", "expose", "expose_outbox", "expose_processors"]

_FAMILIES: dict[MetricType, Any] = {
    MetricType.COUNTER: families.CounterMetricFamily,
    MetricType.GAUGE: families.GaugeMetricFamily,
    MetricType.HISTOGRAM: families.HistogramMetricFamily,
}


def expose(snapshots: Sequence[Snapshot]) -> bytes:
    """Return the metrics of processes, each with the process's name as a label.

    During an upgrade there are processes that do not count everything yet; what they do not count
    is left out.
    """
    numbers = {snapshot.process: snapshot.numbers() for snapshot in snapshots}
    exposed: dict[str, Any] = {}
    for metric in METRICS:
        if not metric.name:
            continue
        if metric.name not in exposed:
            labels = ["process", *metric.labels, *([metric.by] if metric.by else ())]
            make = _FAMILIES[metric.type]
            exposed[metric.name] = make(f"realtime_{metric.name}", metric.about, labels=labels)
        for process, values in numbers.items():
            if metric.field in values:
                labels = [process, *metric.labels.values()]
                _add(exposed[metric.name], metric, labels, values[metric.field])
    return _as_text(exposed.values())


def _add(family: Any, metric: Metric, labels: list[str], value: Any) -> None:
    """Add a process's value of a metric to its family: one sample, or one for each label."""
    if isinstance(value, Histogram):
        bounds = [*map(str, value.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(value.counts), strict=True))
        family.add_metric(labels, buckets, value.total)
    elif metric.by:
        for label, number in value.items():
            family.add_metric([*labels, str(label)], number)
    else:
        family.add_metric(labels, value)


def expose_outbox(waiting: int, parked: int, age: float) -> bytes:
    """Return the metrics of the outbox, which are the same on every host; *age* in seconds."""
    messages = families.GaugeMetricFamily(
        "realtime_outbox_messages", "Messages that are not published yet", labels=["state"]
    )
    messages.add_metric(["waiting"], waiting)
    messages.add_metric(["parked"], parked)
    oldest = families.GaugeMetricFamily(
        "realtime_outbox_oldest_seconds", "For how long the oldest message has waited", value=age
    )
    return _as_text([messages, oldest])


def expose_processors(reports: Sequence[Report]) -> bytes:
    """Return the metrics of processors, which are the same on every host."""
    labels = ["processor", "type"]
    lag = families.GaugeMetricFamily(
        "realtime_processor_lag_messages", "Messages that it has not taken in", labels=labels
    )
    read = families.GaugeMetricFamily(
        "realtime_processor_read_time_seconds",
        "When it last read its type's log, since 1970",
        labels=labels,
    )
    for report in reports:
        lag.add_metric([report.processor, report.source], report.lag)
        read.add_metric([report.processor, report.source], report.read_at)
    return _as_text([lag, read])


class _Families(Collector):
    def __init__(self, metrics: Iterable[families.Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[families.Metric]:
        """Return the metrics."""
        return self._metrics


def _as_text(metrics: Iterable[families.Metric]) -> bytes:
    return generate_latest(_Families(metrics))
