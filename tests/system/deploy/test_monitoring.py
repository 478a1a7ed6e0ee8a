"""The dashboard and the alerts: they ask for what ``/metrics`` has, and Prometheus answers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from realtime.protocol import SUBSCRIPTION_TYPES
from tests.support import ROOT, TIMEOUT, Server, environment, free_port, running, wait_until
from tests.support.redis_servers import RedisServer
from tests.system.deploy.prometheus import (
    DASHBOARD,
    FOLDER,
    Prometheus,
    fill,
    jobs,
    load,
    names_in,
    panels,
    promtool,
    queries,
    variables,
)

ALERTS = Path(__file__).parent / "alerts.yml"
# Seconds until every query has a value: a rate needs two samples, a process reports every two.
SHOWN = 60.0


def alerts() -> dict[str, str]:
    """Return the alerts' expressions by name."""
    (group,) = load("alerts.yml")["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def read_metrics(server: Server, token: str) -> dict[str, list[Any]]:
    """Return the samples of ``/metrics`` by the name of their family."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        families = text_string_to_metric_families(response.read().decode())
        return {family.name: list(family.samples) for family in families}


@contextlib.contextmanager
def rules_of_the_demo(server: Server) -> Iterator[None]:
    """Run some rules beside a server."""
    command = [sys.executable, "manage.py", "run_aggregations", "--module", "realtime.demo.rules"]
    with subprocess.Popen(command, env=environment(server.data_dir), cwd=ROOT) as process:
        try:
            yield
        finally:
            process.kill()


# Checked


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    promtool("check", "rules", FOLDER / "alerts.yml")
    promtool("test", "rules", ALERTS)


def test_every_alert_is_shown_to_fire_and_not_to_fire() -> None:
    shown: dict[bool, set[str]] = {True: set(), False: set()}
    for group in yaml.safe_load(ALERTS.read_text())["tests"]:
        for case in group["alert_rule_test"]:
            shown[bool(case["exp_alerts"])].add(case["alertname"])
    assert shown[True] == shown[False] == set(alerts())


def test_every_query_of_the_dashboard_parses(tmp_path: Path) -> None:
    rules = [{"record": "query", "expr": expression} for expression in queries().values()]
    for annotation in json.loads(DASHBOARD.read_text())["annotations"]["list"]:
        rules.append({"record": "query", "expr": fill(annotation["expr"])})
    path = tmp_path / "rules.yml"
    for index, rule in enumerate(rules):
        rule["record"] += str(index)
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)


def test_what_is_asked_for_is_what_metrics_has(server: Server) -> None:
    token = server.token("--stats")
    asked = names_in(" ".join([*queries().values(), *alerts().values()]))
    asked |= names_in(" ".join(series for series, _ in variables().values()))
    asked |= names_in(json.dumps(load("adapter.yml")))
    # This has no sample before a connection has ended.
    asked.remove("realtime_closes_total")

    def missing() -> set[str]:
        samples = itertools.chain.from_iterable(read_metrics(server, token).values())
        return asked - {sample.name for sample in samples}

    with rules_of_the_demo(server):
        deadline = time.monotonic() + TIMEOUT
        while missing() and time.monotonic() < deadline:  # some are asked for only now and then
            time.sleep(0.1)
        assert missing() == set()
    families = set(read_metrics(server, token)) - {"realtime_closes"}
    unused = {name for name in families if not any(one.startswith(name) for one in asked)}
    assert unused == set(), "not on the dashboard"


def test_the_dashboard_is_one_to_grafana() -> None:
    """What Grafana's own types do not know, they drop."""
    register_default_plugins()
    ours = json.loads(DASHBOARD.read_text())
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
    # Of Prometheus' annotations alone, whose types these are not.
    for annotation in ours["annotations"]["list"]:
        for name in ("titleFormat", "textFormat", "step"):
            del annotation[name]
    assert list(unknown(ours, theirs)) == []


def unknown(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Yield where *theirs* lacks something of *ours*, or has something else."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from unknown(value, theirs.get(name), f"{path}/{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from unknown(one, other, f"{path}/{number}")
    elif ours != theirs:
        yield path


def test_the_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]
    assert len({panel["id"] for panel in panels()}) == len(panels())
    # And nothing is left free.
    assert len(taken) == 24 * (1 + max(y for _, y in taken))


# Run


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host with two workers."""
    data_dir = tmp_path_factory.mktemp("site")
    with Server(data_dir, "--workers", "2", rate_limit_per_minute="100000") as server:
        yield server


@pytest.fixture(scope="module")
def prometheus(site: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that reads from that host, and from one that is down."""
    folder = tmp_path_factory.mktemp("prometheus")
    token_file = folder / "token"
    token_file.write_text(site.token("--stats"))
    targets = [f"127.0.0.1:{site.port}", f"127.0.0.1:{free_port()}"]
    with Prometheus(folder, jobs(targets, token_file)) as running_one:
        yield running_one


async def be_busy(site: Server, token: str) -> None:
    """Connect, be refused, fall behind, resume, leave: once."""
    await asyncio.to_thread(site.publish, "events", {"event_type": "login"})
    async with site.connect() as guest:
        await guest.call({"type": "auth", "data": {"token": "rt_wrong"}})
    async with site.connect(token) as returning:
        await returning.subscribed("events", rewind=1)


async def test_every_panel_shows_something(site: Server, prometheus: Prometheus) -> None:
    token = site.new_token()
    unseen, deadline = queries(), time.monotonic() + SHOWN
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(rules_of_the_demo(site))
        page = await stack.enter_async_context(site.connect(token))
        for kind in SUBSCRIPTION_TYPES:
            await page.subscribed(kind)
        while unseen:
            assert time.monotonic() < deadline, unseen
            await be_busy(site, token)
            for name, expression in list(unseen.items()):
                answer = await asyncio.to_thread(prometheus.ask, expression)
                if any(map(math.isfinite, answer.values())):
                    del unseen[name]
    connections = prometheus.ask(queries()["Processes, A"])
    assert connections == {(): 2}
    assert prometheus.ask(queries()["Hosts that do not answer, A"]) == {(): 1}


def test_the_variables_have_values(prometheus: Prometheus) -> None:
    for name, (series, label) in variables().items():
        wait_until(lambda series=series: bool(prometheus.ask(series)), SHOWN)  # type: ignore[misc]
        values = {dict(labels).get(label) for labels in prometheus.ask(series)}
        assert None not in values, name
    assert values == set(SUBSCRIPTION_TYPES)


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    def healths() -> dict[str, str]:
        (group,) = prometheus.get("rules")["groups"]
        return {rule["name"]: rule["health"] for rule in group["rules"]}

    wait_until(lambda: set(healths().values()) == {"ok"}, SHOWN)
    assert set(healths()) == set(alerts())

    def down() -> list[Any]:
        return [
            alert
            for alert in prometheus.get("alerts")["alerts"]
            if alert["labels"]["alertname"] == "StreamingDown"
        ]

    wait_until(lambda: len(down()) == 1, SHOWN)


def test_of_pods_those_that_serve_are_read_and_the_adapter_finds_them(
    prometheus: Prometheus,
) -> None:
    (rule,) = load("adapter.yml")["rules"]
    wait_until(lambda: bool(prometheus.ask(rule["seriesQuery"])), SHOWN)
    targets = prometheus.get("targets", state="active")["activeTargets"]
    (pod,) = [one["labels"] for one in targets if one["labels"]["job"] == "kubernetes"]
    assert (pod["namespace"], pod["pod"]) == ("streaming", "streaming-server")
    # As the adapter fills in the template for the autoscaler (its docs/config.md).
    query = rule["metricsQuery"]
    for name, value in {
        "<<.Series>>": "realtime_connections",
        "<<.LabelMatchers>>": 'namespace="streaming",pod=~"streaming-server|streaming-other"',
        "<<.GroupBy>>": "pod",
    }.items():
        query = query.replace(name, value)
    assert set(prometheus.ask(query)) == {(("pod", "streaming-server"),)}


def test_without_the_layer_nothing_is_reported_as_the_alert_expects(data_dir: Path) -> None:
    with (
        RedisServer(data_dir / "redis") as redis,
        running(data_dir, REDIS_URL=redis.url) as server,
    ):
        token = server.token("--stats")

        def age() -> float:
            (sample,) = read_metrics(server, token)["realtime_report_time_seconds"]
            return time.time() - float(sample.value)

        assert age() < 5
        redis.kill()
        wait_until(lambda: age() > 5)
        redis.start()
        wait_until(lambda: age() < 2.5)
