"""The outbox: messages that a transaction writes, and the relay that publishes them after it.

They are published in order, each once. Each type is relayed by itself: one whose server is away
does not hold up the others. Of several relays one holds a lock and works, and another takes over
when it ends, however it ends. That saves work only: if two worked, the batches that they claim in
the database would still be published once and in order.

The order is that of transactions as they began to write, and of ids within one. On PostgreSQL a
transaction may commit after one that began later, so a message is published only when all
transactions that began to write before its own have ended: those below its snapshot's ``xmin``.
After that nothing can come that belongs before it. An example, where 7 is published only once 6
has ended::

    transaction 6   begins ─ writes a ────────────────── commits
    transaction 7       begins ─ writes b ─ commits
    published                                            a, b     never b, a

SQLite has one writer at a time, so ids are in the order of commits.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

from django.db import connection, models, transaction
from django.db.models import Count, Min, Q
from django.db.models.expressions import RawSQL
from django.db.models.functions import Length
from django.utils import timezone

from realtime.config import get_streaming_config
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing.publication import RETRY_INTERVAL, PublishError, publish_checked

logger = logging.getLogger(__name__)

# Where PostgreSQL tells relays that a transaction with messages has committed.
CHANNEL = "realtime_outbox"
INSERTED_TOGETHER = 500
# Of one batch.
MAX_MESSAGES = 500
MAX_CHARACTERS = 4 * 1024 * 1024
_KEY = re.compile(r"(?s)(?:(?=1 )|(?=\d+ [0-9a-f]{64}\Z))(\d+) (.*)")

_XMIN = RawSQL("pg_snapshot_xmin(pg_current_snapshot())::text::bigint", ())
_XMAX = RawSQL("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", ())

# The claim that is in the row of OutboxBatch, the idempotency key, and the payloads.
ClaimedBatch = tuple[str, str, list[bytes]]


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


def write(kind: str, parts: Iterable[tuple[Sequence[bytes], str | None]]) -> None:
    """Write messages to the outbox, in the current transaction or in one of their own.

    What has a key is published as it would be without the outbox: each of *parts* together.
    """
    is_postgresql = connection.vendor == "postgresql"
    number = RawSQL("pg_current_xact_id()::text::bigint", ()) if is_postgresql else None
    rows = [
        OutboxMessage(
            type=kind,
            payload=body.decode(),
            idempotency_key=None if key is None else f"{len(part)} {key}",
            transaction=number,
        )
        for part, key in parts
        for body in part
    ]
    with transaction.atomic(savepoint=False):
        OutboxMessage.objects.bulk_create(rows, INSERTED_TOGETHER)
        if is_postgresql:
            with connection.cursor() as cursor:  # delivered at the commit
                cursor.execute(f"NOTIFY {CHANNEL}")


class Relay:
    """The relaying of one process. Call :meth:`begin`, then :meth:`step` again and again."""

    def __init__(self) -> None:
        # Type -> the claim whose messages the log has, and which are still in the outbox.
        self._published: dict[str, str] = {}
        # Type -> when to try again, since its log did not answer.
        self._paused: dict[str, float] = {}
        self.count = 0

    def begin(self) -> None:
        """Prepare the tables. Call it each time that this relay gets the lock."""
        for kind in SUBSCRIPTION_TYPES:
            OutboxBatch.objects.get_or_create(type=kind)
        # Rows brought here from another server: none of its transactions is still under way.
        if connection.vendor == "postgresql":
            foreign = Q(transaction__gte=_XMAX) | Q(transaction=None)
            OutboxMessage.objects.filter(foreign).update(transaction=0)
        else:
            OutboxMessage.objects.exclude(transaction=None).update(transaction=None)

    def step(self) -> bool:
        """Publish a batch of each type that has messages; tell whether anything was published."""
        waiting = OutboxMessage.objects.filter(error="").order_by()
        kinds = set(waiting.values_list("type", flat=True).distinct())
        now = time.monotonic()
        due = [kind for kind in sorted(kinds) if self._paused.get(kind, 0.0) <= now]
        results = [self._relay(kind) for kind in due]
        return any(results)

    def has_waiting(self) -> bool:
        """Tell whether there is anything to publish, now or soon."""
        return bool(OutboxMessage.objects.filter(error="").exists())

    def _relay(self, kind: str) -> bool:
        """Publish one batch of a type; tell whether there was one and the log has it."""
        batch = _next_batch(kind, self._published.get(kind))
        if batch is None:
            return False
        claim, key, bodies = batch
        try:
            if bodies:
                publish_checked(kind, bodies, key)
        except PublishError as error:
            logger.warning("%s: %s", kind, error)
            self._paused[kind] = time.monotonic() + RETRY_INTERVAL
            return False
        self._published[kind] = claim
        self.count += len(bodies)
        return True


def _next_batch(kind: str, published: str | None) -> ClaimedBatch | None:
    """Delete the batch whose claim is *published*; claim and return the next, if there is one.

    A batch that some relay claimed and that is not *published* comes first: it is published again
    under the same key, which does no harm. So a relay that has lost the lock without noticing
    can only repeat what the relay that has it publishes.
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


def _read(claimed: OutboxBatch) -> ClaimedBatch:
    rows = list(OutboxMessage.objects.filter(pk__in=claimed.messages))
    own_key = rows[0].idempotency_key if rows else None
    key = f"outbox {claimed.key}" if own_key is None else _read_key(own_key)[1]
    return claimed.key, key, [row.payload.encode() for row in rows]


def _read_key(text: str) -> tuple[int, str]:
    """Return how many messages are published together under a key, and the key.

    The version before wrote the key alone. Several have a key of ``derive_key``.
    """
    match = _KEY.fullmatch(text)
    return (int(match[1]), match[2]) if match else (1, text)


def _choose(kind: str) -> list[int]:
    """Return the ids of the messages to publish next, in order; park those that are too large.

    Messages with an idempotency key of their own are published apart from others.
    """
    waiting = OutboxMessage.objects.filter(type=kind, error="")
    if connection.vendor == "postgresql":
        waiting = waiting.filter(transaction__lt=_XMIN)
    rows = waiting.annotate(size=Length("payload")).values_list("pk", "size", "idempotency_key")
    largest = get_streaming_config().websocket.max_message_size
    chosen: list[int] = []
    room = MAX_CHARACTERS
    for pk, size, own_key in rows[:MAX_MESSAGES]:
        # A character has 4 bytes at most.
        if 4 * size > largest and _park_if_too_large(pk, largest):
            continue
        room -= size
        if chosen and (own_key is not None or room < 0):
            break
        if own_key is not None:
            return _choose_together(kind, pk, own_key, largest)
        chosen.append(pk)
    return chosen


def _choose_together(kind: str, first: int, own_key: str, largest: int) -> list[int]:
    """Return the ids of the message *first* and of those that are published with it."""
    # Rows of another transaction with the same key may lie between its own.
    its = OutboxMessage.objects.values_list("transaction", flat=True).get(pk=first)
    same = OutboxMessage.objects.filter(
        type=kind, idempotency_key=own_key, transaction=its, pk__gte=first
    )
    rows = list(same.order_by("pk").values_list("pk", "error")[: _read_key(own_key)[0]])
    waiting = [pk for pk, error in rows if not error]
    return [pk for pk in waiting if pk == first or not _park_if_too_large(pk, largest)]


def _park_if_too_large(pk: int, largest: int) -> bool:
    """Park a message that was written under a larger ``max_message_size``; tell whether it was."""
    row: Any = OutboxMessage.objects.get(pk=pk)
    size = len(row.payload.encode())
    if size <= largest:
        return False
    row.error = f"{size} bytes, more than max_message_size ({largest})"
    if row.idempotency_key is not None and _read_key(row.idempotency_key)[0] > 1:
        row.idempotency_key = None  # the messages that it belongs to use it up without this one
    row.save(update_fields=["error", "idempotency_key"])
    logger.error("%s is not published: %s", row, row.error)
    return True
