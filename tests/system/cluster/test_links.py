"""A server whose Redis fails over behind an address, or is cut off without a word, is well soon.

The processes are real, with a proxy before Redis: its address moves, or swallows what comes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from realtime.client import StreamingClient, Subscription
from realtime.testing.proxy import Proxy
from tests.support import Server, client, wait_until
from tests.support.redis_servers import RedisServer
from tests.system.cluster.test_shards import _is_linked, get

# Seconds in which all is well, and from publishing to a client where it is.
SOON = 15.0
FAST = 0.2
READY = (200, {"status": "ready"})
NOT_READY = (503, {"status": "unavailable", "causes": ["the channel layer does not answer"]})


class Site:
    """Two workers, a publisher with connections that it keeps, and a client."""

    def __init__(self, server: Server, proxy: Proxy, token: str, events: Subscription) -> None:
        self.server = server
        self.proxy = proxy
        self.token = token
        self._events = events
        self._number = 0

    async def publish(self) -> str:
        """Publish the next number; return ``published`` or what went wrong."""
        self._number += 1
        payload = {"n": self._number}
        return await asyncio.to_thread(self.server.try_to_publish, "events", payload)

    async def latency(self) -> float:
        """Publish and return the seconds until the client has it, and all before it that came."""
        started = time.monotonic()
        assert await self.publish() == "published"
        while (await anext(self._events)).payload["n"] != self._number:
            pass
        return time.monotonic() - started

    async def readiness(self) -> tuple[int, Any]:
        """Ask any worker whether it is ready."""
        return await asyncio.to_thread(get, self.server, "/readyz")

    async def join(self, kind: str) -> None:
        """Subscribe in any worker to a type that perhaps nobody there has."""
        async with client(self.server, self.token) as page:
            await page.subscribe(kind)


@asynccontextmanager
async def site(data_dir: Path, port: int, workers: int = 2) -> AsyncIterator[Site]:
    """Run a site whose Redis is behind a proxy."""
    async with Proxy(port) as proxy:
        variables = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"}
        server = Server(data_dir, "--workers", str(workers), **variables)
        server.may_fail = True  # channels_redis logs its receiver's failures
        await asyncio.to_thread(server.__enter__)
        try:
            token = await asyncio.to_thread(lambda: server.new_token(can_view_stats=True))
            async with StreamingClient(server.url, token) as page:
                running = Site(server, proxy, token, await page.subscribe("events"))
                for _ in range(3):
                    await running.latency()
                yield running
        finally:
            await asyncio.to_thread(server.__exit__)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when *condition* holds."""
    async with asyncio.timeout(SOON):
        while not await condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)


async def is_well_again(running: Site) -> None:
    """Return when everything is as before, which must be soon."""

    async def is_published() -> bool:
        return await running.publish() == "published"

    async def is_fast() -> bool:
        return max([await running.latency() for _ in range(20)]) < FAST

    async def is_ready() -> bool:
        return await running.readiness() == READY

    async def is_counted() -> bool:
        _, stats = await asyncio.to_thread(get, running.server, "/api/stats", running.token)
        return bool(sum(stats["cluster"]["dead_connections"].values()))

    for condition in (is_published, is_fast, is_ready, is_counted):
        await eventually(condition)
    async with asyncio.timeout(SOON):
        for _ in range(4):  # so that both workers are asked
            await running.join("metrics")


async def test_a_failover_behind_an_address_that_moves(data_dir: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "first", repl_diskless_sync_delay="0") as first:
        follows = f"127.0.0.1 {first.port}"
        with RedisServer(tmp_path / "second", replicaof=follows) as second:
            wait_until(lambda: _is_linked(second))
            async with site(data_dir, first.port) as running:
                # The first is a replica before the address leads to the second.
                first.client().replicaof("127.0.0.1", str(second.port))
                assert (await running.publish()).startswith("error: ")
                assert await running.readiness() == NOT_READY
                second.client().replicaof("NO", "ONE")
                running.proxy.target = second.port
                await is_well_again(running)


async def test_connections_that_are_dead_without_a_word(data_dir: Path, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        async with site(data_dir, redis.port) as running:
            running.proxy.swallow()
            await is_well_again(running)


async def test_groups_that_bring_nothing_though_the_server_answers(
    data_dir: Path, tmp_path: Path
) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        async with site(data_dir, redis.port, workers=1) as running:
            admin: Any = redis.client()

            async def is_unready() -> bool:
                return await running.readiness() == NOT_READY

            admin.execute_command("ACL SETUSER default resetchannels")
            await eventually(is_unready)
            admin.execute_command("ACL SETUSER default allchannels")
            await is_well_again(running)
