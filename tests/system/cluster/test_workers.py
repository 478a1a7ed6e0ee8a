"""``serve --workers``: spread, replacement, rolling restart, the end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from realtime.client import StreamingClient, Subscription
from tests.support import TIMEOUT, Server, is_gone, manage, running, wait_until
from tests.system.faults.disconnects import publish

BACKOFF = (0.01, 0.1)


def workers(server: Server) -> list[psutil.Process]:
    """Return the worker processes."""
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended
            if "--connections-fd" in child.cmdline():
                found.append(child)
    return found


def were_killed(server: Server, count: int) -> bool:
    """Tell whether the supervisor has noticed that so many workers were killed."""
    return server.log().count("killed by SIGKILL") >= count


def all_gone(processes: list[psutil.Process]) -> bool:
    """Tell whether these have ended."""
    return all(map(is_gone, processes))


@pytest.fixture
def cluster(data_dir: Path) -> Iterator[Server]:
    """Three workers behind one socket."""
    settings = {"drain_timeout": "2", "rate_limit_per_minute": "100000"}
    with running(data_dir, "--workers", "3", **settings) as server:
        yield server


def connections(server: Server) -> list[int]:
    """Return the connections of each process, as they report them."""
    statements = (
        "from realtime.monitoring.snapshot import read_all\n"
        "result = [one.connections for one in read_all()]"
    )
    counts: list[int] = server.administer(statements)
    return sorted(counts)


async def test_connections_are_spread_evenly(cluster: Server) -> None:
    assert len(workers(cluster)) == 3
    token = cluster.new_token()
    async with AsyncExitStack() as stack:
        await asyncio.gather(
            *(stack.enter_async_context(cluster.connect(token)) for _ in range(100))
        )
        await until_counts(cluster, [33, 33, 34])
        # One that dies takes its own; the next one fills up first.
        workers(cluster)[0].kill()
        # What is handed to it before that is noticed is lost with it.
        await until(lambda: were_killed(cluster, 1) and len(workers(cluster)) == 3)
        await until(lambda: ready(cluster))
        for _ in range(30):
            await stack.enter_async_context(cluster.connect(token))
        await until(lambda: sorted(connections(cluster))[0] >= 28)
    await until_counts(cluster, [0, 0, 0])
    # Who leaves at once leaves nothing behind.
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", cluster.port)) as visitor:
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    async with AsyncExitStack() as stack:
        for _ in range(9):
            await stack.enter_async_context(cluster.connect(token))
        await until_counts(cluster, [3, 3, 3])


async def until(condition: Any) -> None:
    """Wait for a condition without stopping the loop."""
    await asyncio.to_thread(wait_until, condition, TIMEOUT)


async def until_counts(server: Server, counts: list[int]) -> None:
    """Wait until the processes report so many connections each."""
    await until(lambda: connections(server) == counts)


def ready(server: Server) -> bool:
    """Ask over a connection of its own whether clients may come."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200


class Probe:
    """Asks for readiness all the time, over new connections and over one that is kept."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = threading.Event()
        self.failures: list[str] = []
        self.answers = 0
        self._threads = [threading.Thread(target=work) for work in (self._new, self._kept)]

    def __enter__(self) -> Probe:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _new(self) -> None:
        while not self._stop.wait(0.01):
            try:
                self._note(ready(self._server), "new connection")
            except OSError as error:
                self.failures.append(f"new connection: {error!r}")

    def _kept(self) -> None:
        """As a proxy does: a connection is used again, and made anew if it has been closed."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
        while not self._stop.wait(0.01):
            try:
                connection.request("GET", "/readyz")
                response = connection.getresponse()
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            response.read()
            self._note(response.status == 200, "kept connection")
        connection.close()

    def _note(self, good: bool, where: str) -> None:
        self.answers += 1
        if not good:
            self.failures.append(where)


async def follow(events: Subscription, last: int) -> list[int]:
    """Return the numbers that come, up to the last."""
    numbers: list[int] = []
    async with asyncio.timeout(60):
        while not numbers or numbers[-1] != last:
            numbers.append((await anext(events)).payload["n"])
    return numbers


async def test_a_rolling_restart_loses_nothing(cluster: Server) -> None:
    token = cluster.new_token()
    before = {worker.pid for worker in workers(cluster)}
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(StreamingClient(cluster.url, token, backoff=BACKOFF))
            for _ in range(30)
        ]
        subscriptions = [await client.subscribe("events") for client in clients]
        following = [asyncio.create_task(follow(one, 1999)) for one in subscriptions]
        with Probe(cluster) as probe:
            cluster.process.send_signal(signal.SIGHUP)
            for start in range(0, 2000, 10):
                await asyncio.to_thread(publish, cluster, *range(start, start + 10))
                await asyncio.sleep(0.02)
            received = await asyncio.gather(*following)
            await until(lambda: "rolling restart done" in cluster.log())
        assert all(numbers == list(range(2000)) for numbers in received)
        assert probe.answers > 100 and not probe.failures
        after = {worker.pid for worker in workers(cluster)}
        assert len(after) == 3 and not before & after
        # Those that had to move went to whoever had the fewest.
        await until(lambda: max(connections(cluster)) - min(connections(cluster)) <= 4)


async def test_workers_that_are_killed(cluster: Server) -> None:
    token = cluster.new_token()
    async with StreamingClient(cluster.url, token, backoff=BACKOFF) as client:
        events = await client.subscribe("events")
        following = asyncio.create_task(follow(events, 199))
        for start in range(0, 200, 10):
            await asyncio.to_thread(publish, cluster, *range(start, start + 10))
            if start == 50:
                workers(cluster)[0].kill()
            if start == 100:
                killed = workers(cluster)
                for worker in killed:
                    worker.kill()
                # Its threads may outlive a process; the supervisor's word counts.
                await until(partial(were_killed, cluster, 1 + len(killed)))
                # Nobody is there for a moment: whoever comes waits, and is not refused.
                async with cluster.connect(token) as page:
                    assert await page.positions() == {}
        assert await following == list(range(200))
    assert "killed by SIGKILL" in cluster.log()


async def test_it_drains_and_ends(cluster: Server) -> None:
    token = cluster.new_token()
    left = workers(cluster)
    async with AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(cluster.connect(token)) for _ in range(6)]
        cluster.process.send_signal(signal.SIGTERM)
        for page in pages:
            message = await page.receive()
            assert message["data"]["code"] == "restarting"
            await page.assert_closed(1012, "server restarting")
        assert await asyncio.to_thread(cluster.process.wait, TIMEOUT) == 0
    assert all_gone(left)


def test_a_supervisor_that_is_killed_leaves_nothing(cluster: Server) -> None:
    cluster.may_fail = True
    left = [*workers(cluster), *cluster.valkey()]
    assert len(left) >= 4
    cluster.process.kill()
    wait_until(lambda: all_gone(left))


def test_a_new_worker_that_does_not_start(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    settings = {"STREAMING_AUDIT_LOG": str(folder / "log"), "drain_timeout": "1"}
    with running(data_dir, "--workers", "2", **settings) as server:
        before = [worker.pid for worker in workers(server)]
        shutil.move(folder, tmp_path / "elsewhere")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the old ones stay" in server.log())
        assert [worker.pid for worker in workers(server)] == before
        assert ready(server)
        shutil.move(tmp_path / "elsewhere", folder)
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "rolling restart done" in server.log(), 20)
        assert not set(before) & {worker.pid for worker in workers(server)}
        assert ready(server)


def test_what_cannot_be_started(data_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        host = ["--host", "127.0.0.1"]
        done = manage("serve", *host, "--port", port, "--workers", "2", data_dir=data_dir)
        assert done.returncode == 1
        assert f"cannot listen on port {port}" in done.stderr.splitlines()[-1]
    done = manage("serve", "--workers", "0", data_dir=data_dir)
    assert (done.returncode, done.stderr) == (1, "CommandError: --workers: must be 1 or more\n")


def test_ctrl_c_twice_ends_at_once(cluster: Server) -> None:
    cluster.may_fail = True
    left = workers(cluster)
    # One that never answers the drain.
    with socket.create_connection(("127.0.0.1", cluster.port)) as silent:
        silent.sendall(b"GET / HTTP/1.1\r\n")
        started = time.monotonic()
        cluster.process.send_signal(signal.SIGINT)
        cluster.process.send_signal(signal.SIGINT)
        cluster.process.wait(TIMEOUT)
        assert time.monotonic() - started < TIMEOUT
    assert all_gone(left)


async def test_figures_of_all_workers_in_one_scrape(cluster: Server) -> None:
    token = cluster.new_token(can_view_stats=True)
    async with cluster.connect(token), cluster.connect(token):
        await until_counts(cluster, [0, 1, 1])
        pids = {worker.pid for worker in workers(cluster)}

        def is_whole() -> bool:  # a process that is slow to answer is missing
            figures = whole(cluster, token)
            reported = {process["pid"] for process in figures["by_process"]}
            return figures["connections"] == 2 and reported == pids

        await until(is_whole)


def whole(server: Server, token: str) -> Any:
    """Return what ``/api/stats`` says of all processes."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/api/stats", headers={"Authorization": f"Bearer {token}"})
        return json.loads(connection.getresponse().read())["cluster"]
