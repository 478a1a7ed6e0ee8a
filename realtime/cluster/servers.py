"""Where Redis or Valkey is: ``REDIS_URL``, the channel layer's ``hosts``, and which type is where.

Knows addresses and time limits, and opens no connection (:mod:`realtime.cluster.clients` does).
Without ``REDIS_URL`` the server is the embedded one of the data directory
(:mod:`realtime.cluster.embedded`). Of several servers each type has one, for its group and its log:
the one that channels_redis chooses.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash, decode_hosts
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS, parse_url

from realtime.cluster.embedded import socket_path
from realtime.config import ConfigurationError, read_site_config

GROUP_PREFIX = "realtime."
# Seconds. A server that does not answer in this time counts as away.
CONNECT_TIMEOUT = 2.0
ANSWER_TIMEOUT = 3.0
HEALTH_CHECK_INTERVAL = 15
# Options of the layer's connections that ours have values of their own for.
_OURS = {
    "retry",
    "socket_connect_timeout",
    "socket_timeout",
    "health_check_interval",
    "max_connections",
    "timeout",
}
_SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379
_ALLOWED = (
    "redis://, rediss://, unix:// or redis+sentinel://host,host/service, "
    "several separated by commas"
)


class Sentinels(NamedTuple):
    """Redis or Valkey Sentinels and the name of the service whose server they know."""

    service: str
    addresses: tuple[tuple[str, int], ...]
    options: tuple[tuple[str, Any], ...] = ()


class Server(NamedTuple):
    """One of the channel layer's servers, and what else a connection to it takes: TLS, password.

    ``url`` is empty if Sentinels know where it is.
    """

    url: str
    options: tuple[tuple[str, Any], ...] = ()
    sentinels: Sentinels | None = None

    def __repr__(self) -> str:
        """Leave out what may be a password."""
        if self.sentinels is not None:
            return f"Server({self.sentinels.service} of {self.sentinels.addresses})"
        parts = urlsplit(self.url)
        return f"Server({parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path})"


# REDIS_URL


def urls(data_dir: Path) -> list[str]:
    """Return the servers' URLs: those of ``REDIS_URL``, else the embedded server's.

    A comma begins another URL where a scheme follows; else another Sentinel.
    """
    parts = re.split(r",\s*(?=[\w+]*://)", read_site_config().redis_url.get_secret_value())
    given = [part.strip().rstrip(",") for part in parts if part.strip()]
    return given or [f"unix://{socket_path(data_dir)}"]


def uses_embedded() -> bool:
    """Tell whether the embedded server is the channel layer's."""
    return not read_site_config().redis_url.get_secret_value()


def layer_hosts(data_dir: Path) -> list[dict[str, Any]]:
    """Return the ``hosts`` of the channel layer's configuration.

    No retry: a publisher hears of an outage quickly, and the layer's reader reconnects by itself.
    redis-py's retries are nested, one while a connection is made for another, so that with
    something that accepts connections and closes them even one retry never ends.

    Raises:
        ConfigurationError: ``REDIS_URL`` cannot be read; a password in it is not repeated.
    """
    limits = time_limits(AsyncRetry) | {"health_check_interval": HEALTH_CHECK_INTERVAL}
    hosts = [_host(url) for url in urls(data_dir)]
    for host in hosts:
        host.update(limits)
        if "sentinel_kwargs" in host:
            host["sentinel_kwargs"].update(time_limits(AsyncRetry))
    return hosts


def time_limits(retry: Callable[..., Any]) -> dict[str, Any]:
    """Return what bounds the time that a connection takes."""
    return {
        "retry": retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": ANSWER_TIMEOUT,
    }


def _host(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        if parts.scheme in _SENTINEL_SCHEMES:
            return _sentinel_host(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError(f"unknown scheme {parts.scheme!r}" if "://" in url else "no URL")
        if "," in parts.netloc:
            raise ValueError("each server needs a scheme of its own")
        parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError as error:
        shown = re.sub(r"://.*@", "://…@", url)
        raise ConfigurationError(f"REDIS_URL={shown!r}: {error} (allowed: {_ALLOWED})") from None
    return {"address": url}


def _sentinel_host(url: str) -> dict[str, Any]:
    """Read ``redis+sentinel://[[user]:password@]host[:port],…/service[/db][?option=value&…]``.

    User and password are the server's; ``sentinel_username`` and ``sentinel_password`` are options.
    With ``rediss+sentinel`` the server and the Sentinels speak TLS.
    """
    parts = urlsplit(url)
    login, _, addresses = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the service's name is missing")
    host: dict[str, Any] = {
        "master_name": unquote(service),
        "sentinels": [_address(one) for one in addresses.split(",")],
    }
    of_sentinels: dict[str, Any] = {}
    if parts.scheme.startswith("rediss"):
        host["ssl"] = of_sentinels["ssl"] = True
    given = {"username": unquote(user), "password": unquote(password)}
    host |= {name: value for name, value in given.items() if value}
    if database:
        host["db"] = int(database)
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        read: Any = URL_QUERY_ARGUMENT_PARSERS.get(name, str)
        value = read(text)
        if name.startswith("sentinel_"):
            of_sentinels[name.removeprefix("sentinel_")] = value
        else:
            host[name] = value
            if name.startswith("ssl_"):
                of_sentinels[name] = value
    return host | {"sentinel_kwargs": of_sentinels}


def _address(text: str) -> tuple[str, int]:
    """Read a Sentinel's host and port."""
    parts = urlsplit(f"//{text.strip()}")
    if not parts.hostname:
        raise ValueError("a Sentinel's address is missing")
    return parts.hostname, parts.port or SENTINEL_PORT


# The channel layer


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
    """Read a URL, a host and port, or Sentinels, with whatever else connecting takes."""
    options = {name: value for name, value in host.items() if name not in _OURS}
    if "address" not in options and options.get("master_name") is not None:
        sentinels = Sentinels(
            options.pop("master_name"),
            tuple(map(tuple, options.pop("sentinels"))),
            _sorted(options.pop("sentinel_kwargs", None) or {}),
        )
        return Server("", _sorted(options), sentinels)
    name, port = options.pop("host", "localhost"), options.pop("port", 6379)
    url = options.pop("address", f"redis://{name}:{port}")
    return Server(url, _sorted(options))


def _sorted(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in options.items() if name not in _OURS))


def group_name(kind: str) -> str:
    """Return the channel-layer group of a subscription type."""
    return GROUP_PREFIX + kind


def group_address(kind: str) -> tuple[Server, str]:
    """Return the server and the Redis channel on which the layer carries a type's group."""
    channel = f"{layer_config().get('prefix', 'asgi')}__group__{group_name(kind)}"
    servers = layer_servers()
    return servers[_consistent_hash(channel, len(servers))], channel


async def new_channel(layer: Any, kind: str) -> str:
    """Return a new channel of the layer for a type's group, on that group's server.

    The pub/sub layer's own ``new_channel`` takes any server: one that is away would keep types
    that are elsewhere from being joined.
    """
    count = len(layer_servers())
    if count == 1 or not isinstance(layer, RedisPubSubChannelLayer):
        channel: str = await layer.new_channel()
        return channel
    wanted = _consistent_hash(group_address(kind)[1], count)
    while True:
        channel = f"{layer.prefix}specific.{uuid.uuid4().hex}"
        if _consistent_hash(channel, count) == wanted:
            await layer._subscribe_to_channel(channel)
            return channel
