"""Connections to Redis or Valkey: for the log, for publishers, and for what processes share.

Knows connections, their limits and which server is away; nothing of messages. The servers are those
of the channel layer (:mod:`realtime.cluster.servers`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.retry import Retry

from realtime.cluster.servers import ANSWER_TIMEOUT, Server, layer_servers, time_limits

MAX_CONNECTIONS = 8
# Seconds in which a server that was away answers if it is back.
PATIENCE = 0.5


@lru_cache(maxsize=8)
def sync_client(server: Server) -> redis.Redis:
    """Return this process's client for a server, safe to use from any thread.

    Its pool opens a connection for each thread that publishes at the same moment, up to
    :data:`MAX_CONNECTIONS`; further ones wait for a free connection. With Sentinels there is no
    such bound: redis-py has no pool that waits.
    """
    return redis.Redis(connection_pool=_pool(server, Retry, redis))


def _pool(server: Server, retry: Any, library: Any) -> Any:
    """Return a pool of connections; *library* is ``redis`` or ``redis.asyncio``."""
    options = dict(server.options) | time_limits(retry)
    if server.sentinels is None:
        return library.BlockingConnectionPool.from_url(
            server.url, max_connections=MAX_CONNECTIONS, timeout=ANSWER_TIMEOUT, **options
        )
    service, addresses, of_sentinels = server.sentinels
    sentinel = library.sentinel.Sentinel(
        addresses, sentinel_kwargs=dict(of_sentinels) | time_limits(retry)
    )
    return library.sentinel.SentinelConnectionPool(service, sentinel, **options)


# Event loop -> server -> client and the generator that owns it: a connection belongs to the loop
# that opened it.
_async_clients: WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[Server, tuple[redis.asyncio.Redis, AsyncGenerator[Any]]]
] = WeakKeyDictionary()


async def async_client(server: Server) -> redis.asyncio.Redis:
    """Return the running loop's client for a server; its connections end with the loop."""
    clients = _async_clients.setdefault(asyncio.get_running_loop(), {})
    if server not in clients:
        owner = _own_client(server)
        clients[server] = await anext(owner), owner
    return clients[server][0]


async def _own_client(server: Server) -> AsyncGenerator[redis.asyncio.Redis]:
    """Yield a client and close it at the end: a loop that ends closes its generators first.

    Otherwise each ``async_to_sync(apublish)``, which has a loop of its own, would leave a
    connection behind.
    """
    pool = _pool(server, AsyncRetry, redis.asyncio)
    client = redis.asyncio.Redis(connection_pool=pool)
    try:
        yield client
    finally:
        _async_clients.get(asyncio.get_running_loop(), {}).pop(server, None)
        await client.aclose(close_connection_pool=True)


async def close_async_clients() -> None:
    """Close the running loop's connections."""
    for _, owner in list(_async_clients.get(asyncio.get_running_loop(), {}).values()):
        await owner.aclose()


# What processes share


class Registry:
    """The server where processes find each other: the first that answers.

    A type's log and group have a server of their own and can be nowhere else. What processes know
    of each other is written anew every two seconds, so it may move when a server goes away.
    """

    def __init__(self) -> None:
        # Servers that did not answer when they were last asked.
        self._away: set[Server] = set()

    def server(self) -> Server:
        """Return the server to ask; the first of all if none is known to answer."""
        servers = layer_servers()
        return next((one for one in servers if one not in self._away), servers[0])

    @contextlib.contextmanager
    def asking(self) -> Iterator[Server]:
        """Give the server to ask; one that does not answer is avoided until it does."""
        server = self.server()
        try:
            yield server
        except (redis.ConnectionError, redis.TimeoutError, OSError):
            self._away.add(server)
            raise

    async def look_for_servers(self) -> None:
        """Find out which servers are back."""
        await asyncio.gather(*map(self._look_for, self._away))

    async def _look_for(self, server: Server) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
            async with asyncio.timeout(PATIENCE):
                await (await async_client(server)).ping()
                self._away.discard(server)


registry = Registry()
