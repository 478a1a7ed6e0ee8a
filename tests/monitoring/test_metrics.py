"""The statistics: the documented keys, and more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realtime import get_stats
from realtime.config import WebSocketConfig
from realtime.monitoring.metrics import Counters
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.server.handle import WebSocketServer
from tests.support.layers import layer_of

DOCUMENTED: dict[str, type] = {
    "is_running": bool,
    "active_clients": int,
    "total_connections": int,
    "total_subscriptions": int,
    "messages_sent": int,
    "messages_received": int,
    "config": dict,
}
DOCUMENTED_CONFIG: dict[str, type] = {
    "host": str,
    "port": int,
    "max_connections": int,
    "require_auth": bool,
}


def assert_documented(report: dict[str, Any]) -> None:
    """Check that the document's keys are there, with values of its kinds."""
    assert {key: type(report[key]) for key in DOCUMENTED} == DOCUMENTED
    assert {key: type(value) for key, value in report["config"].items()} == DOCUMENTED_CONFIG
    assert json.loads(json.dumps(report)) == report


def test_a_new_process_has_counted_nothing() -> None:
    report = Counters().report(WebSocketConfig())
    assert_documented(report)
    assert report["is_running"] is False
    numbers = [value for value in report.values() if type(value) is int]
    assert numbers and not any(numbers)


def test_the_configuration_is_the_one_in_force() -> None:
    config = WebSocketConfig(host="::1", port=1, max_connections=2, require_auth=False)
    report = Counters().report(config)
    assert report["config"] == {
        "host": "::1",
        "port": 1,
        "max_connections": 2,
        "require_auth": False,
    }


def test_subscriptions_are_summed_over_the_types() -> None:
    counters = Counters(is_running=True)
    for number, kind in enumerate(SUBSCRIPTION_TYPES, start=1):
        counters.subscriptions[kind] += number
        counters.published[kind] += 10 * number
    report = counters.report(WebSocketConfig())
    assert report["is_running"] is True
    assert report["total_subscriptions"] == 21
    assert sum(report["subscriptions_by_type"].values()) == 21
    assert set(report["subscriptions_by_type"]) == set(SUBSCRIPTION_TYPES)
    assert report["messages_published"] == {
        kind: 10 * number for number, kind in enumerate(SUBSCRIPTION_TYPES, start=1)
    }


@pytest.mark.parametrize(
    "name",
    ["active_clients", "total_connections", "messages_sent", "messages_received", "auth_failures"],
)
def test_a_counter_shows_under_its_name(name: str) -> None:
    counters = Counters()
    setattr(counters, name, 5)
    assert counters.report(WebSocketConfig())[name] == 5


def test_a_report_is_a_copy() -> None:
    counters = Counters()
    report = counters.report(WebSocketConfig())
    report["subscriptions_by_type"]["events"] = report["messages_published"]["events"] = 9
    assert counters.report(WebSocketConfig())["subscriptions_by_type"]["events"] == 0
    assert Counters().published["events"] == counters.published["events"] == 0


def test_a_process_that_does_not_serve_has_the_documented_keys_too(data_dir: Path) -> None:
    with layer_of(data_dir):  # where no server is
        reports = [get_stats(), WebSocketServer().get_stats()]
    for report in reports:
        assert_documented(report)
        assert report["is_running"] is False
        assert report["cluster"]["processes"] == 0
        assert report["config"]["port"] == 8765
