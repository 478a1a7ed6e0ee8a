"""The addresses of Redis or Valkey servers, as ``REDIS_URL`` names them.

Knows addresses and time limits; nothing of connections (:mod:`realtime.cluster.clients`) and of
which server has which type (:mod:`realtime.cluster.layer`). Without ``REDIS_URL`` the server is the
embedded one of the data directory (:mod:`realtime.cluster.embedded`).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import URL_QUERY_ARGUMENT_PARSERS, parse_url

from realtime.cluster.embedded import socket_path
from realtime.config import ConfigurationError, read_site_config

# Seconds. A server that does not answer in this time counts as away.
CONNECT_TIMEOUT = 2.0
ANSWER_TIMEOUT = 3.0
HEALTH_CHECK_INTERVAL = 15
# How the system notices a TCP connection whose other end is gone without a word: nothing comes for
# 5 seconds and 3 probes, or what was sent is not confirmed for 10 seconds.
KEEPALIVE = {
    getattr(socket, name): value
    for name, value in {
        "TCP_KEEPIDLE": 5,
        "TCP_KEEPINTVL": 2,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 10_000,
    }.items()
    if hasattr(socket, name)
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
    """One server, and the options that a connection to it takes besides: TLS, a password.

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
    named = [part.strip().rstrip(",") for part in parts if part.strip()]
    return named or [f"unix://{socket_path(data_dir)}"]


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
    hosts = [_host(url) for url in urls(data_dir)]
    for host in hosts:
        host.update(time_limits(AsyncRetry, host.get("address", "")))
        host["health_check_interval"] = HEALTH_CHECK_INTERVAL
        if "sentinel_kwargs" in host:
            host["sentinel_kwargs"].update(time_limits(AsyncRetry))
    return hosts


def layer_prefix(data_dir: Path) -> str:
    """Return the ``prefix`` of the channel layer's configuration: ``REDIS_PREFIX``, and a database.

    Pub/sub knows no databases: without its number, what one site sends to a group would reach the
    site that has another database of the same server. Database 0 has no number; several servers
    have one together, or each its own if they differ.
    """
    hosts = [_host(url) for url in urls(data_dir)]
    databases = [
        host.get("db") or parse_url(host.get("address", "redis://")).get("db", 0)  # type: ignore[no-untyped-call]
        for host in hosts
    ]
    numbers = databases if len(set(databases)) > 1 else databases[:1]
    mark = "@" + "-".join(map(str, numbers)) if any(numbers) else ""
    return read_site_config().redis_prefix + mark


def time_limits(retry: Callable[..., Any], url: str = "") -> dict[str, Any]:
    """Return what bounds the time that a connection takes, and for how long it may be dead."""
    limits = {
        "retry": retry(NoBackoff(), 0),
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_timeout": ANSWER_TIMEOUT,
    }
    if not url.startswith("unix:"):  # which redis-py refuses keepalive for
        limits |= {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE}
    return limits


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
        "sentinels": [_address(address) for address in addresses.split(",")],
    }
    sentinel_options: dict[str, Any] = {}
    if parts.scheme.startswith("rediss"):
        host["ssl"] = sentinel_options["ssl"] = True
    credentials = {"username": unquote(user), "password": unquote(password)}
    host |= {name: value for name, value in credentials.items() if value}
    if database:
        host["db"] = int(database)
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        parse: Any = URL_QUERY_ARGUMENT_PARSERS.get(name, str)
        value = parse(text)
        if name.startswith("sentinel_"):
            sentinel_options[name.removeprefix("sentinel_")] = value
        else:
            host[name] = value
            if name.startswith("ssl_"):
                sentinel_options[name] = value
    return host | {"sentinel_kwargs": sentinel_options}


def _address(text: str) -> tuple[str, int]:
    """Read a Sentinel's host and port."""
    parts = urlsplit(f"//{text.strip()}")
    if not parts.hostname:
        raise ValueError("a Sentinel's address is missing")
    return parts.hostname, parts.port or SENTINEL_PORT
