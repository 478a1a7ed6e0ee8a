"""How messages get in: publish(), the outbox and its relay, lines of JSON, NATS and Kafka.

Here is what other code publishes with, from any thread, view, task or shell. How a message gets
into the log and out to the group is :mod:`realtime.publishing.publication`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction
from django.dispatch import Signal

from realtime.protocol import SUBSCRIPTION_TYPES, Position
from realtime.publishing.publication import (
    PublishError,
    apublish_checked,
    check_payload,
    cut_into_appends,
    decode_object,
    publish_checked,
)

logger = logging.getLogger(__name__)

# Sent with ``kind``, ``payload`` and ``error`` when what was published with ``on_commit`` may not
# be in the log: too late for the transaction to fail.
publish_failed = Signal()


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
    if it rolls back; if that fails, it is logged, and the signal ``publish_failed`` is sent. With
    *durable* it is written to the outbox in that transaction, or in one of its own, and ``manage.py
    relay_outbox`` publishes it: whatever happens after the commit, it is not lost. The position is
    then ``None``. A message with an *idempotency_key* that was used within ``history_ttl`` is not
    published again: the first one's position is returned.

    Raises:
        ValueError: unknown subscription type; the payload is no JSON object or larger than
            ``max_message_size``; both *on_commit* and *durable*.
        django.db.Error: a *durable* message could not be written.
        PublishError: the log may not have the message. To try again with the same
            *idempotency_key* is safe.
    """
    bodies = _check(kind, [payload])
    if on_commit and durable:
        raise ValueError("publish: either on_commit or durable, which is published after it too")
    if durable:
        from realtime.publishing.outbox import write  # a model, which needs Django's apps

        write(kind, [(bodies, idempotency_key)])
        return None
    if on_commit:
        transaction.on_commit(
            lambda: _publish_committed(kind, bodies, idempotency_key), robust=True
        )
        return None
    return publish_checked(kind, bodies, idempotency_key)


async def apublish(
    kind: str,
    payload: dict[str, Any],
    *,
    on_commit: bool = False,
    durable: bool = False,
    idempotency_key: str | None = None,
) -> Position | None:
    """The coroutine form of :func:`publish`."""
    if on_commit or durable:  # transactions are those of the thread that runs synchronous code
        return await sync_to_async(publish)(
            kind, payload, on_commit=on_commit, durable=durable, idempotency_key=idempotency_key
        )
    return await apublish_checked(kind, _check(kind, [payload]), idempotency_key)


def publish_many(
    kind: str,
    payloads: Iterable[dict[str, Any]],
    *,
    durable: bool = False,
    idempotency_key: str | None = None,
) -> list[Position]:
    """Publish payloads in order, in one round trip; return their positions, none if *durable*.

    More than ``MAX_APPEND_MESSAGES`` or ``MAX_APPEND_BYTES`` are published in parts, each in a
    round trip of its own. Raises as :func:`publish`. Nothing is published if a payload is invalid.
    """
    bodies = _check(kind, payloads)
    if durable:
        from realtime.publishing.outbox import write

        keyed = idempotency_key is not None
        write(kind, cut_into_appends(bodies, idempotency_key) if keyed else [(bodies, None)])
        return []
    positions: list[Position] = []
    for part, key in cut_into_appends(bodies, idempotency_key):
        positions += _positions(publish_checked(kind, part, key), len(part))
    return positions


async def apublish_many(
    kind: str,
    payloads: Iterable[dict[str, Any]],
    *,
    durable: bool = False,
    idempotency_key: str | None = None,
) -> list[Position]:
    """The coroutine form of :func:`publish_many`."""
    if durable:
        return await sync_to_async(publish_many)(
            kind, list(payloads), durable=True, idempotency_key=idempotency_key
        )
    positions: list[Position] = []
    for part, key in cut_into_appends(_check(kind, payloads), idempotency_key):
        positions += _positions(await apublish_checked(kind, part, key), len(part))
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


def _check(kind: str, payloads: Iterable[dict[str, Any]]) -> list[bytes]:
    """Return payloads as JSON text. Raises ``ValueError``."""
    if kind not in SUBSCRIPTION_TYPES:
        raise ValueError(f"{kind!r} is no subscription type: {', '.join(SUBSCRIPTION_TYPES)}")
    return [check_payload(payload) for payload in payloads]


def _publish_committed(kind: str, bodies: list[bytes], idempotency_key: str | None) -> None:
    """Publish after a commit. An error would keep Django from calling what else waits for it."""
    try:
        publish_checked(kind, bodies, idempotency_key)
    except PublishError as error:
        logger.error("%s: not published after the commit: %s", kind, error)
        publish_failed.send_robust(
            publish, kind=kind, payload=decode_object(bodies[0]), error=error
        )


def _positions(first: Position, count: int) -> Iterator[Position]:
    return (Position(first.epoch, first.offset + number) for number in range(count))
