"""From publishing to a client, through log, aggregation and alert: what DuckDB says, to the digit.

100,000 real events, out of order; meanwhile every process is killed once.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.client import Gap, StreamingClient, Subscription
from tests.support import ROOT, Server, environment, free_port, wait_until
from tests.system.analytics.flights import (
    ALARMING,
    CALM,
    RULES,
    Oracle,
    rule_fields,
    shuffled_lines,
)

# Of the log, so that nobody is late who was killed.
HISTORY = {"history_size": "200000", "max_buffered_bytes": "16777216"}
RATE = 4000
# Seconds for what is under way to come, on a busy machine.
PATIENCE = 60
ADD_RULES = """
from realtime.models import AggregationRule, AlertRule
for name, fields in rules.items():
    AggregationRule.objects.create(name=name, **fields)
AlertRule.objects.create(**alert)
"""
HAS_BEGUN = """
from realtime.cluster.layer import key
from realtime.cluster.clients import sync_client
from realtime.cluster.layer import group_address
server = group_address("alerts")[0]
result = bool(sync_client(server).hget(key("{alerts}:processor:alert:late:aggregations"), "offset"))
"""


class Program:
    """A process that may be killed, and is then started again."""

    def __init__(self, data_dir: Path, *arguments: str) -> None:
        self._data_dir = data_dir
        self._arguments = arguments
        self.start()

    def start(self, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *self._arguments, *more],
            env=environment(self._data_dir, **HISTORY),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Publisher(Program):
    """Publishes the file; knows how far it is."""

    def __init__(self, data_dir: Path, file: Path) -> None:
        self.done = 0
        arguments = ("-m", "tests.system.analytics.publisher", str(file), "--rate", str(RATE))
        super().__init__(data_dir, *arguments)

    def start(self, *more: str) -> None:
        super().start(*more)
        self._reader = threading.Thread(target=self._read, args=[self.process])
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith("\n"):  # else it was killed in the middle
                    self.done = int(line)

    def kill(self) -> None:
        super().kill()
        self._reader.join()

    def close(self) -> None:
        self.kill()


class Site:
    """Everything that runs."""

    def __init__(self, data_dir: Path, file: Path, stack: contextlib.ExitStack) -> None:
        self._data_dir = data_dir
        self._port = str(free_port())
        self._server = stack.enter_context(contextlib.ExitStack())
        self.start_server()
        alert = {
            "name": "late",
            "source": "aggregations",
            "filters": {"rule": "departures"},
            "value_path": "values.mean",
            "threshold": ALARMING,
            "clear": CALM,
            "time_path": "timestamp",
        }
        self.server.administer(
            ADD_RULES, rules={name: rule_fields(name) for name in RULES}, alert=alert
        )
        self.token = self.server.new_token()
        self.aggregations = self._run(stack, "manage.py", "run_aggregations")
        self.alerts = self._run(stack, "manage.py", "run_alerts")
        wait_until(lambda: self.server.administer(HAS_BEGUN), PATIENCE)
        self._stack, self._file = stack, file

    def start_publishing(self) -> None:
        self.publisher = Publisher(self._data_dir, self._file)
        self._stack.callback(self.publisher.close)

    def _run(self, stack: contextlib.ExitStack, *arguments: str) -> Program:
        program = Program(self._data_dir, *arguments)
        stack.callback(program.close)
        return program

    def start_server(self) -> None:
        self.server = Server(self._data_dir, "--port", self._port, **HISTORY)
        self.server.may_fail = True  # Valkey is killed under it
        self._server.enter_context(self.server)

    # What may happen

    def kill_the_publisher(self) -> None:
        self.publisher.kill()
        self.publisher.start("--from-line", str(self.publisher.done))

    def kill_run_aggregations(self) -> None:
        self.aggregations.close()
        self.aggregations.start()

    def kill_run_alerts(self) -> None:
        self.alerts.close()
        self.alerts.start()

    def kill_valkey(self) -> None:
        [valkey] = self.server.valkey()
        valkey.kill()

    def kill_the_server(self) -> None:
        self.server.process.kill()
        self.server.process.wait()
        self.start_server()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The events, as they are published."""
    path = tmp_path_factory.mktemp("flights") / "events.ndjson"
    path.write_bytes(b"".join(shuffled_lines()))
    return path


@pytest.fixture
def site(data_dir: Path, file: Path) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(data_dir, file, stack)


class Follower:
    """Takes everything of a subscription."""

    def __init__(self, subscription: Subscription) -> None:
        self.payloads: list[Any] = []
        self._task = asyncio.create_task(self._take(subscription))

    async def _take(self, subscription: Subscription) -> None:
        async for message in subscription:
            self.payloads.append(message.payload)

    async def until(self, count: int) -> None:
        """Wait for so many."""

        def has_come() -> bool:
            assert not self._task.done(), self._task.exception()
            return len(self.payloads) >= count

        with contextlib.suppress(AssertionError):  # what is missing is said later
            await asyncio.to_thread(wait_until, has_come, PATIENCE)


async def test_the_whole_way_whatever_is_killed(site: Site, file: Path) -> None:
    with Oracle(file) as oracle:
        expected = {name: oracle.results(name) for name in RULES}
        alerts = oracle.alerts()
    results = sum(map(len, expected.values()))
    assert results > 10_000 and len(alerts) > 100
    gaps: list[Gap] = []
    url = site.server.url
    async with StreamingClient(url, site.token, backoff=(0.1, 1.0)) as client:
        figures = Follower(await client.subscribe("aggregations", on_gap=gaps.append))
        warnings = Follower(await client.subscribe("alerts", on_gap=gaps.append))
        site.start_publishing()
        for after, happens in (
            (20_000, site.kill_the_publisher),
            (35_000, site.kill_run_aggregations),
            (50_000, site.kill_valkey),
            (65_000, site.kill_run_alerts),
            (80_000, site.kill_the_server),
        ):
            await asyncio.to_thread(wait_until, _has_published(site, after), PATIENCE)
            await asyncio.to_thread(happens)
        await figures.until(results)
        await warnings.until(len(alerts))
        assert site.publisher.done == 100_000
    assert gaps == []
    for name, wanted in expected.items():
        messages = [message for message in figures.payloads if message["rule"] == name]
        assert all("incomplete" not in message for message in messages)
        by_window = {
            (*message["group"].values(), message["window"]["start"]): list(
                message["values"].values()
            )
            for message in messages
        }
        assert len(by_window) == len(messages)
        wrong = {key for key in wanted.keys() | by_window if by_window.get(key) != wanted.get(key)}
        assert not wrong, [(key, by_window.get(key), wanted.get(key)) for key in sorted(wrong)[:3]]
    came = [
        (*message["group"].values(), message["timestamp"], message["state"], message["value"])
        for message in warnings.payloads
    ]
    assert sorted(came) == sorted(alerts)


def _has_published(site: Site, count: int) -> Callable[[], bool]:
    return lambda: site.publisher.done >= count
