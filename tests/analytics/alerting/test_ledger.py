"""Alerts in the database: each is recorded, and its notifications are queued, once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from realtime.analytics.alerting import ledger
from realtime.analytics.alerting.incidents import AlertState, write_time
from realtime.analytics.alerting.models import Alert, Notification
from realtime.log.contract import Chunk
from realtime.protocol import Position
from tests.analytics.alerting.alerts import (
    ALERT,
    RESOLVED,
    add_rule,
    encoded,
    only,
    record,
)

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_alert_is_recorded_and_queued_once() -> None:
    add_rule(emails="a@example.com", webhook_url="http://example.com")
    before = ledger.begin(Position("e", 3))
    assert before == ("e", 3) == ledger.begin(Position("f", 9))
    after = Position("e", 4)
    assert ledger.record(before, after, encoded(ALERT))
    assert not ledger.record(before, after, encoded(ALERT))  # by another process
    assert ledger.record(after, Position("e", 5), encoded(ALERT))  # published twice
    assert Alert.objects.get().is_firing
    assert Notification.objects.count() == 2
    record(RESOLVED)
    assert not Alert.objects.get().is_firing
    assert Notification.objects.count() == 4


def test_what_cannot_be_recorded_leaves_the_position_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_rule()
    before = ledger.begin(Position("e", 0))

    def fail(*args: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(ledger, "targets", fail)
    with pytest.raises(RuntimeError):
        ledger.record(before, Position("e", 1), encoded(ALERT))
    assert not Alert.objects.exists()
    assert ledger.begin(before) == before


@pytest.mark.parametrize(
    "alert",
    [
        {},
        ALERT | {"rule": "another site's"},
        ALERT | {"rule": "x" * 101},
        ALERT | {"source": "alerts"},
        ALERT | {"state": "odd"},
        ALERT | {"group": []},
        ALERT | {"value": None},
        {"alert_id": "1_delay", "severity": "warning", "message": "a demo's"},
    ],
)
def test_alerts_of_others_are_none_of_its_business(alert: dict[str, Any]) -> None:
    add_rule(emails="a@example.com")
    record(alert)
    assert not Alert.objects.exists() and not Notification.objects.exists()


def test_texts_that_databases_cannot_hold_are_changed() -> None:
    add_rule(emails="a@example.com")
    record(ALERT | {"message": "a\0b", "group": {"a": "\0"}})
    assert "\0" not in Alert.objects.get().message + only().body


def test_an_alert_of_a_rule_that_has_gone_is_resolved() -> None:
    rule = add_rule(emails="a@example.com")
    record(ALERT)
    rule.delete()
    record(RESOLVED)
    assert not Alert.objects.get().is_firing
    assert Notification.objects.count() == 1
    record(ALERT | {"alert_id": "b", "rule": "gone"})
    (processor,) = ledger.load_processors()
    assert (processor.name, processor.definition) == ("alert:gone:metrics", "ended")


def test_recorded_alerts_are_compared_with_those_that_fire(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ledger, "BATCH", 2)
    add_rule()
    record(ALERT, ALERT | {"alert_id": "b"}, RESOLVED | {"alert_id": "c"})
    record(ALERT | {"alert_id": "other", "rule": "another"})
    own, chunk = {("late", "metrics"): {"7d0f", "c", "d"}}, Chunk("e", 4, 5, [], 0.0)
    differences = ledger.compare(chunk, own)
    assert differences is not None
    told = differences["late", "metrics"]
    assert {name: group and group.state for name, group in told.items()} == {
        "b": AlertState.FIRING,
        "c": AlertState.OK,
        "d": None,
    }
    group = told["b"]
    assert group is not None and (group.value, group.alert_id) == (75.2, "b")
    assert write_time(group.since) == ALERT["started_at"] and group.group == ALERT["group"]
    # Another alert has been published, which is not recorded yet.
    assert ledger.compare(chunk._replace(head=5), own) is None
    # The log goes on at another server, from where it has been recorded, and was lost.
    moved = chunk._replace(epoch="f", earlier=[Position("e", 4)])
    assert ledger.compare(moved, own) == differences
    assert ledger.compare(chunk._replace(epoch="f", head=0), own) is None


def test_what_was_done_with_long_ago_is_deleted() -> None:
    add_rule(emails="a@example.com")
    record(ALERT, RESOLVED, ALERT | {"alert_id": "b"})
    past = timezone.now() - timedelta(days=31)
    Alert.objects.update(changed_at=past)
    Notification.objects.update(created_at=past)
    Notification.objects.filter(alert_id="7d0f").update(next_attempt_at=None)
    ledger.prune()
    assert Alert.objects.get().alert_id == "b"
    assert only().alert_id == "b"
