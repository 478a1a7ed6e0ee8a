"""Aggregation rules of the admin, run by processes of their own, to clients."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.protocol import format_timestamp
from tests.end_to_end.test_metrics import Figures
from tests.support import ROOT, Client, Server, client, environment, manage, running, wait_until

# 2013-01-01T00:00:00Z
NEW_YEAR = 1_356_998_400
COUNT = [{"name": "n", "function": "count"}]
Start = Callable[..., "Worker"]


class Worker:
    """A ``run_aggregations`` process."""

    def __init__(self, data_dir: Path, number: int, settings: str) -> None:
        self._log = data_dir / f"aggregations-{number}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run_aggregations"],
                env=environment(data_dir, DJANGO_SETTINGS_MODULE=settings),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: "run_aggregations:" in self.log())

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0, self.log()
        assert "Traceback" not in self.log(), self.log()


@pytest.fixture
def site(data_dir: Path) -> Iterator[Server]:
    with running(data_dir, rate_limit_per_minute="100000") as server:
        yield server


@pytest.fixture
def start(site: Server) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        started: list[Worker] = []

        def start(settings: str = "streaming_site.settings") -> Worker:
            worker = Worker(site.data_dir, len(started), settings)
            started.append(worker)
            stack.callback(worker.process.wait)
            stack.callback(worker.process.kill)
            return worker

        yield start


def add_rule(site: Server, name: str, **fields: Any) -> None:
    given = {"size": 60, "time_path": "at", "functions": COUNT} | fields
    site.administer(
        "from realtime.models import AggregationRule\n"
        "rule = AggregationRule(name=name, **fields)\n"
        "rule.full_clean()\n"
        "rule.save()\n",
        name=name,
        fields=given,
    )


def change_rules(site: Server, statement: str, name: str) -> None:
    site.administer(
        "from realtime.models import AggregationRule\n"
        f"AggregationRule.objects.filter(name=name).{statement}",
        name=name,
    )


async def next_results(page: Client, count: int) -> list[dict[str, Any]]:
    """Return the next results that come."""
    results = []
    for _ in range(count):
        message = await page.receive(30)
        assert message["type"] == "data", message
        results.append(message["data"]["aggregation"])
    return results


async def test_events_become_results(site: Server, start: Start) -> None:
    add_rule(
        site,
        "delays",
        filters={"event_type": "departure"},
        group_by=["payload.origin"],
        functions=[
            {"name": "departures", "function": "count"},
            {"name": "mean_delay", "function": "avg", "path": "payload.delay"},
            {"name": "p95_delay", "function": "p95", "path": "payload.delay"},
        ],
    )
    worker = start()
    async with client(site, site.new_token()) as page:
        await page.subscribe("aggregations", {"rule": "delays"})
        events = [("JFK", 1, 2), ("LGA", 2, None), ("JFK", 59, 5), ("JFK", 60, 1000)]
        site.publish(
            "events",
            *(
                {
                    "event_type": "departure",
                    "at": format_timestamp(NEW_YEAR + second),
                    "payload": {"origin": origin, "delay": delay},
                }
                for origin, second, delay in events
            ),
        )
        found = await next_results(page, 2)
    window = {"start": "2013-01-01T00:00:00.000Z", "end": "2013-01-01T00:01:00.000Z"}
    assert found == [
        {
            "rule": "delays",
            "group": {"payload.origin": origin},
            "window": window,
            "values": {"departures": count, "mean_delay": mean, "p95_delay": high},
            "timestamp": window["end"],
        }
        for origin, count, mean, high in (("JFK", 2, 3.5, 5), ("LGA", 1, None, None))
    ]
    worker.stop()


async def test_rules_in_code_run_too(site: Server, start: Start) -> None:
    worker = start("tests.system.analytics.settings")
    assert "run_aggregations: rules: in_code" in worker.log()
    async with client(site, site.new_token()) as page:
        await page.subscribe("aggregations")
        site.publish("events", {"at": NEW_YEAR}, {"at": NEW_YEAR + 10})
        [found] = await next_results(page, 1)
    assert (found["rule"], found["values"]) == ("in_code", {"n": 1})
    worker.stop()


async def test_windows_by_time_of_publishing_close_by_themselves(
    site: Server, start: Start
) -> None:
    add_rule(site, "live", size=1, time_path="")
    worker = start()
    async with client(site, site.new_token()) as page:
        await page.subscribe("aggregations")
        site.publish("events", {}, {}, {})
        found = 0
        while found < 3:  # they may be on both sides of a second's end
            [one] = await next_results(page, 1)
            found += one["values"]["n"]
    worker.stop()


def flow(count: int) -> list[dict[str, Any]]:
    """Return events, a second after another but up to 30 s out of order."""
    chance = random.Random(7)
    return [
        {
            "at": NEW_YEAR + n + chance.randrange(-30, 1) if n > 30 else NEW_YEAR,
            "g": chance.choice("abc"),
            "x": chance.randrange(1000) / 100,
        }
        for n in range(count)
    ]


async def test_results_come_once_and_are_the_same_whoever_is_killed(
    site: Server, start: Start
) -> None:
    events = flow(6000)
    for name, slide in (("tumbling", 60), ("sliding", 20)):
        add_rule(
            site,
            name,
            slide=slide,
            allowed_lateness=30,
            group_by=["g"],
            functions=[*COUNT, {"name": "sum", "function": "sum", "path": "x"}],
        )
    expected = {
        (name, format_timestamp(at), g): its
        for name, slide in (("tumbling", 60), ("sliding", 20))
        for at in range(NEW_YEAR - 60, NEW_YEAR + 6000, slide)
        for g in "abc"
        if (its := [e for e in events if at <= e["at"] < at + 60 and e["g"] == g])
    }
    worker = start()
    async with client(site, site.new_token()) as page:
        await page.subscribe("aggregations")
        found = []
        for part in range(0, len(events), 200):
            site.publish("events", *events[part : part + 200])
            if part in (1000, 2000, 4000):
                found += await next_results(page, 1)
                worker.process.kill()
                worker.process.wait()
                worker = start()
        site.publish("events", {"at": NEW_YEAR + 7000, "g": "d", "x": 0})
        found += await next_results(page, len(expected) - len(found))
        await page.assert_silent()
    names = [(one["rule"], one["window"]["start"], one["group"]["g"]) for one in found]
    assert sorted(names) == sorted(expected)
    for key, one in zip(names, found, strict=True):
        its = expected[key]
        hundredths = sum(round(e["x"] * 100) for e in its)
        assert one["values"] == {"n": len(its), "sum": hundredths / 100}
    worker.stop()


async def test_two_processes_share_rules_without_doubling(site: Server, start: Start) -> None:
    for number in range(4):
        add_rule(site, f"rule-{number}", size=10)
    first, second = start(), start()
    wait_until(lambda: "running" in first.log() and "running" in second.log(), 30)
    async with client(site, site.new_token()) as page:
        await page.subscribe("aggregations")
        site.publish("events", *({"at": NEW_YEAR + n} for n in range(101)))
        found = await next_results(page, 40)
        assert Counter(one["rule"] for one in found) == {f"rule-{n}": 10 for n in range(4)}
        assert all(one["values"] == {"n": 10} for one in found)
        first.stop()
        site.publish("events", *({"at": NEW_YEAR + n} for n in range(101, 202)))
        found = await next_results(page, 40)
        assert Counter(one["rule"] for one in found) == {f"rule-{n}": 10 for n in range(4)}
        assert all(one["values"] == {"n": 10} for one in found)
        await page.assert_silent()
    second.stop()


async def test_rules_change_while_they_run(site: Server, start: Start) -> None:
    worker = start()
    async with client(site, site.new_token()) as page:
        await page.subscribe("aggregations")
        add_rule(site, "one", size=10)
        site.publish("events", {"at": NEW_YEAR}, {"at": NEW_YEAR + 10})
        [found] = await next_results(page, 1)
        assert found["values"] == {"n": 1}
        # Off: what comes meanwhile counts when it is on again.
        change_rules(site, "update(enabled=False)", "one")
        until_nobody_runs(site, "one")
        site.publish("events", {"at": NEW_YEAR + 11}, {"at": NEW_YEAR + 20})
        change_rules(site, "update(enabled=True)", "one")
        [found] = await next_results(page, 1)
        assert found["values"] == {"n": 2} and "incomplete" not in found
        # Other functions: it begins anew, in the midst of a window.
        functions = [{"name": "per_second", "function": "rate"}]
        change_rules(site, f"update(functions={functions})", "one")
        wait_until(lambda: worker.log().count("running aggregation:one") == 3)
        site.publish("events", {"at": NEW_YEAR + 21}, {"at": NEW_YEAR + 30})
        [found] = await next_results(page, 1)
        assert found["values"] == {"per_second": 0.1} and found["incomplete"]
        change_rules(site, "delete()", "one")
        until_nobody_runs(site, "one")
        add_rule(site, "two", size=10, filters={"g": 2})
        site.publish("events", {"at": NEW_YEAR + 30, "g": 2}, {"at": NEW_YEAR + 40, "g": 2})
        [found] = await next_results(page, 1)
        assert found["rule"] == "two"
    worker.stop()


def until_nobody_runs(site: Server, name: str) -> None:
    code = (
        "from realtime.analytics.aggregation.processor import AggregationProcessor\n"
        "from realtime.analytics.aggregation.rule import make_spec\n"
        "from realtime.analytics.processing.state import read_standing\n"
        "rule = make_spec(name, size=1, functions=[{'name': 'n', 'function': 'count'}])\n"
        "result = read_standing(AggregationProcessor(rule), 'progress').owner"
    )
    wait_until(lambda: site.administer(code, name=name) is None)


def test_without_a_database_it_ends_with_one_line(data_dir: Path) -> None:
    done = manage("run_aggregations", data_dir=data_dir)
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: the database: ")
    assert len(done.stderr.splitlines()) == 1


def test_metrics_have_how_rules_stand(site: Server, start: Start) -> None:
    figures = Figures(site)
    add_rule(site, "first")
    add_rule(site, "second")

    def read() -> dict[str, float]:
        return {
            name: value for name, value in figures.read().items() if name.startswith("processor_")
        }

    def stands(*rules: str) -> dict[str, float]:
        names = [f"{{aggregation:{rule}}}{{events}}" for rule in rules]
        return {f"processor_lag_messages{name}": 0 for name in names}

    assert read() == {}
    site.publish("events", {"at": time.time()}, {"at": time.time() + 18_000}, {"at": None})
    worker = start()
    reasons = {"too far ahead": 1, "without a time": 1, "too late": 0}
    left_out = {
        f"processor_left_out_messages{{aggregation:{rule}}}{{{reason}}}{{events}}": count
        for rule in ("first", "second")
        for reason, count in reasons.items()
    }
    wait_until(lambda: (stands("first", "second") | left_out).items() <= read().items())
    for name, value in read().items():
        assert "_time_" not in name or abs(time.time() - value) < 20, name
    # Nobody runs them: then how long ago they read is what tells.
    worker.process.kill()
    worker.process.wait()
    before = read()
    start()
    wait_until(lambda: all(read()[name] > before[name] for name in before if "read" in name))
    change_rules(site, "delete()", "first")
    wait_until(lambda: not any("first" in name for name in read()))
    assert stands("second").items() <= read().items()
