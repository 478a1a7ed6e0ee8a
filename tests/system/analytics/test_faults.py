"""Rules by time of publishing, under wrong clocks, a log that hangs, and a store that forgets.

Real processes and a real Valkey: nothing that was confirmed is left out of a window that is not
marked, and no window comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from realtime import PublishError, publish
from realtime.cluster.clients import sync_client
from realtime.cluster.layer import key, layer_servers
from realtime.log import get_log
from realtime.log.contract import Entry
from tests.support import start_program
from tests.support.layers import close_layer, running_valkey

PATIENCE = 30
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
async def layer(data_dir: Path) -> AsyncIterator[None]:
    with running_valkey(data_dir):
        yield
        await close_layer()


@pytest.fixture
def start(data_dir: Path) -> Iterator[Start]:
    """Start a process that runs rules with a size, counting; its clock may be wrong."""
    with contextlib.ExitStack() as stack:

        def start(size: int, *names: str, ahead: float = 0) -> subprocess.Popen[str]:
            functions = [{"name": "n", "function": "count"}]
            rules = [{"name": name, "size": size, "functions": functions} for name in names]
            program = ("-m", "tests.support.rule_runner", json.dumps(rules), str(ahead))
            return start_program(stack, data_dir, *program)

        yield start


class SteadyPublisher:
    """Publishes events from a thread, until stopped; counts those that are confirmed."""

    def __init__(self) -> None:
        self.confirmed = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    def _publish(self) -> None:
        while not self._is_over.wait(0.01):
            with contextlib.suppress(PublishError):
                publish("events", {})
                self.confirmed += 1

    async def stop(self) -> None:
        self._is_over.set()
        await asyncio.to_thread(self._thread.join)


async def read_all(kind: str) -> list[Entry]:
    entries: list[Entry] = []
    after = 0
    while (chunk := await get_log().read(kind, after)).entries:
        entries += chunk.entries
        after = chunk.first + len(chunk.entries) - 1
    return entries


async def read_results() -> list[dict[str, Any]]:
    return [msgspec.json.decode(entry.body) for entry in await read_all("aggregations")]


@pytest.mark.parametrize("ahead", [6, -6, 864_000])
async def test_nothing_confirmed_is_left_out_whatever_clock_is_wrong_and_whatever_hangs(
    start: Start, ahead: float
) -> None:
    start(1, "one", ahead=ahead)
    client = sync_client(layer_servers()[0])
    valkey = psutil.Process(client.info("server")["process_id"])
    publisher = SteadyPublisher()
    try:
        await asyncio.sleep(2)
        valkey.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2)
    finally:
        valkey.send_signal(signal.SIGCONT)
    await asyncio.sleep(1.5)
    await publisher.stop()
    results: list[dict[str, Any]] = []
    deadline = time.monotonic() + PATIENCE
    while sum(result["values"]["n"] for result in results) < len(await read_all("events")):
        assert time.monotonic() < deadline, results
        await asyncio.sleep(0.05)
        results = await read_results()
    assert publisher.confirmed <= sum(result["values"]["n"] for result in results)
    starts = [result["window"]["start"] for result in results]
    assert len(set(starts)) == len(starts) > 4


async def test_a_store_that_forgets_doubles_no_window_and_those_it_touches_are_marked(
    start: Start,
) -> None:
    size, names = 2, ("a", "b", "c", "d")
    first, second = start(size, *names), start(size, *names)
    client = sync_client(layer_servers()[0])
    publisher = SteadyPublisher()

    async def until_shared(*processes: subprocess.Popen[str]) -> None:
        leases = [key(f"{{aggregations}}:processor:aggregation:{name}:lease") for name in names]
        async with asyncio.timeout(PATIENCE):
            while True:
                owners = Counter(client.mget(leases))
                if None not in owners and len(owners) == len(processes):
                    return
                await asyncio.sleep(0.05)

    async def until_published(windows: int) -> list[dict[str, Any]]:
        """Wait until each rule has that many more whole windows."""
        before = Counter(
            result["rule"] for result in await read_results() if "incomplete" not in result
        )
        async with asyncio.timeout(PATIENCE):
            while True:
                results = await read_results()
                whole = Counter(it["rule"] for it in results if "incomplete" not in it)
                if all(whole[name] - before[name] >= windows for name in names):
                    return results
                await asyncio.sleep(0.05)

    try:
        await until_shared(first, second)
        results = await until_published(2)
        first.send_signal(signal.SIGSTOP)
        client.flushall()
        await until_shared(second)
        await until_published(2)
        first.send_signal(signal.SIGCONT)
        await until_shared(first, second)
        results += await until_published(2)
    finally:
        first.send_signal(signal.SIGCONT)
        await publisher.stop()
    assert max(Counter((it["rule"], it["window"]["start"]) for it in results).values()) == 1
    published = Counter(int(entry.timestamp // size) for entry in await read_all("events"))
    oldest = min(published)
    compared = 0
    for result in results:
        number = int(datetime.fromisoformat(result["window"]["start"]).timestamp() // size)
        if number >= oldest and "incomplete" not in result:
            assert result["values"]["n"] == published[number], result
            compared += 1
    assert compared >= 4 * len(names)
    assert {result["rule"] for result in results if "incomplete" in result} == set(names)
