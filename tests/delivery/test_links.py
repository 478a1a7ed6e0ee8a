"""Connections that lead to the wrong server, or nowhere: delivery goes on by itself in seconds.

Between the processes and their servers is a proxy: its address moves, or swallows what comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.test import override_settings
from redis.exceptions import RedisError

from realtime import PublishError, publish
from realtime.cluster.clients import close_async_clients
from realtime.cluster.layer import connection, group_address, layer_servers, received, renew
from realtime.delivery.broker import HEAD_INTERVAL, Broker
from realtime.log import get_log
from realtime.log.contract import Append, Batch, pack
from realtime.monitoring.metrics import Counters
from realtime.publishing import apublish
from realtime.testing.proxy import Proxy
from tests.delivery.test_broker import Arrivals, end, send
from tests.support import TIMEOUT, wait_until
from tests.support.layers import PUBSUB, until
from tests.support.redis_servers import RedisServer

pytestmark = pytest.mark.processes

# Seconds in which everything is as before, by far.
SOON = 12.0


class Site:
    """A broker and publishers whose servers are behind proxies."""

    def __init__(self, *proxies: Proxy) -> None:
        self.proxies = proxies
        self.arrivals = Arrivals()
        self.stats = Counters()
        self.broker = Broker(self.arrivals, self.stats)
        self._number = 0

    async def deliver(self, how: Callable[[dict[str, Any]], Any], kind: str = "events") -> float:
        """Send a message until it arrives; return the seconds that the last attempt took."""
        async with asyncio.timeout(SOON):
            while True:
                self._number += 1
                started = time.monotonic()
                try:
                    await how({"n": self._number})
                    async with asyncio.timeout(1.5):
                        while (kind, {"n": self._number}) not in await self.arrivals.take(1):
                            pass
                except (PublishError, TimeoutError, OSError, RedisError):
                    await asyncio.sleep(0.1)
                else:
                    return time.monotonic() - started


async def by_publish(payload: dict[str, Any]) -> None:
    """Publish over the connections of threads."""
    await sync_to_async(publish, thread_sensitive=False)("events", payload)


async def by_apublish(payload: dict[str, Any]) -> None:
    """Publish over the connections of the loop."""
    await apublish("events", payload)


async def by_group_send(payload: dict[str, Any]) -> None:
    """Send as plain Channels code does."""
    await send("events", {"type": "stream.message", "payload": payload})


WAYS = (by_publish, by_apublish, by_group_send)


@asynccontextmanager
async def site(*servers: RedisServer) -> AsyncIterator[Site]:
    """Run a broker behind a proxy for each server."""
    proxies = [await Proxy(server.port).__aenter__() for server in servers]
    config = {"hosts": [f"redis://127.0.0.1:{proxy.port}" for proxy in proxies]}
    try:
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": PUBSUB, "CONFIG": config}}):
            running = Site(*proxies)
            try:
                yield running
            finally:
                await end(running.broker)
    finally:
        for proxy in proxies:
            await proxy.__aexit__()


@pytest.fixture
def primary_and_replica(tmp_path: Path) -> Any:
    """Two servers, the second of which follows the first."""
    with RedisServer(tmp_path / "first", repl_diskless_sync_delay="0") as first:
        follows = f"127.0.0.1 {first.port}"
        with RedisServer(tmp_path / "second", replicaof=follows) as second:
            wait_until(lambda: _is_linked(second))
            yield first, second


def _is_linked(replica: RedisServer) -> bool:
    return bool(replica.client().info("replication")["master_link_status"] == "up")


@pytest.mark.parametrize(
    ("is_cut", "serves"),
    [(False, "yes"), (True, "yes"), (True, "no")],
    ids=["a replica", "a replica without a primary", "one that does not answer without it"],
)
async def test_an_address_that_moves_is_followed(
    primary_and_replica: tuple[RedisServer, RedisServer], is_cut: bool, serves: str
) -> None:
    first, second = primary_and_replica
    async with site(first) as running:
        await running.broker.join("events")
        for way in WAYS:
            await running.deliver(way)
        second.client().replicaof("NO", "ONE")
        first.client().config_set("replica-serve-stale-data", serves)
        host, port = ("127.0.0.1", "1") if is_cut else ("127.0.0.1", str(second.port))
        first.client().replicaof(host, port)
        running.proxies[0].target = second.port
        for way in WAYS:
            await running.deliver(way)
        for way in WAYS:
            assert await running.deliver(way) < 0.1
        await running.broker.join("metrics")
        # Nobody is left at what is a replica now.
        await until(lambda: first.client().client_list(_type="pubsub") == [])


async def test_connections_that_are_dead_without_a_word_are_replaced(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        async with site(server) as running:
            await running.broker.join("events")
            for way in WAYS:
                await running.deliver(way)
            running.proxies[0].swallow()
            for way in WAYS:
                await running.deliver(way)
            for way in WAYS:
                assert await running.deliver(way) < 0.1
            await running.broker.join("metrics")
            assert running.stats.dead_connections["events"] >= 1


async def test_a_type_can_be_joined_over_a_connection_that_has_died(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        async with site(server) as running:
            await running.broker.join("events")
            await running.broker.close()  # so that nobody watches the connection
            await close_async_clients()
            running.proxies[0].swallow()
            await running.broker.join("events")
            for way in WAYS[1:]:
                assert await running.deliver(way) < 0.1


async def test_channels_of_other_code_go_on_receiving(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        async with site(server) as running:
            layer: Any = get_channel_layer()
            channel = await layer.new_channel()
            await layer.group_add("others", channel)
            before = connection(layer, layer_servers()[0])
            running.proxies[0].swallow()
            await asyncio.gather(*(renew(layer, before) for _ in range(3)))
            assert connection(layer, layer_servers()[0]) is not before
            await layer.group_send("others", {"type": "something"})
            async with asyncio.timeout(TIMEOUT):
                assert await layer.receive(channel) == {"type": "something"}
            queue = received(layer, channel)
            assert queue is not None and queue.empty()  # it has come once


async def test_a_server_that_hangs_keeps_its_connections(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as server:
        async with site(server) as running:
            await running.broker.join("events")
            layer: Any = get_channel_layer()
            before = connection(layer, layer_servers()[0])
            server.pause()
            try:
                async with asyncio.timeout(30):
                    while not running.broker.is_cut_off():  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                with pytest.raises(RedisError):
                    await renew(layer, before)
            finally:
                server.resume()
            assert connection(layer, layer_servers()[0]) is before
            await running.deliver(by_group_send)
            await until(lambda: not running.broker.is_cut_off())


async def test_a_server_that_hangs_delays_nothing_of_the_others(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "first") as first, RedisServer(tmp_path / "second") as second:
        async with site(first, second) as running:
            assert group_address("metrics")[0] != group_address("events")[0]
            for kind in ("metrics", "events"):
                await running.broker.join(kind)
            hanging = (first, second)[layer_servers().index(group_address("events")[0])]
            hanging.pause()
            try:
                for n in range(3):
                    started = time.monotonic()
                    # In the log, and announced to nobody: only a look at its head tells.
                    body = b'{"n": %d}' % n
                    await get_log().aappend(Append("metrics", [Batch([body], pack([body]))]))
                    assert await running.arrivals.take(1) == [("metrics", {"n": n})]
                    assert time.monotonic() - started < HEAD_INTERVAL + 0.5
            finally:
                hanging.resume()
