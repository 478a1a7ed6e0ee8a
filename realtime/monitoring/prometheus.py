"""Snapshots, the outbox and processors in the text format of Prometheus.

Names and units follow Prometheus' own practice (prometheus.io/docs/practices/naming). Knows nothing
of where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from realtime.monitoring.metrics import METRICS, Histogram, Metric
from realtime.monitoring.snapshot import Report, Snapshot

_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def expose(snapshots: Sequence[Snapshot]) -> bytes:
    """Return the metrics of processes, each with the process's name as a label.

    During an upgrade there are processes that do not count everything yet; what they do not count
    is left out.
    """
    numbers = {snapshot.process: snapshot.numbers() for snapshot in snapshots}
    families: dict[str, Any] = {}
    for metric in METRICS:
        if not metric.about:
            continue
        name = f"realtime_{metric.name or metric.field}"
        if name not in families:
            labels = ["process", *metric.labels, *([metric.by] if metric.by else ())]
            families[name] = _FAMILIES[metric.type](name, metric.about, labels=labels)
        for process, values in numbers.items():
            if metric.field in values:
                labels = [process, *metric.labels.values()]
                _add(families[name], metric, labels, values[metric.field])
    return _as_text(*families.values())


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
    messages = _gauge("outbox_messages", "Messages that are not published yet", "state")
    messages.add_metric(["waiting"], waiting)
    messages.add_metric(["parked"], parked)
    oldest = _gauge("outbox_oldest_seconds", "For how long the oldest message has waited")
    oldest.add_metric([], age)
    return _as_text(messages, oldest)


def expose_processors(reports: Sequence[Report]) -> bytes:
    """Return the metrics of processors, which are the same on every host."""
    labels = ("processor", "type")
    lag = _gauge("processor_lag_messages", "Messages that it has not taken in", *labels)
    about = "When it last read its type's log, since 1970"
    read = _gauge("processor_read_time_seconds", about, *labels)
    out = _gauge("processor_left_out_messages", "Messages that did not count", *labels, "reason")
    for report in reports:
        lag.add_metric([report.processor, report.source], report.lag)
        read.add_metric([report.processor, report.source], report.read_at)
        for reason, count in report.left_out.items():
            out.add_metric([report.processor, report.source, reason], count)
    return _as_text(lag, read, out)


def _gauge(name: str, about: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"realtime_{name}", about, labels=labels)


class _Families(list[Any], Collector):
    def collect(self) -> Iterable[Any]:
        """Return the families."""
        return self


def _as_text(*families: Any) -> bytes:
    return generate_latest(_Families(families))
