"""What rules, alerts, predictors and hosts publish, as the dashboard shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from tests.support import Server, running
from tests.system.browser.visitor import Visitor

# The chart of a canvas: its label and points, curve by curve.
CURVES = """canvas => window.Chart.getChart(canvas).data.datasets.map(
    ({ label, data }) => [label, data.map(({ x, y }) => [new Date(x).toISOString(), y])])"""


@pytest.fixture
def server(data_dir: Path) -> Iterator[Server]:
    """A server with an empty log of its own."""
    with running(data_dir) as server:
        yield server


@pytest.fixture
async def dashboard(server: Server, visitor: Visitor) -> Visitor:
    """Somebody who sees the dashboard."""
    await visitor.open_dashboard(server, server.new_token())
    return visitor


def result(origin: str, hour: int, **values: float | None) -> dict[str, Any]:
    """Return what a rule publishes of an hour of an airport."""
    end = f"2013-01-01T{hour:02}:00:00.000Z"
    return {
        "rule": "airport_delays",
        "group": {"payload.origin": origin},
        "window": {"start": f"2013-01-01T{hour - 1:02}:00:00.000Z", "end": end},
        "values": values,
        "timestamp": end,
    }


def alert(alert_id: str, state: str, value: float, **more: Any) -> dict[str, Any]:
    """Return what `run_alerts` publishes."""
    return {
        "alert_id": alert_id,
        "rule": "long_delays",
        "name": "long_delays",
        "severity": "critical",
        "state": state,
        "group": {"payload.origin": "JFK"},
        "value": value,
        "threshold": 60.0,
        "started_at": "2013-01-01T17:00:00.000Z",
        "timestamp": "2013-01-01T17:00:00.000Z",
        "message": f"long_delays of {alert_id} is {value}",
        **more,
    }


async def curves(visitor: Visitor) -> Any:
    """Return the curves of the chart of aggregations."""
    return await visitor.panel("Aggregations").locator("canvas").evaluate(CURVES)


def shown(select: Locator) -> Locator:
    """Return the label of a select, which is hidden with it."""
    return select.locator("..")


async def test_results_have_a_curve_for_each_group(server: Server, dashboard: Visitor) -> None:
    panel = dashboard.panel("Aggregations")
    latest = panel.locator(".latest")
    server.publish(
        "aggregations",
        result("LGA", 10, departures=3, mean_delay=1.5),
        result("JFK", 10, departures=14, mean_delay=3.5),
        result("LGA", 11, departures=5, mean_delay=None),
        result("JFK", 11, departures=9, mean_delay=-4.25),
    )
    await expect(latest).to_have_text(
        "airport_delays mean_delay by payload.origin: JFK -4.25, LGA 1.5"
    )
    ten, eleven = "2013-01-01T10:00:00.000Z", "2013-01-01T11:00:00.000Z"
    assert await curves(dashboard) == [
        ["JFK", [[ten, 3.5], [eleven, -4.25]]],
        ["LGA", [[ten, 1.5]]],
    ]
    await dashboard.sees_line("Aggregations")
    await expect(shown(panel.locator("[name=group]"))).to_be_hidden()
    await expect(shown(panel.locator("[name=window]"))).to_be_hidden()

    await panel.get_by_label("Show").select_option(label="airport_delays: departures")
    await expect(latest).to_contain_text("departures by payload.origin: JFK 9, LGA 5")
    # A window of which messages were lost, and one that is told again: neither counts twice.
    server.publish(
        "aggregations",
        result("JFK", 11, departures=10, mean_delay=0),
        {**result("JFK", 12, departures=2, mean_delay=0), "incomplete": True},
    )
    await expect(latest).to_contain_text("JFK 2, LGA 5 (incomplete: messages were lost)")
    assert [y for _, y in (await curves(dashboard))[0][1]] == [14, 10, 2]
    await panel.locator("[name=windows]").select_option("12")
    # Other payloads are offered beside rules, and charted by when they came.
    server.publish("aggregations", {"queue": {"length": 7}, "name": "a"}, {"queue": {"length": 9}})
    await panel.get_by_label("Show").select_option("queue.length")
    await expect(latest).to_have_text("queue.length: queue.length 8")
    await expect(shown(panel.locator("[name=window]"))).to_be_visible()
    await expect(shown(panel.locator("[name=windows]"))).to_be_hidden()


async def test_results_of_many_groups_and_of_a_replay(server: Server, dashboard: Visitor) -> None:
    latest = dashboard.panel("Aggregations").locator(".latest")
    server.publish("aggregations", *(result(f"A{n:02}", 23, flights=n) for n in range(30)))
    await expect(latest).to_contain_text("A07 7 and 22 more")
    server.publish("aggregations", result("EWR", 1, flights=1))  # 22 windows back
    await expect(latest).to_have_text("airport_delays flights by payload.origin: EWR 1")
    total = {**result("", 2, flights=6), "group": {}, "rule": "total"}
    server.publish("aggregations", total)
    show = dashboard.panel("Aggregations").get_by_label("Show")
    await show.select_option(label="total: flights")
    await expect(latest).to_have_text("total flights: total 6")


async def test_results_that_are_none(server: Server, dashboard: Visitor) -> None:
    good = result("JFK", 10, n=1)
    server.publish(
        "aggregations",
        {**good, "window": None},
        {**good, "window": {"start": "x", "end": []}},
        {**good, "window": {"start": good["window"]["end"], "end": good["window"]["start"]}},
        {**good, "group": ["JFK"]},
        {**good, "values": "none"},
        {**good, "rule": {"a": 1}},
    )
    latest = dashboard.panel("Aggregations").locator(".latest")
    await expect(latest).to_contain_text("values.n: ")
    hostile = {"__proto__": 1, "text": "x", "deep": {"n": 1}}
    server.publish("aggregations", {**good, "values": hostile}, good)
    show = dashboard.panel("Aggregations").get_by_label("Show")
    await show.select_option(label="airport_delays: n")
    await expect(latest).to_have_text("airport_delays n by payload.origin: JFK 1")
    options = show.locator("option")
    assert not await options.filter(has_text=re.compile("text|deep")).count()


async def test_alerts_fire_on_top_and_are_resolved_in_place(
    server: Server, dashboard: Visitor
) -> None:
    panel = dashboard.panel("Alerts")
    rows = panel.locator("li")
    server.publish(
        "alerts",
        alert("one", "firing", 75.25),
        alert("two", "firing", 61, severity="warning"),
        {"severity": "warning", "message": "of another format"},
        {"alert_id": "x", "state": "acknowledged", "message": "of another state"},
    )
    await expect(rows.locator(".text")).to_have_text(
        [
            "long_delays of two is 61",
            "long_delays of one is 75.25",
            "of another state",
            "of another format",
        ]
    )
    await expect(panel.locator(".count")).to_have_text("2 firing")
    first = rows.nth(1)
    await expect(first).to_have_attribute("data-severity", "critical")
    await expect(first.locator(".state")).to_have_text("firing")
    await expect(first.locator(".facts")).to_contain_text("value 75.25 · threshold 60 · since ")
    assert await first.locator(".facts").evaluate(
        "(facts, time) => facts.textContent.includes("
        "new Date(time).toLocaleTimeString(undefined, { hourCycle: 'h23', hour: '2-digit',"
        " minute: '2-digit', second: '2-digit' }))",
        "2013-01-01T17:00:00.000Z",
    )
    await rows.nth(1).evaluate("row => { window.row = row; }")
    ended = {"resolved_at": "2013-01-01T21:00:00.000Z", "reason": "no_data"}
    server.publish("alerts", alert("one", "resolved", 48.5, **ended))
    await expect(panel.locator(".count")).to_have_text("1 firing")
    await expect(rows).to_have_count(4)
    assert await rows.nth(1).evaluate("row => row === window.row")
    await expect(first.locator(".state")).to_have_text("resolved")
    await expect(first.locator(".facts")).to_have_text(
        re.compile(r"^value 48.5 · threshold 60 · since .* · resolved .* · no data$")
    )
    # Fired and resolved before anybody looked, and told again.
    server.publish("alerts", alert("two", "firing", 62), alert("two", "resolved", 9, **ended))
    await expect(panel.locator("[data-state=firing]")).to_have_count(0)
    await expect(panel.locator(".count")).to_have_text("")
    await expect(rows.first.locator(".text")).to_have_text("long_delays of two is 9")


async def test_what_fires_is_not_pushed_out(server: Server, dashboard: Visitor) -> None:
    rows = dashboard.panel("Alerts").locator("li")
    server.publish("alerts", alert("old", "firing", 70))
    server.publish("alerts", *({"message": f"note {n}"} for n in range(300)))
    await expect(rows.nth(1)).to_contain_text("note 299")
    await expect(rows.first).to_contain_text("long_delays of old")
    await expect(rows).to_have_count(51)
    server.publish("alerts", *(alert(str(n), "firing", n) for n in range(1200)))
    await expect(dashboard.panel("Alerts").locator(".count")).to_have_text("1,000 firing")
    await expect(rows).to_have_count(150)


async def test_alerts_with_wrong_fields(server: Server, dashboard: Visitor) -> None:
    server.publish(
        "alerts",
        alert("a", "firing", 1, started_at="<b>x</b>", threshold={"a": 1}),
        {"alert_id": 7, "state": "resolved", "started_at": 5e300, "value": "1", "reason": [1]},
        {"alert_id": None, "state": "firing"},
        {"alert_id": {"a": 1}, "state": "firing"},
    )
    panel = dashboard.panel("Alerts")
    await expect(panel.locator("li")).to_have_count(4)
    await expect(panel.locator("[data-state]")).to_have_count(2)
    await expect(panel.locator("[data-state=firing] .facts")).to_have_text("value 1")


async def test_predictions_and_their_errors(server: Server, dashboard: Visitor) -> None:
    flight = {
        "name": "arrival_delay",
        "airport": "JFK",
        "dest": "MIA",
        "carrier": "AA",
        "flight": 1141,
        "expected_arrival_delay_minutes": 12.5,
        "scored_flights": 0,
        "mean_absolute_error_minutes": None,
        "naive_mean_absolute_error_minutes": None,
    }
    panel = dashboard.panel("Predictions")
    rows, scores = panel.locator(".list li"), panel.locator(".scores li")
    server.publish("predictions", {**flight, "kind": "forecast", "departure_delay_minutes": 20})
    await expect(rows.first).to_contain_text("arrival_delay AA 1141 JFK MIA")
    await expect(rows.first.locator(".value")).to_have_text("expected +12.5 min")
    await expect(scores).to_have_count(0)
    score = {"mean_absolute_error_minutes": 10.61, "naive_mean_absolute_error_minutes": 13.02}
    server.publish(
        "predictions",
        {**flight, "kind": "outcome", "arrival_delay_minutes": -3, "scored_flights": 4711, **score},
        {"model": "fraud", "order": 5, "risk": 0.25},
    )
    await expect(rows.nth(1).locator(".value")).to_have_text("arrived -3 min, expected +12.5")
    await expect(rows.first.locator(".value")).to_have_text("risk 0.25")
    await expect(scores).to_have_text(
        ["arrival_delay: off by 10.61 min on average of 4,711 flights, 13.02 min without it"]
    )


async def test_system_status_with_reasons(server: Server, dashboard: Visitor) -> None:
    reason = "disk_percent is 87.5 (warning from 85 on)"
    host = {"component": "host", "checks": {}, "cpu_percent": 12.5, "load_per_cpu": 0.3}
    server.publish(
        "system_status",
        {**host, "host": "web-1", "status": "ok", "reasons": []},
        {**host, "host": "web-2", "status": "warning", "reasons": [reason], "message": reason},
        {
            "component": "serving",
            "host": "web-2",
            "status": "critical",
            "reasons": ["none", "gone"],
        },
        {"service": "queue", "status": "up", "message": "all is well", "backlog": 3},
    )
    cards = dashboard.panel("System status").locator("article")
    await expect(cards).to_have_count(4)
    marks = [await card.get_attribute("data-status") for card in await cards.all()]
    assert marks == ["ok", "warning", "bad", "ok"]
    await expect(cards.nth(1).locator("h3")).to_have_text("host · web-2 warning")
    await expect(cards.nth(1)).to_contain_text("load per cpu 0.3")
    assert (await cards.nth(1).inner_text()).count(reason) == 1
    await expect(cards.nth(2).locator(".reasons li")).to_have_text(["none", "gone"])
    await expect(cards.nth(3)).to_contain_text("all is well")
    server.publish("system_status", {**host, "host": "web-2", "status": "ok", "reasons": []})
    await expect(cards.nth(1).locator("h3")).to_have_text("host · web-2 ok")
    await expect(cards.nth(1).locator(".reasons")).to_have_count(0)
