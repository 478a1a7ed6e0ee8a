"""The relay: publishes what is in the outbox, in order, each message once.

Knows the outbox and publishing; whose turn it is among several relays is
:mod:`realtime.publishing.relay_lock`'s. Each type is on its own: one whose server is away does not
hold up the others.

The order is that of transactions as they began to write, and of ids within one. On PostgreSQL a
transaction may commit after one that began later, so a message is published only when all
transactions that began to write before its own have ended: what its snapshot calls ``xmin``. Then
nothing can come any more that belongs before it. SQLite has one writer at a time, so ids are in
the order of commits.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.db.models import Q
from django.db.models.expressions import RawSQL
from django.db.models.functions import Length

from realtime.config import get_streaming_config
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing import PublishError, publish_checked
from realtime.publishing.outbox import OutboxBatch, OutboxMessage

logger = logging.getLogger(__name__)

MOST_MESSAGES = 500
MOST_CHARACTERS = 4 * 1024 * 1024
# Seconds until a type whose log did not answer is tried again.
RETRY_INTERVAL = 1.0

_XMIN = RawSQL("pg_snapshot_xmin(pg_current_snapshot())::text::bigint", ())
_XMAX = RawSQL("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", ())


class Batch(NamedTuple):
    """Messages to be published together; ``claim`` says which they are, ``key`` makes them once."""

    claim: str
    key: str
    bodies: list[bytes]


class Relay:
    """One process's relaying, while it is its turn."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Type -> the claim whose messages the log has, which are still in the outbox.
        self._published: dict[str, str] = {}
        # Type -> when to try again.
        self._paused: dict[str, float] = {}
        self.count = 0

    def begin(self) -> None:
        """Prepare for a turn."""
        for kind in SUBSCRIPTION_TYPES:
            OutboxBatch.objects.get_or_create(type=kind)
        # Of another server, whose rows have been brought here: none of its transactions goes on.
        if connection.vendor == "postgresql":
            foreign = Q(transaction__gte=_XMAX) | Q(transaction=None)
            OutboxMessage.objects.filter(foreign).update(transaction=0)
        else:
            OutboxMessage.objects.exclude(transaction=None).update(transaction=None)

    def step(self) -> bool:
        """Publish a batch of each type that has any; tell whether there was one."""
        waiting = OutboxMessage.objects.filter(error="").order_by()
        kinds = set(waiting.values_list("type", flat=True).distinct())
        found = [self._relay(kind) for kind in sorted(kinds) if not self._is_paused(kind)]
        return any(found)

    def has_waiting(self) -> bool:
        """Tell whether there is anything to be published, now or soon."""
        return bool(OutboxMessage.objects.filter(error="").exists())

    def _is_paused(self, kind: str) -> bool:
        return self._paused.get(kind, 0.0) > self._clock()

    def _relay(self, kind: str) -> bool:
        batch = _next_batch(kind, self._published.get(kind))
        if batch is None:
            return False
        try:
            if batch.bodies:
                publish_checked(kind, batch.bodies, batch.key)
        except PublishError as error:
            logger.warning("%s: %s", kind, error)
            self._paused[kind] = self._clock() + RETRY_INTERVAL
            return False
        self._published[kind] = batch.claim
        self.count += len(batch.bodies)
        return True


def _next_batch(kind: str, published: str | None) -> Batch | None:
    """Forget the batch that has been published, and claim and return the next.

    One that someone claimed and *published* does not name comes first, again if need be. Whoever
    has lost its turn without knowing finds another's claim here: it can only repeat what that one
    publishes, under the same key.
    """
    with transaction.atomic():
        claimed = OutboxBatch.objects.select_for_update().get(type=kind)
        if claimed.messages and claimed.key != published:
            return _read(claimed)
        if claimed.messages:
            OutboxMessage.objects.filter(pk__in=claimed.messages).delete()
        chosen = _choose(kind)
        if chosen or claimed.messages:
            claimed.key, claimed.messages = uuid.uuid4().hex, chosen
            claimed.save()
        return _read(claimed) if chosen else None


def _read(claimed: OutboxBatch) -> Batch:
    rows = list(OutboxMessage.objects.filter(pk__in=claimed.messages))
    own_key = rows[0].idempotency_key if rows else None
    key = own_key or f"outbox {claimed.key}"
    return Batch(claimed.key, key, [row.payload.encode() for row in rows])


def _choose(kind: str) -> list[int]:
    """Return the ids of what is to be published next, in order; park what cannot be.

    A message with an idempotency key of its own goes alone.
    """
    waiting = OutboxMessage.objects.filter(type=kind, error="")
    if connection.vendor == "postgresql":
        waiting = waiting.filter(transaction__lt=_XMIN)
    found = waiting.annotate(size=Length("payload")).values_list("pk", "size", "idempotency_key")
    largest = get_streaming_config().websocket.max_message_size
    chosen: list[int] = []
    room = MOST_CHARACTERS
    for pk, size, own_key in found[:MOST_MESSAGES]:
        # A character has 4 bytes at most.
        if 4 * size > largest and _park_if_too_large(pk, largest):
            continue
        room -= size
        if chosen and (own_key is not None or room < 0):
            break
        chosen.append(pk)
        if own_key is not None:
            break
    return chosen


def _park_if_too_large(pk: int, largest: int) -> bool:
    """Set a message aside that was written under another ``max_message_size``."""
    row: Any = OutboxMessage.objects.get(pk=pk)
    size = len(row.payload.encode())
    if size <= largest:
        return False
    row.error = f"{size} bytes, more than max_message_size ({largest})"
    row.save(update_fields=["error"])
    logger.error("%s is not published: %s", row, row.error)
    return True
