"""Publishing: a payload goes into the log of its type and out to the type's group.

Works from any thread, view, task or shell. Knows the group messages' format, nothing of who
receives. With the pub/sub layer one call of a pooled client does both, since each
``async_to_sync(group_send)`` would open a connection.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.db import transaction

from realtime.cluster.clients import Unavailable
from realtime.cluster.layer import group_name
from realtime.config import get_streaming_config
from realtime.log import (
    NO_POSITION,
    Append,
    Batch,
    get_log,
    pack,
    position_text,
)
from realtime.monitoring.tracing import publishing
from realtime.protocol import SUBSCRIPTION_TYPES, Position, encode_payload

logger = logging.getLogger(__name__)

# A group message larger than this is sent in parts: servers cut off a subscriber that lets much
# pile up (client-output-buffer-limit), and readers should not decode megabytes at a time.
MAX_BATCH_BYTES = 512 * 1024
MAX_BATCH_MESSAGES = 1000
# Appending more at once would keep the server from others for more than some milliseconds.
MAX_APPEND_BYTES = 8 * 1024 * 1024
MAX_APPEND_MESSAGES = 5000


NO_TRACE: Mapping[str, str] = MappingProxyType({})


class PublishError(Exception):
    """The message may not have been published: the channel layer did not confirm it."""


def publish(
    kind: str,
    payload: dict[str, Any],
    *,
    on_commit: bool = False,
    durable: bool = False,
    idempotency_key: str | None = None,
) -> Position | None:
    """Publish one payload to everyone subscribed to *kind*; return its position in the log.

    With *on_commit* it is published when the current database transaction commits, and not at all
    if it rolls back; with *durable* it is written to the outbox in that transaction, or in one of
    its own, and ``manage.py relay_outbox`` publishes it: whatever happens after the commit, it is
    not lost. The position is then ``None``. A message with an *idempotency_key* that was used
    within ``history_ttl`` is not published again: the first one's position is returned.

    Raises:
        ValueError: unknown subscription type; the payload is no JSON object or larger than
            ``max_message_size``; both *on_commit* and *durable*.
        django.db.Error: a *durable* message could not be written.
        PublishError: the log may not have the message. To try again with the same
            *idempotency_key* is safe.
    """
    _check_type(kind)
    body = _encode(payload)
    if durable:
        _write(kind, [body], idempotency_key, on_commit=on_commit)
        return None
    if on_commit:
        transaction.on_commit(lambda: _append(kind, [body], idempotency_key))
        return None
    return _append(kind, [body], idempotency_key)


async def apublish(
    kind: str,
    payload: dict[str, Any],
    *,
    on_commit: bool = False,
    durable: bool = False,
    idempotency_key: str | None = None,
) -> Position | None:
    """Publish one payload; the coroutine form of :func:`publish`."""
    if on_commit or durable:  # transactions are those of the thread that runs synchronous code
        return await sync_to_async(publish)(
            kind, payload, on_commit=on_commit, durable=durable, idempotency_key=idempotency_key
        )
    _check_type(kind)
    return await _aappend(kind, [_encode(payload)], idempotency_key)


def publish_many(
    kind: str,
    payloads: Iterable[dict[str, Any]],
    *,
    durable: bool = False,
    idempotency_key: str | None = None,
) -> list[Position]:
    """Publish payloads in order, in one round trip; return their positions, none if *durable*.

    More than :data:`MAX_APPEND_MESSAGES` or :data:`MAX_APPEND_BYTES` take one for each such part.
    Raises as :func:`publish`. Nothing is published if a payload is invalid.
    """
    _check_type(kind)
    bodies = [_encode(payload) for payload in payloads]
    if durable:
        _write(kind, bodies, idempotency_key)
        return []
    positions: list[Position] = []
    for part, key in _parts(bodies, idempotency_key):
        first = _append(kind, part, key)
        positions += (Position(first.epoch, first.offset + n) for n in range(len(part)))
    return positions


async def apublish_many(
    kind: str,
    payloads: Iterable[dict[str, Any]],
    *,
    durable: bool = False,
    idempotency_key: str | None = None,
) -> list[Position]:
    """Publish payloads in order; the coroutine form of :func:`publish_many`."""
    if durable:
        return await sync_to_async(publish_many)(
            kind, list(payloads), durable=True, idempotency_key=idempotency_key
        )
    _check_type(kind)
    bodies = [_encode(payload) for payload in payloads]
    positions: list[Position] = []
    for part, key in _parts(bodies, idempotency_key):
        first = await _aappend(kind, part, key)
        positions += (Position(first.epoch, first.offset + n) for n in range(len(part)))
    return positions


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


def _parts(bodies: Sequence[bytes], key: str | None) -> Iterable[tuple[list[bytes], str | None]]:
    """Cut what is published together into what is appended together, each with its own key."""
    for number, part in enumerate(_cut(bodies, MAX_APPEND_BYTES, MAX_APPEND_MESSAGES)):
        yield part, None if key is None else f"{key}:{number}"


def _write(kind: str, bodies: Sequence[bytes], key: str | None, *, on_commit: bool = False) -> None:
    """Write to the outbox."""
    if on_commit:
        raise ValueError("publish: either on_commit or durable, which is published after it too")
    from realtime.publishing.outbox import (
        write,  # a model, which not every program of a publisher has
    )

    write(kind, bodies, key)


def _check_type(kind: str) -> None:
    if kind not in SUBSCRIPTION_TYPES:
        raise ValueError(f"{kind!r} is no subscription type: {', '.join(SUBSCRIPTION_TYPES)}")


def check_payload(payload: Any) -> bytes:
    """Return *payload* as JSON text. Raises ``ValueError`` if it cannot be published."""
    return _encode(payload)


def publish_checked(
    kind: str, bodies: Sequence[bytes], idempotency_key: str | None = None
) -> Position:
    """Publish what :func:`check_payload` returned; else as :func:`apublish_checked`."""
    return _append(kind, bodies, idempotency_key)


async def apublish_checked(
    kind: str, bodies: Sequence[bytes], idempotency_key: str | None = None
) -> Position:
    """Publish, all or none, what :func:`check_payload` returned; return the first's position.

    Raises:
        PublishError: the log may not have it.
    """
    return await _aappend(kind, bodies, idempotency_key)


def _encode(payload: Any) -> bytes:
    body = encode_payload(payload)
    largest = get_streaming_config().websocket.max_message_size
    if len(body) > largest:
        raise ValueError(f"payload: {len(body)} bytes, more than max_message_size ({largest})")
    return body


def _batches(bodies: Sequence[bytes]) -> Iterable[list[bytes]]:
    """Cut *bodies* into lists that are small enough for one group message."""
    return _cut(bodies, MAX_BATCH_BYTES, MAX_BATCH_MESSAGES)


def _cut(bodies: Sequence[bytes], most_bytes: int, most: int) -> Iterable[list[bytes]]:
    """Cut *bodies* into lists of so many and so many bytes, but of one at least."""
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and (size + len(body) > most_bytes or len(batch) == most):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    if batch:
        yield batch


def _message(
    packed: bytes, timestamp: float, position: str, trace: Mapping[str, str]
) -> dict[str, Any]:
    """Return the group message that carries packed payloads; see ``broker`` for its reader.

    *trace* is empty, or the fields of :data:`realtime.monitoring.tracing.TRACE_FIELDS`.
    """
    return {
        "type": "stream.batch",
        "position": position,
        "timestamp": timestamp,
        **trace,
        "messages": packed,
    }


class Publication:
    """Payloads of one type on their way into the log and out to the group."""

    def __init__(
        self,
        kind: str,
        bodies: Sequence[bytes],
        idempotency_key: str | None,
        trace: Mapping[str, str] = NO_TRACE,
    ) -> None:
        self.layer: Any = get_channel_layer()
        self.timestamp = time.time()
        self.trace = trace
        # A message of the layer's own making can be completed and sent by the log's server, in
        # the same round trip; unless it is encrypted, or a layer changes how messages are sent.
        self.is_announced = _sends_plainly(self.layer)
        batches = [self._batch(part) for part in _batches(bodies)]
        self.append = Append(kind, batches, self.timestamp, **_once(idempotency_key))

    def _batch(self, bodies: list[bytes]) -> Batch:
        packed = pack(bodies)
        if self.is_announced:
            message = _message(packed, self.timestamp, NO_POSITION, self.trace)
            data = self.layer.serialize(message)
            before, found, after = data.partition(NO_POSITION.encode())
            if found and after.endswith(packed):
                return Batch(bodies, packed, before, after.removesuffix(packed))
            self.is_announced = False
        return Batch(bodies, packed)

    async def announce(self, first: Position) -> None:
        """Send through the layer what its server has not sent by itself.

        It is in the log, so whoever misses it here finds it there.
        """
        offset = first.offset
        for batch in self.append.batches:
            position = position_text(Position(first.epoch, offset))
            message = _message(batch.packed, self.timestamp, position, self.trace)
            try:
                await self.layer.group_send(group_name(self.append.kind), message)
            except Exception as error:  # of a layer whose errors this module does not know
                logger.warning("the channel layer did not take a message: %s", error)
            offset += len(batch.bodies)


def _sends_plainly(layer: Any) -> bool:
    return (
        isinstance(layer, RedisPubSubChannelLayer)
        and not hasattr(type(layer), "group_send")
        and "group_send" not in vars(layer)
    )


def _once(idempotency_key: str | None) -> dict[str, Any]:
    """Return what identifies an append that may be repeated, and for how many seconds."""
    if idempotency_key is None:
        return {}  # one of its own, for this attempt and its retry
    digest = hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()
    return {"once": digest, "once_ttl": get_streaming_config().websocket.history_ttl}


def _append(kind: str, bodies: Sequence[bytes], idempotency_key: str | None) -> Position:
    """Append and announce; return the first message's position. Raises :class:`PublishError`."""
    with publishing(kind, bodies) as traced:
        publication = Publication(kind, bodies, idempotency_key, traced.carried)
        if not publication.is_announced:
            return traced.appended(async_to_sync(_complete)(publication))
        try:
            return traced.appended(get_log().append(publication.append))
        except Unavailable as error:
            raise _not_confirmed(error) from error


async def _aappend(kind: str, bodies: Sequence[bytes], idempotency_key: str | None) -> Position:
    with publishing(kind, bodies) as traced:
        publication = Publication(kind, bodies, idempotency_key, traced.carried)
        return traced.appended(await _complete(publication))


async def _complete(publication: Publication) -> Position:
    try:
        position = await get_log().aappend(publication.append)
    except Unavailable as error:
        raise _not_confirmed(error) from error
    if not publication.is_announced:
        await publication.announce(position)
    return position


def _not_confirmed(error: Unavailable) -> PublishError:
    return PublishError(f"the channel layer did not confirm the message: {error}")
