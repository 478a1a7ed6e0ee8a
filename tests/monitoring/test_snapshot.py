"""The figures of one process, of many, and what Prometheus reads of them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from realtime.monitoring.counters import Histogram, Stats
from realtime.monitoring.prometheus import expose
from realtime.monitoring.sampler import Observer
from realtime.monitoring.snapshot import Figures, whole


class Unread:
    """A connection whose client has left something unread."""

    def buffered_bytes(self) -> int:
        """Return how many bytes wait."""
        return 100


def figures_of(name: str, stats: Stats, **changes: Any) -> Figures:
    """Return what an observer makes of counters."""
    observer = Observer(name, stats)
    made = asyncio.run(observer.observe([Unread()] * 3, draining=False))
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def busy() -> Stats:
    """Return counters of which every one says something else."""
    stats = Stats(active_clients=2, total_connections=3, messages_received=5, authenticated=7)
    stats.received_bytes, stats.auth_unavailable = 500, 1
    stats.published["events"] = 11
    stats.published_bytes["events"] = 1100
    stats.delivered["events"] = 26
    stats.delivered_bytes["events"] = 2600
    stats.replayed["events"] = 4
    stats.log = {"events": 40, "alerts": 0}
    stats.subscriptions["events"] = 2
    stats.count_close(1008)
    stats.count_close(1008)
    stats.latency.observe(0.004, 20)
    stats.latency.observe(60, 2)
    stats.fan_out.observe(2, 11)
    return stats


def test_a_histogram() -> None:
    histogram = Histogram((1.0, 10.0))
    for value, times in ((0.5, 1), (1.0, 2), (1.1, 4), (10, 8), (10.5, 16)):
        histogram.observe(value, times)
    assert histogram.counts == [3, 12, 16]
    assert histogram.total == 0.5 + 2 + 4.4 + 80 + 168


def test_one_process() -> None:
    made = figures_of("one", busy())
    assert (made.connections, made.buffered, made.draining) == (2, 300, False)
    assert made.lag == pytest.approx((0.08 + 120) / 22)
    assert made.delivered_per_second > 0 and made.received_per_second > 0
    assert made.resident > 1_000_000


def test_rates_are_of_the_time_between() -> None:
    stats = busy()
    observer = Observer("one", stats)

    async def twice() -> Figures:
        await observer.observe([], draining=True)
        return await observer.observe([], draining=True)

    again = asyncio.run(twice())
    assert (again.delivered_per_second, again.lag, again.draining) == (0, None, True)


def test_the_whole() -> None:
    lags = {"lag": 0.1, "delivered_per_second": 30.0, "published_per_second": 8.0}
    other: dict[str, Any] = {
        "lag": 0.4,
        "delivered_per_second": 10.0,
        "published_per_second": 9.0,
        "host": "b",
    }
    other["log"] = {"events": 41}
    total = whole([figures_of("one", busy(), **lags), figures_of("two", busy(), **other)])
    assert (total["processes"], total["hosts"], total["connections"]) == (2, 2, 4)
    assert total["lag"] == pytest.approx((0.1 * 30 + 0.4 * 10) / 40)
    # Each takes what is published, and each delivers to its own clients.
    assert (total["published_per_second"], total["delivered_per_second"]) == (9, 40)
    assert total["subscriptions"]["events"] == 4
    assert (total["total_connections"], total["messages_received"]) == (6, 10)
    # There is one log, and each looks at it at a time of its own.
    assert total["log"] == {"alerts": 0, "events": 41}


def test_nobody_is_a_whole_too() -> None:
    assert whole([])["processes"] == 0


def exposed(*processes: Figures) -> dict[tuple[Any, ...], float]:
    """Return what Prometheus reads: name and labels -> value."""
    families = list(text_string_to_metric_families(expose(processes).decode()))
    assert len({family.name for family in families}) == len(families)
    assert all(family.name.startswith("realtime_") for family in families)
    assert all(family.documentation for family in families)
    samples = [sample for family in families for sample in family.samples]
    values = {(one.name, *sorted(one.labels.items())): one.value for one in samples}
    assert len(values) == len(samples)
    return values


def test_a_process_that_does_not_report_everything_yet() -> None:
    old = figures_of("old", busy())
    for name in ("received_bytes", "auth_unavailable"):
        del old.counters[name]
    for name in ("published_bytes", "replayed"):
        del old.by_type[name]
    written = msgspec.to_builtins(old, str_keys=True)
    del written["log"]
    old = msgspec.convert(written, Figures, strict=False)
    values = exposed(old, figures_of("new", busy()))
    assert values["realtime_received_bytes_total", ("process", "new")] == 500
    assert values["realtime_published_total", ("process", "old"), ("type", "events")] == 11
    assert ("realtime_log_messages", ("process", "old"), ("type", "events")) not in values
    total = whole([old, figures_of("new", busy())])
    assert total["log"]["events"] == 40 and total["received_bytes"] == 500


def test_what_prometheus_reads() -> None:
    values = exposed(figures_of("one", busy()), figures_of("two", Stats()))
    one = ("process", "one")
    assert values["realtime_connections", one] == 2
    assert values["realtime_connections", ("process", "two")] == 0
    assert values["realtime_report_time_seconds", one] == pytest.approx(time.time(), abs=60)
    assert values["realtime_handshakes_total", one] == 3
    events = ("type", "events")
    assert values["realtime_received_bytes_total", one] == 500
    assert values["realtime_published_bytes_total", one, events] == 1100
    assert values["realtime_delivered_total", one, events] == 26
    assert values["realtime_delivered_bytes_total", one, events] == 2600
    assert values["realtime_replayed_total", one, events] == 4
    assert values["realtime_log_messages", one, events] == 40
    assert values["realtime_authentications_total", one, ("result", "accepted")] == 7
    assert values["realtime_authentications_total", one, ("result", "unavailable")] == 1
    assert values["realtime_closes_total", ("code", "1008"), one] == 2
    name = "realtime_publish_to_write_seconds"
    assert values[f"{name}_bucket", ("le", "0.0025"), one] == 0
    assert values[f"{name}_bucket", ("le", "0.005"), one] == 20
    assert values[f"{name}_bucket", ("le", "+Inf"), one] == values[f"{name}_count", one] == 22
    assert values[f"{name}_sum", one] == pytest.approx(120.08)
