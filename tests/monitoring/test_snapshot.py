"""Snapshots of a process, the totals of several, and what Prometheus reads of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from realtime.config import WebSocketConfig
from realtime.monitoring.metrics import (
    COUNTERS_BY_TYPE,
    METRICS,
    PLAIN_COUNTERS,
    Counters,
    Histogram,
)
from realtime.monitoring.prometheus import expose
from realtime.monitoring.snapshot import Sampler, Snapshot, add_up


class Unread:
    """A connection whose client has left something unread."""

    def buffered_bytes(self) -> int:
        """Return how many bytes wait."""
        return 100


def snapshot_of(name: str, counters: Counters, **changes: Any) -> Snapshot:
    """Return a snapshot of counters, with changes."""
    sampler = Sampler(name, counters)
    snapshot = asyncio.run(sampler.take_snapshot([Unread()] * 3, draining=False))
    return msgspec.structs.replace(snapshot, **changes)


def busy() -> Counters:
    """Return counters that have counted."""
    counters = Counters(active_clients=2, total_connections=3, messages_received=5, authenticated=7)
    counters.received_bytes, counters.auth_unavailable = 500, 1
    counters.published["events"] = 11
    counters.published_bytes["events"] = 1100
    counters.delivered["events"] = 26
    counters.delivered_bytes["events"] = 2600
    counters.replayed["events"] = 4
    counters.log = {"events": 40, "alerts": 0}
    counters.subscriptions["events"] = 2
    counters.closes[1008] += 2
    counters.latency.observe(0.004, 20)
    counters.latency.observe(60, 2)
    counters.fan_out.observe(2, 11)
    return counters


def test_a_histogram() -> None:
    histogram = Histogram((1.0, 10.0))
    for value, times in ((0.5, 1), (1.0, 2), (1.1, 4), (10, 8), (10.5, 16)):
        histogram.observe(value, times)
    assert histogram.counts == [3, 12, 16]
    assert histogram.total == 0.5 + 2 + 4.4 + 80 + 168


def test_one_process() -> None:
    snapshot = snapshot_of("one", busy())
    assert (snapshot.connections, snapshot.buffered, snapshot.draining) == (2, 300, False)
    assert snapshot.lag == pytest.approx((0.08 + 120) / 22)
    assert snapshot.delivered_per_second > 0 and snapshot.received_per_second > 0
    assert snapshot.resident > 1_000_000


def test_a_snapshot_is_a_copy() -> None:
    counters = busy()
    snapshot = snapshot_of("one", counters)
    before = msgspec.json.encode(snapshot)
    for metric in METRICS:
        numbers = getattr(counters, metric.field, None)
        if isinstance(numbers, dict):
            numbers["events"] = 99
        elif isinstance(numbers, Histogram):
            numbers.observe(1.0)
    assert msgspec.json.encode(snapshot) == before
    assert msgspec.json.decode(before, type=Snapshot) == snapshot


def test_every_metric_of_the_table_is_in_a_snapshot_the_totals_and_prometheus() -> None:
    """A counter that is declared is reported everywhere, with what it has counted."""
    counters = Counters(closes=Counter({1000: 1}), log={"events": 2})
    expected: dict[str, Any] = {}
    for number, metric in enumerate(PLAIN_COUNTERS, 1):
        setattr(counters, metric.field, number)
        expected[metric.field] = number
    for number, metric in enumerate(COUNTERS_BY_TYPE, 100):
        expected[metric.field] = getattr(counters, metric.field)
        expected[metric.field]["events"] = number
    snapshot = snapshot_of("one", counters)
    numbers, totals = snapshot.numbers(), add_up([snapshot])
    assert {metric.field for metric in METRICS} <= numbers.keys()
    assert {name: numbers[name] for name in expected} == expected
    assert {name: totals[name] for name in expected} == expected
    assert counters.report(WebSocketConfig()).keys() >= {m.field for m in PLAIN_COUNTERS}
    values = exposed(snapshot)
    for metric in (*PLAIN_COUNTERS, *COUNTERS_BY_TYPE):
        labels = {"process": "one", **metric.labels} | ({"type": "events"} if metric.by else {})
        value = expected[metric.field]
        sample = values[f"realtime_{metric.name or metric.field}_total", *sorted(labels.items())]
        assert sample == (value["events"] if metric.by else value)
    families = {name for name, *_ in values}
    for metric in METRICS:
        name = f"realtime_{metric.name or metric.field}"
        assert any(family.startswith(name) for family in families) is bool(metric.about)


def test_rates_are_of_the_time_between() -> None:
    counters = busy()
    sampler = Sampler("one", counters)

    async def twice() -> Snapshot:
        await sampler.take_snapshot([], draining=True)
        return await sampler.take_snapshot([], draining=True)

    again = asyncio.run(twice())
    assert (again.delivered_per_second, again.lag, again.draining) == (0, None, True)


def test_totals() -> None:
    lags = {"lag": 0.1, "delivered_per_second": 30.0, "published_per_second": 8.0}
    other: dict[str, Any] = {
        "lag": 0.4,
        "delivered_per_second": 10.0,
        "published_per_second": 9.0,
        "host": "b",
    }
    other["log"] = {"events": 41}
    total = add_up([snapshot_of("one", busy(), **lags), snapshot_of("two", busy(), **other)])
    assert (total["processes"], total["hosts"], total["connections"]) == (2, 2, 4)
    assert total["lag"] == pytest.approx((0.1 * 30 + 0.4 * 10) / 40)
    # Each takes what is published, and each delivers to its own clients.
    assert (total["published_per_second"], total["delivered_per_second"]) == (9, 40)
    assert total["subscriptions"]["events"] == 4
    assert (total["total_connections"], total["messages_received"]) == (6, 10)
    assert (total["published"]["events"], total["delivered"]["events"]) == (11, 52)
    assert total["resident"] > 2_000_000
    # There is one log, and each looks at it at a time of its own.
    assert total["log"] == {"alerts": 0, "events": 41}


def test_the_totals_of_no_process() -> None:
    totals = add_up([])
    assert totals["processes"] == totals["connections"] == totals["loop_lag"] == 0
    assert totals["lag"] is None and totals["lost"] == {}


def exposed(*processes: Snapshot) -> dict[tuple[Any, ...], float]:
    """Return what Prometheus reads: name and labels -> value."""
    families = list(text_string_to_metric_families(expose(processes).decode()))
    assert len({family.name for family in families}) == len(families)
    assert all(family.name.startswith("realtime_") for family in families)
    assert all(family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    values = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}
    assert len(values) == len(samples)
    return values


def test_a_process_that_does_not_report_everything_yet() -> None:
    old = snapshot_of("old", busy())
    for name in ("received_bytes", "auth_unavailable"):
        del old.counters[name]
    for name in ("published_bytes", "replayed"):
        del old.by_type[name]
    written = msgspec.to_builtins(old, str_keys=True)
    del written["log"]
    old = msgspec.convert(written, Snapshot, strict=False)
    values = exposed(old, snapshot_of("new", busy()))
    assert values["realtime_received_bytes_total", ("process", "new")] == 500
    assert values["realtime_published_total", ("process", "old"), ("type", "events")] == 11
    assert ("realtime_log_messages", ("process", "old"), ("type", "events")) not in values
    total = add_up([old, snapshot_of("new", busy())])
    assert total["log"]["events"] == 40 and total["received_bytes"] == 500


def test_what_prometheus_reads() -> None:
    values = exposed(snapshot_of("one", busy()), snapshot_of("two", Counters()))
    process = ("process", "one")
    assert values["realtime_connections", process] == 2
    assert values["realtime_connections", ("process", "two")] == 0
    assert values["realtime_report_time_seconds", process] == pytest.approx(time.time(), abs=60)
    assert values["realtime_handshakes_total", process] == 3
    events = ("type", "events")
    assert values["realtime_received_bytes_total", process] == 500
    assert values["realtime_published_bytes_total", process, events] == 1100
    assert values["realtime_delivered_total", process, events] == 26
    assert values["realtime_delivered_bytes_total", process, events] == 2600
    assert values["realtime_replayed_total", process, events] == 4
    assert values["realtime_log_messages", process, events] == 40
    assert values["realtime_authentications_total", process, ("result", "accepted")] == 7
    assert values["realtime_authentications_total", process, ("result", "unavailable")] == 1
    assert values["realtime_closes_total", ("code", "1008"), process] == 2
    name = "realtime_publish_to_write_seconds"
    assert values[f"{name}_bucket", ("le", "0.0025"), process] == 0
    assert values[f"{name}_bucket", ("le", "0.005"), process] == 20
    assert (
        values[f"{name}_bucket", ("le", "+Inf"), process] == values[f"{name}_count", process] == 22
    )
    assert values[f"{name}_sum", process] == pytest.approx(120.08)
