"""The channel layer: its servers, which of them has which subscription type, and what it received.

Two layers are supported: the pub/sub layer of channels_redis, and Channels' in-memory layer for one
process. The system check realtime.E001 refuses all others.

Nothing else in ``realtime`` touches what is private to these libraries. Checked against
channels_redis 4.3.0 and Channels 4.3.2:

* ``channels_redis.utils._consistent_hash``, which chooses the server of a channel;
* the name of a group's Redis channel, ``PREFIX__group__GROUP``, and of a layer's own channel,
  ``PREFIXspecific.ID``;
* ``_subscribe_to_channel()`` and ``channels`` of the pub/sub layer, ``channels`` of the in-memory
  layer: a queue of received messages for each channel;
* ``_get_layer()`` of the pub/sub layer, which returns that of an event loop, and of that
  ``_get_shard()`` and ``_shards``: for each server an object with two connections, one to publish
  and one that is subscribed, and its ``_lock``, ``_redis``, ``_ensure_redis()``, ``_receive_task``;
* ``channels`` and ``groups``: the names that the layer is subscribed to.

``tests/cluster/test_layer.py`` fails when one of them is no longer as described here.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from functools import cache
from typing import Any

from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash, decode_hosts
from django.conf import settings
from django.core.signals import setting_changed

from realtime.cluster.servers import Sentinels, Server

GROUP_PREFIX = "realtime."
# What ``layer_prefix`` puts after a prefix.
_DATABASE = re.compile(r"@\d+(-\d+)*(?=$|__group__|specific\.)")
# Options of the layer's connections that our own clients have other values for.
_OVERRIDDEN_OPTIONS = {
    *("retry", "socket_connect_timeout", "socket_timeout", "health_check_interval"),
    *("max_connections", "timeout", "socket_keepalive", "socket_keepalive_options"),
}


class StreamLayer(RedisPubSubChannelLayer):  # type: ignore[misc]  # it has no types
    """The pub/sub layer of channels_redis, where no database's number decides a channel's server.

    With it types would move from the servers that have their logs.
    """

    def _get_layer(self) -> Any:
        layer = super()._get_layer()
        layer._get_shard = lambda name: layer._shards[_server_number(name)]
        return layer


def uses_redis(layer: Any) -> bool:
    """Tell whether a channel layer connects processes through Redis or Valkey."""
    return isinstance(layer, RedisPubSubChannelLayer)


# What follows from the settings is computed once and again when a test overrides them.


def _config() -> dict[str, Any]:
    """Return the ``CONFIG`` of the configured channel layer; empty if it has none."""
    layers: dict[str, Any] = settings.CHANNEL_LAYERS
    return dict(layers.get("default", {}).get("CONFIG", {}))


@cache
def _prefix() -> str:
    return str(_config().get("prefix", "asgi"))


@cache
def layer_servers() -> tuple[Server, ...]:
    """Return the channel layer's servers, as channels_redis reads its ``hosts``."""
    return tuple(_server(host) for host in decode_hosts(_config().get("hosts")))


@cache
def group_address(kind: str) -> tuple[Server, str]:
    """Return the server and the Redis channel on which the layer carries a type's group."""
    channel = f"{_prefix()}__group__{group_name(kind)}"
    return layer_servers()[_server_number(channel)], channel


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "CHANNEL_LAYERS":
        for function in (_prefix, layer_servers, group_address):
            function.cache_clear()


setting_changed.connect(_forget)


def key(name: str) -> str:
    """Return the Redis key of what the processes share under *name*.

    It has no number of a database, which only the channels of groups need (``layer_prefix``).
    """
    return f"{_DATABASE.sub('', _prefix())}:{name}"


def no_key() -> str:
    """Return a key that never exists: removing it changes nothing, and a replica refuses it."""
    return key("nothing")


def group_name(kind: str) -> str:
    """Return the channel-layer group of a subscription type."""
    return GROUP_PREFIX + kind


def _server_number(channel: str) -> int:
    return int(_consistent_hash(_DATABASE.sub("", channel, 1), len(layer_servers())))


def _server(host: dict[str, Any]) -> Server:
    """Read a URL, a host and port, or Sentinels, with whatever else connecting takes."""
    options = dict(_sorted(host))
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
    allowed = (item for item in options.items() if item[0] not in _OVERRIDDEN_OPTIONS)
    return tuple(sorted(allowed))


async def new_channel(layer: Any, kind: str) -> str:
    """Return a new channel of the layer for a type's group, on that group's server.

    The pub/sub layer's own ``new_channel`` takes any server: one that is away would keep types
    that are elsewhere from being joined.
    """
    if not uses_redis(layer) or len(layer_servers()) == 1:
        return str(await layer.new_channel())
    number = _server_number(group_address(kind)[1])
    while True:
        channel = f"{layer.prefix}specific.{uuid.uuid4().hex}"
        if _server_number(channel) == number:
            await layer._subscribe_to_channel(channel)
            return channel


def received(layer: Any, channel: str) -> asyncio.Queue[Any] | None:
    """Return the queue of what a channel has received; ``None`` if it has received nothing yet."""
    queues: dict[str, asyncio.Queue[Any]] = layer.channels
    return queues.get(channel)


# The connections of a layer that spans processes. They are dead, without a word, if the network
# between has forgotten them; and they lead to the wrong server after a failover behind an address
# that moves. The layer itself notices neither.

# Tasks that make connections anew.
_renewing: set[asyncio.Task[None]] = set()


def connection(layer: Any, server: Server) -> Any:
    """Return the layer's present connection to a server, for :func:`renew`."""
    return layer._shards[layer_servers().index(server)]


async def check_writing(connection: Any) -> None:
    """Raise unless what the layer sends goes to a server that takes writes."""
    async with connection._lock:
        connection._ensure_redis()
        await connection._redis.delete(no_key())


async def renew(layer: Any, connection: Any) -> None:
    """Replace a connection, unless that has been done; its channels stay and go on receiving.

    Raises, with nothing changed, if a new one does not lead to a server that takes writes.
    """
    renewing = asyncio.create_task(_renew(layer, connection))
    _renewing.add(renewing)
    renewing.add_done_callback(_renewing.discard)
    # Whoever waits is told of a failure; asyncio need not log it besides.
    renewing.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.shield(renewing)  # half of it would leave channels that receive nothing


async def _renew(layer: Any, old: Any) -> None:
    fresh = type(old)(old.host, old.channel_layer)
    unused = fresh
    try:
        await check_writing(fresh)
        if old not in layer._shards:
            return
        number = layer._shards.index(old)
        layer._shards[number], unused = fresh, old
        if old._receive_task is not None:
            old._receive_task.cancel()  # nothing is to come over both
        for name in [*layer.channels, *layer.groups]:
            is_wanted = name in layer.channels or name in layer.groups  # still
            if is_wanted and _server_number(name) == number:
                await fresh.subscribe(name)
    finally:
        with contextlib.suppress(Exception):  # closing what is dead may fail
            await unused.flush()
