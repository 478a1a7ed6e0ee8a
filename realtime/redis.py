"""Where Redis or Valkey is, and connections to it: for the channel layer and for publishers.

Knows URLs, time limits and retries, nothing of messages. Without ``REDIS_URL`` the server is the
embedded one of the data directory (:mod:`realtime.embedded`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import redis
import redis.asyncio
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash, decode_hosts
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from realtime.embedded import socket_path

GROUP_PREFIX = "realtime."
# Seconds. A server that does not answer in this time counts as away.
CONNECT_TIMEOUT = 2.0
ANSWER_TIMEOUT = 3.0
HEALTH_CHECK_INTERVAL = 15
MAX_CONNECTIONS = 8
# Options of the layer's connections that ours have values of their own for.
_OURS = {
    "retry",
    "socket_connect_timeout",
    "socket_timeout",
    "health_check_interval",
    "max_connections",
    "timeout",
}


class Server(NamedTuple):
    """One of the channel layer's servers, and what else a connection to it takes: TLS, password."""

    url: str
    options: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        """Leave out what may be a password."""
        parts = urlsplit(self.url)
        return f"Server({parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path})"


def urls(data_dir: Path) -> list[str]:
    """Return the servers' URLs: those of ``REDIS_URL``, else the embedded server's."""
    given = [url.strip() for url in os.environ.get("REDIS_URL", "").split(",") if url.strip()]
    return given or [f"unix://{socket_path(data_dir)}"]


def uses_embedded() -> bool:
    """Tell whether the embedded server is the channel layer's."""
    return not os.environ.get("REDIS_URL", "").strip()


def layer_hosts(data_dir: Path) -> list[dict[str, Any]]:
    """Return the ``hosts`` of the channel layer's configuration.

    No retry: a publisher hears of an outage quickly, and the layer's reader reconnects by itself.
    redis-py's retries are nested, one while a connection is made for another, so that with
    something that accepts connections and closes them even one retry never ends.
    """
    return [
        {
            "address": url,
            "retry": AsyncRetry(NoBackoff(), 0),
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": ANSWER_TIMEOUT,
            "health_check_interval": HEALTH_CHECK_INTERVAL,
        }
        for url in urls(data_dir)
    ]


@lru_cache(maxsize=8)
def sync_client(server: Server) -> redis.Redis:
    """Return this process's client for a server, safe to use from any thread.

    Its pool opens a connection for each thread that publishes at the same moment, up to
    :data:`MAX_CONNECTIONS`; further ones wait for a free connection.
    """
    pool = redis.BlockingConnectionPool.from_url(
        server.url,
        max_connections=MAX_CONNECTIONS,
        timeout=ANSWER_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=ANSWER_TIMEOUT,
        **dict(server.options),
    )
    return redis.Redis(connection_pool=pool)


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
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        server.url,
        max_connections=MAX_CONNECTIONS,
        timeout=ANSWER_TIMEOUT,
        retry=AsyncRetry(NoBackoff(), 0),
        socket_connect_timeout=CONNECT_TIMEOUT,
        socket_timeout=ANSWER_TIMEOUT,
        **dict(server.options),
    )
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


def layer_config() -> dict[str, Any]:
    """Return the ``CONFIG`` of the configured channel layer; empty if it has none."""
    layers: dict[str, Any] = settings.CHANNEL_LAYERS
    config: dict[str, Any] = layers.get("default", {}).get("CONFIG", {})
    return config


def has_servers(layer: Any) -> bool:
    """Tell whether a channel layer is one of channels_redis, or says which servers it uses."""
    known = (RedisPubSubChannelLayer, RedisChannelLayer)
    return isinstance(layer, known) or bool(layer_config().get("hosts"))


def layer_servers() -> list[Server]:
    """Return the channel layer's servers, as channels_redis reads its ``hosts``."""
    return [_server(host) for host in decode_hosts(layer_config().get("hosts"))]


def _server(host: dict[str, Any]) -> Server:
    """Read a URL or host and port, with whatever else connecting takes."""
    options = {name: value for name, value in host.items() if name not in _OURS}
    name, port = options.pop("host", "localhost"), options.pop("port", 6379)
    url = options.pop("address", f"redis://{name}:{port}")
    return Server(url, tuple(sorted(options.items())))


def group_name(kind: str) -> str:
    """Return the channel-layer group of a subscription type."""
    return GROUP_PREFIX + kind


def group_address(kind: str) -> tuple[Server, str]:
    """Return the server and the Redis channel on which the layer carries a type's group."""
    channel = f"{layer_config().get('prefix', 'asgi')}__group__{group_name(kind)}"
    servers = layer_servers()
    return servers[_consistent_hash(channel, len(servers))], channel
