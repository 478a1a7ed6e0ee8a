"""Connections to Redis or Valkey, and questions and Lua programs that servers get over them.

Knows connections, their limits and what to do when one breaks; nothing of what is asked, nor of
what the programs do. All errors of Redis end here: whoever asks a server learns only that it is
:class:`Unavailable`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from time import monotonic
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import msgspec
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.exceptions import BusyLoadingError, ClusterDownError, ReadOnlyError

from realtime.cluster.servers import ANSWER_TIMEOUT, CONNECT_TIMEOUT, Server, time_limits
from realtime.config import get_streaming_config
from realtime.database import Unavailable as Unavailable

MAX_CONNECTIONS = 8
# Seconds for replicas to confirm what was written: less than an answer may take.
REPLICA_TIMEOUT = 2.0
# Seconds for which connections are not dropped again. While an address leads to a replica, every
# refusal would otherwise cost new ones.
DROP_INTERVAL = 1.0
# Errors of a server that is not, or not yet, the one to ask: a replica since a failover, one that
# loads its data, one that lacks its primary or its replicas. Older servers have them in the middle
# of a script's error.
_MISLED = (ReadOnlyError, BusyLoadingError, ClusterDownError)
_MISLED_CODES = re.compile(r"\b(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|UNBLOCKED)\b")
_INCLUDE = re.compile(r"^-- include (realtime[\w.]*)/(\w+)\.lua$", re.MULTILINE)

T = TypeVar("T")


@lru_cache(maxsize=8)
def sync_client(server: Server) -> redis.Redis:
    """Return this process's client for a server, safe to use from any thread.

    Its pool opens a connection for each thread that publishes at the same moment, up to
    :data:`MAX_CONNECTIONS`; further ones wait for a free connection. With Sentinels there is no
    such bound: redis-py has no pool that waits.
    """
    client = redis.Redis(connection_pool=_pool(server, redis))
    _made[client] = monotonic()
    return client


def _pool(server: Server, library: Any) -> Any:
    """Return a pool of connections; *library* is ``redis`` or ``redis.asyncio``."""
    limits: dict[str, Any] = time_limits(library.retry.Retry, server.url)
    options = dict(server.options) | limits
    if server.sentinels is None:
        return library.BlockingConnectionPool.from_url(
            server.url, max_connections=MAX_CONNECTIONS, timeout=ANSWER_TIMEOUT, **options
        )
    service, addresses, sentinel_options = server.sentinels
    sentinel = library.sentinel.Sentinel(addresses, sentinel_kwargs=dict(sentinel_options) | limits)
    return library.sentinel.SentinelConnectionPool(service, sentinel, **options)


# Client -> when it was made.
_made: WeakKeyDictionary[redis.Redis | redis.asyncio.Redis, float] = WeakKeyDictionary()
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
    client = redis.asyncio.Redis(connection_pool=_pool(server, redis.asyncio))
    _made[client] = monotonic()
    try:
        yield client
    finally:
        clients = _async_clients.get(asyncio.get_running_loop(), {})
        if server in clients and clients[server][0] is client:
            del clients[server]
        await client.aclose(close_connection_pool=True)


async def close_async_clients() -> None:
    """Close the running loop's connections."""
    for _, owner in list(_async_clients.get(asyncio.get_running_loop(), {}).values()):
        await owner.aclose()


# A pooled connection may have died since it was used last, for instance when the server was
# restarted. So a question whose connection breaks is asked once more, on a new connection, if there
# is time for that, and every question must be one that may be asked twice.
#
# Or it leads to the wrong server: after a failover the address leads to another one, and those that
# are open lead to what is a replica now. Then all of them are dropped. Where an answer does not
# come in time, those that are idle are dropped: they may be dead without a word too.


async def ask(server: Server, question: Callable[[redis.asyncio.Redis], Awaitable[T]]) -> T:
    """Return what *question* returns for the running loop's client. Raises ``Unavailable``."""
    started = monotonic()
    try:
        client = await async_client(server)
        try:
            return await question(client)
        except redis.RedisError as error:
            if _is_to_drop(client, error):
                await _drop(server, client)
            elif isinstance(error, redis.TimeoutError):
                await client.connection_pool.disconnect(inuse_connections=False)
                raise
            elif not isinstance(error, redis.ConnectionError):
                raise
            if monotonic() >= started + CONNECT_TIMEOUT:
                raise
            return await question(await async_client(server))
    except (redis.RedisError, OSError) as error:
        raise Unavailable(str(error) or type(error).__name__) from error


def ask_blocking(server: Server, question: Callable[[redis.Redis], T]) -> T:
    """Return what *question* returns for this process's client of a server; else as :func:`ask`."""
    started = monotonic()
    try:
        client = sync_client(server)
        try:
            return question(client)
        except redis.RedisError as error:
            if _is_to_drop(client, error):
                _drop_blocking(server, client)
            elif isinstance(error, redis.TimeoutError):
                client.connection_pool.disconnect(inuse_connections=False)
                raise
            elif not isinstance(error, redis.ConnectionError):
                raise
            if monotonic() >= started + CONNECT_TIMEOUT:
                raise
            return question(sync_client(server))
    except (redis.RedisError, OSError) as error:
        raise Unavailable(str(error) or type(error).__name__) from error


def is_misled(error: BaseException | None) -> bool:
    """Tell whether an error says that the connection leads to the wrong server."""
    return isinstance(error, _MISLED) or bool(_MISLED_CODES.search(str(error)))


def _is_to_drop(client: redis.Redis | redis.asyncio.Redis, error: redis.RedisError) -> bool:
    return is_misled(error) and monotonic() >= _made[client] + DROP_INTERVAL


async def _drop(server: Server, client: redis.asyncio.Redis) -> None:
    """Close a client; whoever waits for its answers asks again, as for a connection that broke."""
    clients = _async_clients[asyncio.get_running_loop()]
    if server in clients and clients[server][0] is client:
        await clients.pop(server)[1].aclose()


def _drop_blocking(server: Server, client: redis.Redis) -> None:
    """Forget a client; other threads end what they have asked it."""
    if client is sync_client(server):
        sync_client.cache_clear()
    client.connection_pool.disconnect(inuse_connections=False)


class Script:
    """A Lua program: ``Script("realtime.log", "read")`` is the file ``realtime/log/read.lua``.

    A line ``-- include realtime.log/append.lua`` in it stands for the text of that file. A server
    runs the program by its digest; only one that does not have it yet is sent the text.
    """

    def __init__(self, package: str, name: str) -> None:
        self.text = _load(package, name)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def call(self, client: redis.Redis, keys: Sequence[str], *arguments: Any) -> Any:
        """Run it and return its result."""
        try:
            return client.evalsha(self.digest, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return client.eval(self.text, len(keys), *keys, *arguments)

    async def acall(self, client: redis.asyncio.Redis, keys: Sequence[str], *arguments: Any) -> Any:
        """Run it and return its result; the coroutine form of :meth:`call`."""
        try:
            return await client.evalsha(self.digest, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *arguments)

    def write(self, client: redis.Redis, keys: Sequence[str], *arguments: Any) -> Any:
        """Run it and return its result, once ``min_replicas`` replicas have what it has written.

        The program must write, also if it has been carried out before: replicas are asked for what
        this connection has written. Raises ``redis.RedisError`` if too few have it in time.
        """
        replicas = get_streaming_config().websocket.min_replicas
        if not replicas:
            return self.call(client, keys, *arguments)

        def run(pipeline: Any, command: str, program: str) -> Any:
            getattr(pipeline, command)(program, len(keys), *keys, *arguments)
            return pipeline.wait(replicas, int(1000 * REPLICA_TIMEOUT)).execute()

        with client.pipeline(transaction=False) as pipeline:
            try:
                result, confirmed = run(pipeline, "evalsha", self.digest)
            except redis.exceptions.NoScriptError:
                result, confirmed = run(pipeline, "eval", self.text)
        return _check_replicas(result, confirmed, replicas)

    async def awrite(
        self, client: redis.asyncio.Redis, keys: Sequence[str], *arguments: Any
    ) -> Any:
        """Run it and return its result; the coroutine form of :meth:`write`."""
        replicas = get_streaming_config().websocket.min_replicas
        if not replicas:
            return await self.acall(client, keys, *arguments)

        async def run(pipeline: Any, command: str, program: str) -> Any:
            getattr(pipeline, command)(program, len(keys), *keys, *arguments)
            return await pipeline.wait(replicas, int(1000 * REPLICA_TIMEOUT)).execute()

        async with client.pipeline(transaction=False) as pipeline:
            try:
                result, confirmed = await run(pipeline, "evalsha", self.digest)
            except redis.exceptions.NoScriptError:
                result, confirmed = await run(pipeline, "eval", self.text)
        return _check_replicas(result, confirmed, replicas)


def _check_replicas(result: Any, confirmed: int, wanted: int) -> Any:
    if confirmed < wanted:
        raise redis.RedisError(f"{confirmed} of {wanted} replicas have confirmed it in time")
    return result


def as_text(value: bytes) -> msgspec.Raw:
    """Return bytes as text for ``cmsgpack.unpack``, which cannot read msgspec's binary type."""
    return msgspec.Raw(b"\xdb" + len(value).to_bytes(4, "big") + value)


def _load(package: str, name: str) -> str:
    text = files(package).joinpath(f"{name}.lua").read_text()
    return _INCLUDE.sub(lambda match: _load(match[1], match[2]), text)
