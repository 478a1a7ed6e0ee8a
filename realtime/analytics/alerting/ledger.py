"""Alerts in the database: the rules in force, the alerts published, the notifications to send.

The position up to which published alerts have been read is in the database too. It moves in the
same transaction that records the alerts and queues their notifications, so each is recorded and
queued once, however many processes read. Knows nothing of the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from realtime.analytics.alerting.definitions import alert_rules
from realtime.analytics.alerting.incidents import AlertGroup, AlertState
from realtime.analytics.alerting.models import (
    EMAIL,
    WEBHOOK,
    Alert,
    AlertRule,
    AlertsRead,
    Notification,
)
from realtime.analytics.alerting.processor import AlertProcessor
from realtime.analytics.alerting.rule import ABOVE, AlertSpec, Targets, make_condition
from realtime.analytics.rules import RuleError
from realtime.log.contract import Chunk
from realtime.protocol import Position
from realtime.protocol.times import read_time

# Resolved alerts, and notifications that are delivered or given up, are deleted after this time.
RETENTION = timedelta(days=30)

Short = Annotated[str, msgspec.Meta(max_length=32)]


class PublishedAlert(msgspec.Struct):
    """The fields that are read of an alert of a rule; messages of others may lack some."""

    alert_id: Annotated[str, msgspec.Meta(max_length=64)]
    rule: Annotated[str, msgspec.Meta(max_length=100)]
    source: Short
    severity: Annotated[str, msgspec.Meta(max_length=16)]
    state: Literal["firing", "resolved"]
    group: dict[str, Any]
    value: float
    message: str
    started_at: Short
    resolved_at: Short = ""


def rules_in_force() -> dict[str, AlertSpec]:
    """Return the rules of code and of the admin, by name."""
    return alert_rules.in_force(AlertRule.objects.all())


def load_processors() -> Iterator[AlertProcessor]:
    """Yield a processor of each rule, and of each that has ended while alerts of it are firing."""
    rules = rules_in_force().values()
    yield from map(AlertProcessor, rules)
    running = {(rule.name, rule.source) for rule in rules}
    firing = Alert.objects.filter(resolved_at="").order_by()
    for name, source in firing.values_list("rule", "source").distinct():
        if (name, source) not in running:
            yield AlertProcessor(_ended(name, source), ended=True)


def _ended(name: str, source: str) -> AlertSpec:
    """Return a rule in the place of one that was turned off or removed."""
    return AlertSpec(name, source, "value", make_condition(ABOVE, 0))


def targets(name: str) -> Targets | None:
    """Return whom to tell of a rule's alerts; ``None`` if there is no such rule any more."""
    row = AlertRule.objects.filter(name=name).first()
    if row is not None:
        return row.targets
    rule = alert_rules.get(name)
    return None if rule is None else rule.targets


def begin(head: Position) -> Position:
    """Return how far alerts have been read; the first time ever, that is up to *head*."""
    row, _ = AlertsRead.objects.get_or_create(pk=1, defaults=head._asdict())
    return Position(row.epoch, row.offset)


def record(before: Position, after: Position, bodies: Sequence[bytes]) -> bool:
    """Record the alerts read between two positions; ``False`` if another process has done it."""
    with transaction.atomic():
        unread = AlertsRead.objects.filter(pk=1, **before._asdict())
        if not unread.update(**after._asdict()):
            return False
        for body in bodies:
            _record(body)
    return True


def _record(body: bytes) -> None:
    """Record a published alert and queue its notifications; ignore messages of others."""
    # PostgreSQL's texts cannot hold a NUL.
    body = body.replace(b"\\u0000", b"\\ufffd")
    try:
        alert = msgspec.json.decode(body, type=PublishedAlert)
        _ended(alert.rule, alert.source)
    except (msgspec.DecodeError, UnicodeError, RecursionError, RuleError):
        return  # the message of somebody else, not of a rule
    Alert.objects.update_or_create(
        alert_id=alert.alert_id,
        defaults={name: getattr(alert, name) for name in alert.__struct_fields__ if name != "state"}
        | {"changed_at": timezone.now()},
    )
    # A rule that was removed since has no targets; its alert is recorded, to be resolved.
    emails, url, _ = targets(alert.rule) or Targets()
    channels = [channel for channel, target in ((EMAIL, emails), (WEBHOOK, url)) if target]
    same = {"rule": alert.rule, "alert_id": alert.alert_id, "state": alert.state}
    Notification.objects.bulk_create(
        [
            Notification(**same, channel=channel, body=body.decode(), next_attempt_at=Now())
            for channel in channels
        ],
        ignore_conflicts=True,  # those that are there already
    )


# Alerts that are looked for at a time.
BATCH = 500
# A rule's name and its source.
Owner = tuple[str, str]


def compare(
    chunk: Chunk, firing: Mapping[Owner, Collection[str]]
) -> dict[Owner, dict[str, AlertGroup | None]] | None:
    """Return how recorded alerts differ from the ids of those that are firing, for each rule.

    An alert that is not recorded is ``None``. Returns ``None`` unless all alerts have been recorded
    that were published when *chunk* was read from their log.
    """
    if chunk.shared(begin(Position(chunk.epoch, chunk.head))) != chunk.head:
        return None
    names = {name for name, _ in firing}
    rows = Alert.objects.filter(resolved_at="", rule__in=names).order_by()
    recorded = set(rows.values_list("rule", "source", "alert_id"))
    own = {(*owner, alert_id) for owner, ids in firing.items() for alert_id in ids}
    differences: dict[Owner, dict[str, AlertGroup | None]] = {owner: {} for owner in firing}
    different = [each for each in sorted(own ^ recorded) if each[:2] in differences]
    for start in range(0, len(different), BATCH):
        batch = different[start : start + BATCH]
        rows_by_id = Alert.objects.in_bulk([each[2] for each in batch], field_name="alert_id")
        for name, source, alert_id in batch:
            row = rows_by_id.get(alert_id)
            differences[name, source][alert_id] = _group_of(row) if row else None
    return differences


def _group_of(row: Alert) -> AlertGroup:
    """Return the group of a recorded alert, as far as that tells."""
    state = AlertState.FIRING if row.is_firing else AlertState.OK
    since = read_time(row.started_at) or 0.0
    return AlertGroup(
        row.group, state, value=row.value, at=since, since=since, alert_id=row.alert_id
    )


def prune() -> None:
    """Delete what was settled long ago."""
    past = timezone.now() - RETENTION
    Alert.objects.filter(changed_at__lt=past).exclude(resolved_at="").delete()
    Notification.objects.filter(created_at__lt=past, next_attempt_at=None).delete()
