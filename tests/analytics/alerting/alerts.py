"""An alert, and the database's rows of it: what the tests of this folder share."""

from __future__ import annotations

from typing import Any

import msgspec
from django.utils import timezone

from realtime.analytics.alerting import ledger
from realtime.analytics.alerting.models import AlertRule, Notification
from realtime.protocol import Position

ALERT = {
    "alert_id": "7d0f",
    "rule": "late",
    "name": "late",
    "source": "metrics",
    "severity": "critical",
    "state": "firing",
    "group": {"origin": "JFK\r\nBcc: all@example.com"},
    "value": 75.2,
    "threshold": 60.0,
    "started_at": "2013-01-01T10:00:00.000Z",
    "timestamp": "2013-01-01T10:00:00.000Z",
    "message": "late: v of origin=JFK is 75.2, above 60",
}
RESOLVED = ALERT | {"state": "resolved", "resolved_at": "2013-01-01T11:00:00.000Z"}


def encoded(*alerts: dict[str, Any]) -> list[bytes]:
    return [msgspec.json.encode(alert) for alert in alerts]


def add_rule(**fields: Any) -> AlertRule:
    row: AlertRule = AlertRule.objects.create(
        **{"name": "late", "value_path": "v", "threshold": 60.0} | fields
    )
    return row


def record(*alerts: dict[str, Any]) -> None:
    before = ledger.begin(Position("e", 0))
    after = Position("e", before.offset + len(alerts))
    assert ledger.record(before, after, encoded(*alerts))


def only() -> Notification:
    row: Notification = Notification.objects.get()
    return row


def make_due() -> None:
    """Let time pass until the next attempt."""
    waiting = Notification.objects.filter(next_attempt_at__isnull=False)
    waiting.update(next_attempt_at=timezone.now())
