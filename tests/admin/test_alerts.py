"""The admin's pages of alert rules, alerts and notifications."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client
from django.utils import timezone

from realtime import apublish
from realtime.admin.alerts import read_status
from realtime.analytics.alerting.ledger import load_processors, rules_in_force
from realtime.analytics.alerting.models import Alert, AlertRule, Notification
from realtime.analytics.alerting.processor import AlertProcessor
from realtime.analytics.alerting.rule import DeviationCondition, ThresholdCondition
from realtime.analytics.alerting.signing import check_secret
from realtime.analytics.processing.contract import Records
from realtime.analytics.processing.state import claim, save
from tests.support.layers import close_layer, running_valkey

pytestmark = pytest.mark.django_db

RULES = "/admin/realtime/alertrule/"
ALERTS = "/admin/realtime/alert/"
NOTIFICATIONS = "/admin/realtime/notification/"


def form(**fields: Any) -> dict[str, Any]:
    return {
        "name": "long_delays",
        "enabled": "on",
        "severity": "critical",
        "source": "aggregations",
        "filters": '{"rule": "airport_delays"}',
        "value_path": "values.mean_delay",
        "condition": "above",
        "threshold": "60",
        "clear": "50",
        "for_seconds": "0",
        "webhook_enabled": "on",
    } | fields


def alert(**fields: Any) -> Alert:
    row: Alert = Alert.objects.create(
        **{
            "alert_id": "one",
            "rule": "long_delays",
            "source": "aggregations",
            "severity": "critical",
            "group": {"payload.origin": "JFK"},
            "value": 75.0,
            "message": "it is too late",
            "started_at": "2013-01-01T10:00:00.000Z",
            "changed_at": timezone.now(),
        }
        | fields
    )
    return row


def badges(browser: Client, url: str) -> list[str]:
    """Return the states in a list's rows, sorted."""
    page = browser.get(url).content.decode()
    return sorted(re.findall(r'<span class="realtime-state realtime-\w+">(\w+)<', page))


def test_a_rule_is_made_in_the_form(browser: Client) -> None:
    page = browser.get(f"{RULES}add/")
    assert 'value="whsec_' in page.content.decode()
    assert browser.post(f"{RULES}add/", form(group_by="group.a, group.b ,")).status_code == 302
    (rule,) = rules_in_force().values()
    assert rule.condition == ThresholdCondition("above", 60.0, 50.0)
    assert rule.filters == {"rule": "airport_delays"}
    assert rule.group_by == ["group.a", "group.b"]
    row = AlertRule.objects.get()
    check_secret(row.webhook_secret)
    assert row.active_since is not None and rule.since == row.active_since.timestamp()
    assert "values.mean_delay is above 60" in browser.get(RULES).content.decode()


@pytest.mark.processes
@pytest.mark.django_db(transaction=True)
async def test_the_admin_shows_what_a_rule_leaves_out(data_dir: Path, browser: Client) -> None:
    await browser_post(browser, form(source="metrics", value_path="v", time_path="t"))
    row = await AlertRule.objects.aget()
    with running_valkey(data_dir):
        assert (await sync_to_async(read_status)(row)).state == "waiting"
        position = await apublish("metrics", {"v": 99, "t": "soon", "rule": "airport_delays"})
        assert position is not None
        processor = AlertProcessor(row.spec())
        hold = await claim(processor, "me")
        assert hold is not None
        timestamp = time.time() + 1
        payload = {"v": 99, "t": "soon", "rule": "airport_delays"}
        processor.take(Records(1, [payload], [timestamp], position.epoch))
        hold.position = position
        await save(hold)
        text = "1 without a time, 0 without a group, 0 in too many groups"
        assert await sync_to_async(read_status)(row) == ("running", "0", text, "-")
        address = f"{RULES}{row.pk}/change/"
        assert text in (await sync_to_async(browser.get)(address)).content.decode()
        await close_layer()
    assert (await sync_to_async(read_status)(row)).left_out == "-"
    await sync_to_async(connections.close_all)()  # of the thread that ran synchronous code


async def browser_post(browser: Client, fields: dict[str, Any]) -> None:
    assert (await sync_to_async(browser.post)(f"{RULES}add/", fields)).status_code == 302


def test_a_deviation_is_made_in_the_form(browser: Client) -> None:
    fields = {"condition": "deviation", "threshold": "3", "clear": "", "source": "metrics"}
    assert browser.post(f"{RULES}add/", form(**fields)).status_code == 302
    (rule,) = rules_in_force().values()
    assert rule.condition == DeviationCondition(3.0, 2.0)
    assert rule.group_paths == ()


@pytest.mark.parametrize(
    ("fields", "where", "text"),
    [
        ({"threshold": ""}, "threshold", "This field is required."),
        ({"threshold": "nan"}, "threshold", "Enter a number."),
        ({"clear": "61"}, "clear", "expected at most the threshold, 60"),
        ({"condition": "below"}, "clear", "expected at least the threshold, 60"),
        ({"value_path": "a..b"}, "value_path", "the path 'a..b' has an empty step"),
        ({"time_path": "."}, "time_path", "the path '.' has an empty step"),
        ({"group_by": "a, b."}, "group_by", "the path 'b.' has an empty step"),
        ({"filters": "[]"}, "filters", "expected an object"),
        ({"filters": "nonsense"}, "filters", "This is not JSON."),
        ({"condition": "deviation", "threshold": "0"}, "threshold", "expected more than 0"),
        ({"condition": "deviation", "threshold": "3"}, "clear", "at least 0 and at most 3"),
        ({"for_seconds": "-1"}, "for_seconds", "expected at least 0"),
        ({"resolve_after": "0"}, "resolve_after", "more than 0"),
        ({"emails": "a@example.com, b"}, "emails", "'b' is not an e-mail address."),
        ({"webhook_url": "ftp://example.com"}, "webhook_url", "Expected http"),
        ({"webhook_url": "http://[x"}, "webhook_url", "This is not a URL"),
        ({"webhook_url": "http://a:99999/"}, "webhook_url", "This is not a URL"),
        ({"webhook_secret": "whsec_c2hvcnQ="}, "webhook_secret", "Expected whsec_ and 24"),
        ({"name": "no slug"}, "name", "Enter a valid"),
    ],
)
def test_what_makes_no_rule_is_refused(
    browser: Client, fields: dict[str, str], where: str, text: str
) -> None:
    page: Any = browser.post(f"{RULES}add/", form(**fields))
    assert page.status_code == 200
    errors = page.context["adminform"].form.errors
    assert where in errors and text in " ".join(errors[where])
    assert not AlertRule.objects.exists()


def test_an_empty_secret_gets_a_new_one(browser: Client) -> None:
    browser.post(f"{RULES}add/", form(webhook_secret=""))
    check_secret(AlertRule.objects.get().webhook_secret)


def test_who_may_only_look_does_not_see_the_secret() -> None:
    rule = AlertRule.objects.create(name="r", value_path="v", threshold=1)
    user = User.objects.create(username="b", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_alertrule"))
    client = Client()
    client.force_login(user)
    page = client.get(f"{RULES}{rule.pk}/change/").content.decode()
    assert rule.value_path in page and rule.webhook_secret not in page
    user.user_permissions.add(Permission.objects.get(codename="change_alertrule"))
    assert rule.webhook_secret in client.get(f"{RULES}{rule.pk}/change/").content.decode()
    assert rule.webhook_secret not in client.get(RULES).content.decode()


def test_the_list_says_how_many_alerts_fire(browser: Client) -> None:
    AlertRule.objects.create(name="long_delays", value_path="v", threshold=1)
    AlertRule.objects.create(name="quiet", value_path="v", threshold=1)
    alert()
    alert(alert_id="two", resolved_at="2013-01-01T11:00:00.000Z")
    page = browser.get(RULES).content.decode()
    assert f'<a href="{ALERTS}?state=firing&q=long_delays">1</a>' in page
    assert '<td class="field-firing">0</td>' in page
    for query, states in (
        ("?state=firing", ["firing"]),
        ("?state=resolved", ["resolved"]),
        ("", ["firing", "resolved"]),
    ):
        assert badges(browser, ALERTS + query) == states


def test_a_rule_that_is_off_or_gone_has_a_processor_until_its_alerts_are_resolved() -> None:
    row = AlertRule.objects.create(name="long_delays", value_path="v", threshold=1.0)
    one = alert()
    assert [p.definition for p in load_processors()] == [row.spec().definition]
    row.source = "metrics"
    row.save()
    first, second = load_processors()
    assert (first.source, second.source) == ("metrics", "aggregations")
    assert second.definition == "ended" and first.name != second.name
    row.enabled = False
    row.save()
    assert row.active_since is None
    assert [p.definition for p in load_processors()] == ["ended"]
    row.delete()
    assert [p.definition for p in load_processors()] == ["ended"]
    one.resolved_at = "2013-01-01T11:00:00.000Z"
    one.save()
    assert list(load_processors()) == []


def test_a_rule_begins_anew_when_asked(browser: Client) -> None:
    rule = AlertRule.objects.create(name="r", value_path="v", threshold=1)
    before = rule.spec().definition
    action = {"action": "begin_anew", "_selected_action": rule.pk}
    assert browser.post(RULES, action).status_code == 302
    rule.refresh_from_db()
    assert rule.spec().definition != before


def test_notifications_are_sent_again_by_those_who_may(browser: Client) -> None:
    one = Notification.objects.create(
        rule="r", alert_id="a", state="firing", channel="webhook", body="{}", attempts=10
    )
    assert one.status == "failed"
    assert badges(browser, f"{NOTIFICATIONS}?status=failed") == ["failed"]
    action = {"action": "send_again", "_selected_action": one.pk}
    assert browser.post(NOTIFICATIONS, action).status_code == 302
    one.refresh_from_db()
    assert (one.status, one.attempts) == ("waiting", 0)
    assert badges(browser, f"{NOTIFICATIONS}?status=failed") == []
    assert badges(browser, f"{NOTIFICATIONS}?status=waiting") == ["waiting"]

    user = User.objects.create(username="c", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_notification"))
    client = Client()
    client.force_login(user)
    assert "send_again" not in client.get(NOTIFICATIONS).content.decode()


def test_alerts_and_notifications_are_not_made_or_changed_by_hand(browser: Client) -> None:
    alert()
    for page in (ALERTS, NOTIFICATIONS):
        assert browser.get(f"{page}add/").status_code == 403
    assert browser.get(f"{ALERTS}{Alert.objects.get().pk}/change/").status_code == 200
