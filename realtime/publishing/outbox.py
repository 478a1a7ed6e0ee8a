"""The outbox: messages that a transaction writes; :mod:`realtime.publishing.relay` publishes them.

The relay does so after the commit, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from django.db import connection, models, transaction
from django.db.models import Count, Min, Q
from django.db.models.expressions import RawSQL
from django.utils import timezone

# Where PostgreSQL tells relays that a transaction with messages has committed.
CHANNEL = "realtime_outbox"
INSERTED_TOGETHER = 500


class OutboxMessage(models.Model):
    """A message to be published.

    On PostgreSQL ``transaction`` is the number of the transaction that wrote it. Ids alone give no
    order that holds: a transaction with a higher one may commit before one with a lower one.
    """

    type = models.CharField(max_length=32)
    payload = models.TextField()  # JSON text
    idempotency_key = models.TextField(null=True)
    transaction = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(default=timezone.now)
    # Why it cannot be published, if it cannot.
    error = models.TextField(blank=True)

    objects: ClassVar[Any] = models.Manager()

    class Meta:
        verbose_name = "outgoing message"
        ordering = ("transaction", "pk")
        default_permissions = ("view", "delete")
        permissions: ClassVar[Any] = [("retry_outboxmessage", "Can try outgoing message again")]
        indexes: ClassVar[list[Any]] = [
            models.Index(
                fields=["type", "transaction", "id"],
                condition=Q(error=""),
                name="realtime_outbox_waiting",
            )
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.pk}"


class OutboxBatch(models.Model):
    """The messages of one type that a relay publishes together, under one idempotency key.

    It is written before they are published. A relay that takes over from one that was killed
    publishes the same messages under the same key, so the log takes them once.
    """

    type = models.CharField(max_length=32, primary_key=True)
    key = models.CharField(max_length=32, blank=True)
    messages = models.JSONField(default=list)

    objects: ClassVar[Any] = models.Manager()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.type} {self.key}"


class Waiting(NamedTuple):
    """How many messages wait for a relay, and how many are parked: they cannot be published.

    ``since`` is when the oldest that waits was written, in seconds since 1970.
    """

    waiting: int
    parked: int
    since: float | None


def count_waiting() -> Waiting:
    """Count what is in the outbox."""
    is_waiting = Q(error="")
    counts = OutboxMessage.objects.order_by().aggregate(
        waiting=Count("pk", filter=is_waiting),
        parked=Count("pk", filter=~is_waiting),
        since=Min("created_at", filter=is_waiting),
    )
    since = counts["since"]
    return Waiting(counts["waiting"], counts["parked"], since.timestamp() if since else None)


def write(kind: str, bodies: Sequence[bytes], idempotency_key: str | None) -> None:
    """Write messages to the outbox, in the current transaction or in one of their own."""
    is_postgresql = connection.vendor == "postgresql"
    number = RawSQL("pg_current_xact_id()::text::bigint", ()) if is_postgresql else None
    keys = [idempotency_key] * len(bodies)
    if idempotency_key and len(bodies) > 1:
        keys = [f"{idempotency_key}:{place}" for place in range(len(bodies))]
    rows = [
        OutboxMessage(
            type=kind,
            payload=body.decode(),
            idempotency_key=key,
            transaction=number,
        )
        for key, body in zip(keys, bodies, strict=True)
    ]
    with transaction.atomic(savepoint=False):
        OutboxMessage.objects.bulk_create(rows, INSERTED_TOGETHER)
        if is_postgresql:
            with connection.cursor() as cursor:  # delivered at the commit
                cursor.execute(f"NOTIFY {CHANNEL}")
