"""One publication: from checked payloads to an append to the log and messages to the group.

Knows the log and the form of group messages; nothing of who calls it, nor of who receives.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer

from realtime.cluster.clients import Unavailable
from realtime.cluster.layer import group_name
from realtime.config import get_streaming_config
from realtime.log import get_log
from realtime.log.contract import NO_POSITION, Append, Appended, Batch, pack, position_text
from realtime.monitoring.tracing import publishing
from realtime.protocol import Position, encode_payload

logger = logging.getLogger(__name__)

# A group message larger than this is sent in parts: servers cut off a subscriber that lets much
# pile up (client-output-buffer-limit), and readers should not decode megabytes at a time.
MAX_BATCH_BYTES = 512 * 1024
MAX_BATCH_MESSAGES = 1000
# Appending more at once would keep the server from others for more than some milliseconds.
MAX_APPEND_BYTES = 8 * 1024 * 1024
MAX_APPEND_MESSAGES = 5000
# Seconds to wait before publishing again what was not confirmed.
RETRY_INTERVAL = 1.0
# In the place of a time, to be replaced by one.
_NO_TIME = -1.5
NOT_CONFIRMED = "the channel layer did not confirm the message: {}"


class PublishError(Exception):
    """The message may not have been published: the channel layer did not confirm it."""


def check_payload(payload: Any) -> bytes:
    """Return *payload* as JSON text. Raises ``ValueError`` if it cannot be published."""
    body = encode_payload(payload)
    largest = get_streaming_config().websocket.max_message_size
    if len(body) > largest:
        raise ValueError(f"payload: {len(body)} bytes, more than max_message_size ({largest})")
    return body


def decode_object(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object. Raises ``ValueError``."""
    try:
        value = msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("not JSON (nested too deeply)") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"payload: expected an object, got {type(value).__name__}")
    return value


def derive_key(*parts: object) -> str:
    """Return an idempotency key made of others and of numbers, which is like no key but this."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()


def cut_into_appends(
    bodies: Sequence[bytes], idempotency_key: str | None
) -> Iterator[tuple[list[bytes], str | None]]:
    """Cut what is published together into what is appended together, each with its own key."""
    for number, part in enumerate(cut(bodies, MAX_APPEND_BYTES, MAX_APPEND_MESSAGES)):
        yield part, None if idempotency_key is None else derive_key(idempotency_key, number)


def cut(bodies: Sequence[bytes], max_bytes: int, max_messages: int) -> Iterator[list[bytes]]:
    """Cut *bodies* into lists within both limits; a body that is too large has its own list."""
    part: list[bytes] = []
    size = 0
    for body in bodies:
        if part and (size + len(body) > max_bytes or len(part) == max_messages):
            yield part
            part, size = [], 0
        part.append(body)
        size += len(body)
    if part:
        yield part


class Publication:
    """Payloads of one type: append ``append`` to the log, then call :meth:`announce`."""

    def __init__(
        self,
        kind: str,
        bodies: Sequence[bytes],
        idempotency_key: str | None,
        trace: Mapping[str, str] | None = None,
        key_ttl: int | None = None,
    ) -> None:
        self._layer: Any = get_channel_layer()
        self._trace = trace = trace or {}
        batches = [
            _make_batch(self._layer, part, trace)
            for part in cut(bodies, MAX_BATCH_BYTES, MAX_BATCH_MESSAGES)
        ]
        once: dict[str, Any] = {}  # one of its own, for this attempt and its retry
        if idempotency_key is not None:
            digest = hashlib.sha256(idempotency_key.encode("utf-8", "surrogatepass")).hexdigest()
            ttl = key_ttl or get_streaming_config().websocket.history_ttl
            once = {"once": digest, "once_ttl": ttl}
        self.append = Append(kind, batches, **once)
        # Whether the log's server sends the group messages, in the call that appends.
        self.is_announced = all(batch.before for batch in batches)

    async def announce(self, appended: Appended) -> None:
        """Send to the group what the log's server has not sent by itself.

        Errors are logged only: whoever misses a message here finds it in the log.
        """
        if self.is_announced:
            return
        (epoch, offset), timestamp = appended
        for batch in self.append.batches:
            position = position_text(Position(epoch, offset))
            message = _message(batch.packed, timestamp, position, self._trace)
            try:
                await self._layer.group_send(group_name(self.append.kind), message)
            except Exception as error:  # of a layer whose errors this module does not know
                logger.warning("the channel layer did not take a message: %s", error)
            offset += len(batch.bodies)


def _make_batch(layer: Any, bodies: Sequence[bytes], trace: Mapping[str, str]) -> Batch:
    """Pack payloads, together with the layer's message around them if the server can complete it.

    The log's server gives the position and the time, and sends the group message in the same call.
    So that is serialised with dummies, as wide as any position and time, and cut at them and at the
    packed payloads. For ``{"n":1}``::

        type "stream.batch", position │ 000…0:000…0 │ timestamp │ 1.5  │ messages │ [{"n":1}]
        ─────────── before ───────────┘ (cut out)   └─ between ─┘(out) └─ after ──┘ packed

    An encrypted message cannot be cut, the in-memory layer has no server, and a layer may change
    ``group_send``: there ``before`` is empty, and :meth:`Publication.announce` sends the message.
    """
    packed = pack(bodies)
    # The class has `group_send` itself only if it is a subclass that changes it.
    if isinstance(layer, RedisPubSubChannelLayer) and not hasattr(type(layer), "group_send"):
        message = layer.serialize(_message(packed, _NO_TIME, NO_POSITION, trace))
        before, position, others = message.partition(NO_POSITION.encode())
        between, time, after = others.partition(struct.pack(">d", _NO_TIME))
        if position and time and after.endswith(packed):
            return Batch(bodies, packed, before, between, after.removesuffix(packed))
    return Batch(bodies, packed)


def _message(
    packed: bytes, timestamp: float, position: str, trace: Mapping[str, str]
) -> dict[str, Any]:
    """Return the group message that carries packed payloads; the broker reads it."""
    return {
        "type": "stream.batch",
        "position": position,
        "timestamp": timestamp,
        **trace,
        "messages": packed,
    }


def publish_checked(
    kind: str, bodies: Sequence[bytes], idempotency_key: str | None = None
) -> Position:
    """Publish what :func:`check_payload` returned; else as :func:`apublish_checked`."""
    with publishing(kind, bodies) as traced:
        publication = Publication(kind, bodies, idempotency_key, traced.carried)
        if not publication.is_announced:
            return traced.appended(async_to_sync(_append_and_announce)(publication))
        try:
            return traced.appended(get_log().append(publication.append).first)
        except Unavailable as error:
            raise PublishError(NOT_CONFIRMED.format(error)) from error


async def apublish_checked(
    kind: str,
    bodies: Sequence[bytes],
    idempotency_key: str | None = None,
    key_ttl: int | None = None,
) -> Position:
    """Publish, all or none, what :func:`check_payload` returned; return the first's position.

    The key is remembered for *key_ttl* seconds, by default ``history_ttl``. Raises
    :class:`PublishError`: the log may not have it.
    """
    with publishing(kind, bodies) as traced:
        publication = Publication(kind, bodies, idempotency_key, traced.carried, key_ttl)
        return traced.appended(await _append_and_announce(publication))


async def _append_and_announce(publication: Publication) -> Position:
    try:
        appended = await get_log().aappend(publication.append)
    except Unavailable as error:
        raise PublishError(NOT_CONFIRMED.format(error)) from error
    await publication.announce(appended)
    return appended.first
