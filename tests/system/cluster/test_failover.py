"""A primary that dies: nothing is lost with ``min_replicas``; else those who must know are told."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.client import Gap, StreamingClient
from realtime.testing.proxy import Proxy
from tests.support import ROOT, Client, Position, Server, client, environment, running, wait_until
from tests.support.redis_servers import RedisServer, SentinelServer

SERVICE = "streaming"
SETTINGS = {"rate_limit_per_minute": "100000"}
# How often the primary is killed.
ROUNDS = 2
# Messages that are confirmed and lost.
LOST = 20


class Publisher:
    """A process that publishes 1, 2, 3 and so on, and says what was confirmed."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.faults.publisher"],
            env=environment(data_dir, **variables)
            | {"DJANGO_SETTINGS_MODULE": "streaming_site.settings"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.confirmed: list[int] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number = line.split()[0]
            if number != "refused":
                self.confirmed.append(int(number))

    def stop(self) -> None:
        """End it when what it publishes is confirmed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._reader.join()
        self._process.wait()
        self._process.stdout.close()


def is_linked(replica: RedisServer) -> bool:
    """Tell whether a replica has what its primary has."""
    with contextlib.suppress(Exception):
        return bool(replica.client().info("replication")["master_link_status"] == "up")
    return False


def primary_of(servers: list[RedisServer]) -> RedisServer | None:
    """Return the server that is a primary now, if one of those that run is."""
    for server in servers:
        with contextlib.suppress(Exception):
            if server.client().role()[0] == b"master":
                return server
    return None


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """A primary and two replicas."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(RedisServer(tmp_path / "0", repl_diskless_sync_delay="0"))
        replicas = [
            stack.enter_context(
                RedisServer(
                    tmp_path / str(number),
                    replicaof=f"127.0.0.1 {first.port}",
                    repl_diskless_sync_delay="0",
                )
            )
            for number in (1, 2)
        ]
        for replica in replicas:
            wait_until(lambda replica=replica: is_linked(replica))  # type: ignore[misc]
        yield [first, *replicas]


async def until(condition: Any, seconds: float = 30) -> None:
    """Wait for a condition without stopping the loop."""
    await asyncio.to_thread(wait_until, condition, seconds)


async def test_what_replicas_have_confirmed_is_never_lost(
    servers: list[RedisServer], data_dir: Path, tmp_path: Path
) -> None:
    with SentinelServer(tmp_path / "sentinel", SERVICE, servers[0], after=3000) as sentinel:
        wait_until(lambda: len(sentinel.client().sentinel_slaves(SERVICE)) == 2)
        variables = {
            "REDIS_URL": f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}",
            "min_replicas": "1",
        }
        with running(data_dir, **variables, **SETTINGS) as server:
            server.may_fail = True
            token = server.new_token()
            gaps: list[Gap] = []
            async with StreamingClient(server.url, token) as page:
                messages = await page.subscribe("events", on_gap=gaps.append)
                start = messages.received
                publisher = Publisher(data_dir, **variables)
                try:
                    for _ in range(ROUNDS):
                        count = len(publisher.confirmed)
                        await until(lambda count=count: len(publisher.confirmed) > count + 50)
                        primary = primary_of(servers)
                        assert primary is not None
                        primary.kill()
                        await until(lambda: primary_of(servers) is not None)
                        promoted = primary_of(servers)
                        count = len(publisher.confirmed)
                        await until(lambda count=count: len(publisher.confirmed) > count + 50)
                        primary.start()
                        assert promoted is not None
                        # At once, since a Sentinel takes some ten seconds for it.
                        primary.client().replicaof("127.0.0.1", str(promoted.port))
                        await until(lambda primary=primary: is_linked(primary))
                finally:
                    await asyncio.to_thread(publisher.stop)
                everything = list(range(1, publisher.confirmed[-1] + 1))
                assert publisher.confirmed == everything
                async with asyncio.timeout(30):
                    assert [(await anext(messages)).payload["n"] for _ in everything] == everything
            async with StreamingClient(server.url, token) as late:
                again = await late.subscribe("events", resume=start, on_gap=gaps.append)
                async with asyncio.timeout(30):
                    assert [(await anext(again)).payload["n"] for _ in everything] == everything
            assert gaps == []


@contextlib.asynccontextmanager
async def moving_address(
    servers: list[RedisServer], data_dir: Path
) -> AsyncIterator[tuple[Proxy, Server]]:
    """Serve with the first of the servers, behind an address that can move."""
    async with Proxy(servers[0].port) as proxy:
        variables = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"} | SETTINGS
        serving = running(data_dir, **variables)
        server = await asyncio.to_thread(serving.__enter__)
        server.may_fail = True
        try:
            yield proxy, server
        finally:
            await asyncio.to_thread(serving.__exit__, None, None, None)


async def test_whoever_has_received_what_is_lost_is_told(
    servers: list[RedisServer], data_dir: Path
) -> None:
    """As many others are published at once, so that offsets do not show it."""
    primary, replica, _ = servers
    async with moving_address(servers, data_dir) as (proxy, server):

        async def publish(*numbers: int) -> Position:
            payloads = [{"n": n} for n in numbers]
            return (await asyncio.to_thread(server.publish, "events", *payloads))[-1]

        token = await asyncio.to_thread(server.new_token)
        async with client(server, token) as page:
            await page.subscribe("events")
            safe = await publish(*range(1, 11))
            await until(lambda: offset(replica) == 10)
            replica.client().replicaof("NO", "ONE")  # too early
            last = await publish(*range(11, 11 + LOST))
            for n in range(1, 11 + LOST):
                assert await page.assert_data("events") == {"n": n}
            primary.kill()
            proxy.move(replica.port)
            others = [*range(101, 101 + 2 * LOST)]
            for n in others:
                await until(lambda n=n: server.try_to_publish("events", {"n": n}) == "published")
            error = await page.receive(timeout=20)
            assert error["type"] == "error", error
            assert error["data"]["details"]["reason"] == "epoch_changed"
            assert [(await page.assert_data("events"))["n"] for _ in others] == others
        for position, recovered, replayed in [
            (last, False, others),
            (safe, True, others),
            (safe | {"offset": 5}, True, [6, 7, 8, 9, 10, *others]),
        ]:
            async with client(server, token) as page:
                answer = await subscribed(page, resume=position)
                assert answer["recovered"] is recovered and answer["replayed"] == len(replayed)
                assert [(await page.assert_data("events"))["n"] for _ in replayed] == replayed


async def subscribed(page: Client, **data: Any) -> dict[str, Any]:
    """Subscribe to events, as soon as the server has its group again; return the answer's data."""
    request = {"type": "subscribe", "data": {"type": "events"} | data}
    async with asyncio.timeout(20):
        while (reply := await page.call(request))["type"] == "error":
            assert reply["data"]["code"] == "unavailable", reply
            await asyncio.sleep(0.1)
    answer: dict[str, Any] = reply["data"]
    return answer


def offset(server: RedisServer) -> int:
    """Return the newest offset that a server has."""
    return int(server.client().hget("realtime:{events}:head", "offset") or 0)


async def test_without_replicas_in_time_nothing_is_confirmed(
    servers: list[RedisServer], data_dir: Path
) -> None:
    primary, *replicas = servers
    variables = {"REDIS_URL": primary.url, "min_replicas": "2"}
    with running(data_dir, **variables, **SETTINGS) as server:
        server.publish("events", {"n": 1})
        for replica in replicas:
            replica.pause()
        try:
            said = server.try_to_publish("events", {"n": 2})
            assert "1 of 2 replicas" in said or "0 of 2 replicas" in said, said
        finally:
            for replica in replicas:
                replica.resume()
        wait_until(lambda: server.try_to_publish("events", {"n": 3}) == "published")
