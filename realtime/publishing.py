"""Publishing: a payload goes in, encoded once, and out to the group of its type.

Works from any thread, view, task or shell. Knows the channel layer's group names and message
format; nothing of who receives. With a Redis layer the synchronous functions use a pooled client
of their own, because each ``async_to_sync(group_send)`` would open a connection.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import redis
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer
from channels_redis.utils import _consistent_hash
from django.db import transaction

from realtime.config import get_streaming_config
from realtime.protocol import SUBSCRIPTION_TYPES, encode_payload
from realtime.redis import async_client, layer_config, sync_client

GROUP_PREFIX = "realtime."
# A group message larger than this is sent in parts: servers cut off a subscriber that lets much
# pile up (client-output-buffer-limit), and readers should not decode megabytes at a time.
MAX_BATCH_BYTES = 512 * 1024
MAX_BATCH_MESSAGES = 1000

_PUBLISH_ONCE = """
if redis.call('SET', KEYS[1], '1', 'NX', 'EX', ARGV[1]) then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return 1
"""


class PublishError(Exception):
    """The message may not have been published: the channel layer did not confirm it."""


class Position(NamedTuple):
    """Where a message is in its type's log."""

    epoch: str
    offset: int


def group_name(kind: str) -> str:
    """Return the channel-layer group of a subscription type."""
    return GROUP_PREFIX + kind


def publish(
    kind: str,
    payload: dict[str, Any],
    *,
    on_commit: bool = False,
    idempotency_key: str | None = None,
) -> Position | None:
    """Publish one payload to everyone subscribed to *kind*.

    With *on_commit* it is published when the current database transaction commits, and not at all
    if it rolls back. A message with an *idempotency_key* that was used within ``history_ttl`` is
    not published again.

    Raises:
        ValueError: unknown subscription type; the payload is no JSON object or larger than
            ``max_message_size``.
        PublishError: the channel layer did not confirm the message.
    """
    _check_type(kind)
    body = _encode(payload)
    if on_commit:
        transaction.on_commit(lambda: _send(kind, [body], idempotency_key))
    else:
        _send(kind, [body], idempotency_key)
    return None


async def apublish(
    kind: str,
    payload: dict[str, Any],
    *,
    on_commit: bool = False,
    idempotency_key: str | None = None,
) -> Position | None:
    """Publish one payload; the coroutine form of :func:`publish`."""
    if on_commit:  # transactions are those of the thread that runs synchronous code
        return await sync_to_async(publish)(
            kind, payload, on_commit=True, idempotency_key=idempotency_key
        )
    _check_type(kind)
    await _asend(kind, [_encode(payload)], idempotency_key)
    return None


def publish_many(kind: str, payloads: Iterable[dict[str, Any]]) -> list[Position]:
    """Publish payloads in order, many in one group message.

    Raises as :func:`publish`. Nothing is published if a payload is invalid.
    """
    _check_type(kind)
    for batch in _batches([_encode(payload) for payload in payloads]):
        _send(kind, batch, None)
    return []


async def broadcast_event(event: dict[str, Any]) -> None:
    """Publish to ``events``. Raises as :func:`publish`."""
    await apublish("events", event)


async def broadcast_metrics(metrics: dict[str, Any]) -> None:
    """Publish to ``metrics``. Raises as :func:`publish`."""
    await apublish("metrics", metrics)


async def broadcast_alert(alert: dict[str, Any]) -> None:
    """Publish to ``alerts``. Raises as :func:`publish`."""
    await apublish("alerts", alert)


async def broadcast_prediction(prediction: dict[str, Any]) -> None:
    """Publish to ``predictions``. Raises as :func:`publish`."""
    await apublish("predictions", prediction)


async def broadcast_aggregation(aggregation: dict[str, Any]) -> None:
    """Publish to ``aggregations``. Raises as :func:`publish`."""
    await apublish("aggregations", aggregation)


async def broadcast_system_status(status: dict[str, Any]) -> None:
    """Publish to ``system_status``. Raises as :func:`publish`."""
    await apublish("system_status", status)


def _check_type(kind: str) -> None:
    if kind not in SUBSCRIPTION_TYPES:
        raise ValueError(f"{kind!r} is no subscription type: {', '.join(SUBSCRIPTION_TYPES)}")


def check_payload(payload: Any) -> None:
    """Raise ``ValueError`` if *payload* cannot be published."""
    _encode(payload)


def _encode(payload: Any) -> bytes:
    body = encode_payload(payload)
    largest = get_streaming_config().websocket.max_message_size
    if len(body) > largest:
        raise ValueError(f"payload: {len(body)} bytes, more than max_message_size ({largest})")
    return body


def _batches(bodies: Sequence[bytes]) -> Iterable[list[bytes]]:
    """Cut *bodies* into lists that are small enough for one group message."""
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and (size + len(body) > MAX_BATCH_BYTES or len(batch) == MAX_BATCH_MESSAGES):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    if batch:
        yield batch


def _message(bodies: list[bytes]) -> dict[str, Any]:
    """Return the group message that carries encoded payloads; see ``broker`` for its reader."""
    return {"type": "stream.batch", "bodies": bodies, "timestamp": time.time()}


def _send(kind: str, bodies: list[bytes], idempotency_key: str | None) -> None:
    layer = get_channel_layer()
    if not isinstance(layer, RedisPubSubChannelLayer):
        async_to_sync(_asend)(kind, bodies, idempotency_key)
        return
    url, channel = _address(kind)
    data = layer.serialize(_message(bodies))
    try:
        if idempotency_key is None:
            sync_client(url).publish(channel, data)
        else:
            sync_client(url).eval(_PUBLISH_ONCE, 1, *_once(kind, idempotency_key), channel, data)
    except (redis.RedisError, OSError) as error:
        raise PublishError(f"the channel layer did not confirm the message: {error}") from error


async def _asend(kind: str, bodies: list[bytes], idempotency_key: str | None) -> None:
    layer = get_channel_layer()
    if not isinstance(layer, RedisPubSubChannelLayer):
        await _send_through(layer, kind, bodies)
        return
    url, channel = _address(kind)
    data = layer.serialize(_message(bodies))
    client = await async_client(url)
    try:
        if idempotency_key is None:
            await client.publish(channel, data)
        else:
            await client.eval(_PUBLISH_ONCE, 1, *_once(kind, idempotency_key), channel, data)
    except (redis.RedisError, OSError) as error:
        raise PublishError(f"the channel layer did not confirm the message: {error}") from error


async def _send_through(layer: Any, kind: str, bodies: list[bytes]) -> None:
    """Send through a layer of another kind, whose errors this module does not know."""
    if layer is None:
        raise PublishError("no channel layer is configured")
    try:
        await layer.group_send(group_name(kind), _message(bodies))
    except Exception as error:
        raise PublishError(f"the channel layer did not confirm the message: {error}") from error


def _address(kind: str) -> tuple[str, str]:
    """Return the server and the Redis channel on which the layer carries a type's group."""
    config = layer_config()
    channel = f"{config.get('prefix', 'asgi')}__group__{group_name(kind)}"
    servers = [host["address"] for host in config["hosts"]]
    return servers[_consistent_hash(channel, len(servers))], channel


def _once(kind: str, idempotency_key: str) -> tuple[str, int]:
    """Return the key that remembers an idempotency key, and for how many seconds."""
    digest = hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"realtime:once:{kind}:{digest}", get_streaming_config().websocket.history_ttl
