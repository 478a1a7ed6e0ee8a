"""The database's side of alerts: which rules there are, which alerts, and whom to tell.

How far the published alerts have been read is kept in the database too, and changes in one
transaction with what they make of it. So each alert is recorded, and each notification queued,
once, however many processes read. Knows no network.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec
from django.db import transaction
from django.utils import timezone

from realtime.analytics.alerting.declared import DECLARED, Targets
from realtime.analytics.alerting.models import (
    EMAIL,
    WEBHOOK,
    Alert,
    AlertRule,
    AlertsRead,
    Notification,
)
from realtime.analytics.alerting.processor import AlertProcessor
from realtime.analytics.alerting.rule import Rule, RuleError, Threshold
from realtime.protocol import Position

logger = logging.getLogger(__name__)

# How long resolved alerts, and notifications that are done with, are kept.
KEPT = timedelta(days=30)

Short = Annotated[str, msgspec.Meta(max_length=32)]
Name = Annotated[str, msgspec.Meta(max_length=100)]


class Published(msgspec.Struct):
    """What is read of a published alert; others than a rule's have not all of it."""

    alert_id: Annotated[str, msgspec.Meta(max_length=64)]
    rule: Name
    source: Short
    severity: Annotated[str, msgspec.Meta(max_length=16)]
    state: Literal["firing", "resolved"]
    group: dict[str, Any]
    value: float
    message: str
    started_at: Short
    resolved_at: Short = ""


# Rules


def rules_in_force() -> dict[str, Rule]:
    """Return the rules of code and admin by name; the admin's take the place of the code's."""
    found = {name: declared.rule for name, declared in DECLARED.items()}
    for row in AlertRule.objects.all():
        found.pop(row.name, None)
        if row.enabled:
            try:
                found[row.name] = row.rule()
            except RuleError as error:
                logger.error("alert rule %s: %s", row.name, error)
    return found


def load_processors() -> Iterator[AlertProcessor]:
    """Yield a processor for each rule, and for each that has gone and has alerts that fire."""
    rules = rules_in_force().values()
    yield from map(AlertProcessor, rules)
    known = {(rule.name, rule.source) for rule in rules}
    firing = Alert.objects.filter(resolved_at="").order_by()
    for name, source in firing.values_list("rule", "source").distinct():
        if (name, source) not in known:
            yield AlertProcessor(_ended(name, source), ended=True)


def _ended(name: str, source: str) -> Rule:
    """Return a rule that stands for one that has gone."""
    return Rule(name, source, "value", Threshold("above", 0, 0))


def targets(rule: str) -> Targets | None:
    """Return whom to tell of a rule's alerts; ``None`` if there is no such rule any more."""
    row = AlertRule.objects.filter(name=rule).first()
    if row is None:
        declared = DECLARED.get(rule)
        return None if declared is None else declared.targets
    url = row.webhook_url if row.webhook_enabled else ""
    return Targets(row.addresses, url, row.webhook_secret)


def turn_webhook_off(rule: str, url: str) -> None:
    """Turn a rule's webhook off, unless it has another URL by now."""
    AlertRule.objects.filter(name=rule, webhook_url=url).update(webhook_enabled=False)


# Alerts


def begin(head: Position) -> Position:
    """Return how far alerts have been read; the first time ever, that is up to now."""
    row, _ = AlertsRead.objects.get_or_create(
        pk=1, defaults={"epoch": head.epoch, "offset": head.offset}
    )
    return Position(row.epoch, row.offset)


def record(before: Position, after: Position, bodies: Sequence[bytes]) -> bool:
    """Record what was read between two positions; tell whether nobody else has done it."""
    with transaction.atomic():
        unread = AlertsRead.objects.filter(pk=1, epoch=before.epoch, offset=before.offset)
        if not unread.update(epoch=after.epoch, offset=after.offset):
            return False
        for body in bodies:
            _record(body)
    return True


def _record(body: bytes) -> None:
    # PostgreSQL's texts cannot hold a NUL.
    body = body.replace(b"\\u0000", b"\\ufffd")
    try:
        alert = msgspec.json.decode(body, type=Published)
        _ended(alert.rule, alert.source)
    except (msgspec.DecodeError, UnicodeError, RecursionError, RuleError):
        return  # somebody else's alert
    Alert.objects.update_or_create(
        alert_id=alert.alert_id,
        defaults={name: getattr(alert, name) for name in alert.__struct_fields__ if name != "state"}
        | {"changed_at": timezone.now()},
    )
    # The rule may have gone since; its alert is recorded, to be resolved.
    if (found := targets(alert.rule)) is not None:
        _queue(alert, body, _channels(found))


def _channels(targets: Targets) -> list[str]:
    return [EMAIL] * bool(targets.emails) + [WEBHOOK] * bool(targets.webhook_url)


def _queue(alert: Published, body: bytes, channels: Iterable[str]) -> None:
    Notification.objects.bulk_create(
        [
            Notification(
                rule=alert.rule,
                alert_id=alert.alert_id,
                state=alert.state,
                channel=channel,
                body=body.decode(),
                next_attempt_at=timezone.now(),
            )
            for channel in channels
        ],
        ignore_conflicts=True,
    )


def prune() -> None:
    """Delete what was done with long ago."""
    past = timezone.now() - KEPT
    Alert.objects.filter(changed_at__lt=past).exclude(resolved_at="").delete()
    Notification.objects.filter(created_at__lt=past, next_attempt_at=None).delete()
