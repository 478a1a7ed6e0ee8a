"""The pages of aggregation rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import Client

from realtime import apublish
from realtime.admin.aggregations import read_status
from realtime.analytics.aggregation.processor import AggregationProcessor
from realtime.analytics.aggregation.rule import make_spec
from realtime.analytics.processing.state import claim, renew, save
from realtime.models import AggregationRule
from realtime.protocol import Position
from tests.support.layers import close_layer, running_valkey

COUNT = [{"name": "n", "function": "count"}]
PAGE = "/admin/realtime/aggregationrule/"


def form(**fields: Any) -> dict[str, Any]:
    return {
        "name": "delays",
        "enabled": "on",
        "source": "events",
        "filters": '{"event_type": "departure"}',
        "group_by": '["payload.origin"]',
        "size": "60",
        "slide": "",
        "allowed_lateness": "0",
        "allowed_skew": "",
        "time_path": "",
        "functions": '[{"name": "n", "function": "count"}]',
    } | fields


@pytest.mark.django_db
def test_a_rule_is_made_changed_and_copied(browser: Client) -> None:
    page = browser.post(f"{PAGE}add/", form())
    assert page.status_code == 302, page.context["errors"]
    row = AggregationRule.objects.get()
    assert row.spec() == make_spec(
        "delays",
        filters={"event_type": "departure"},
        group_by=["payload.origin"],
        size=60,
        functions=COUNT,
    )
    address = f"{PAGE}{row.pk}/change/"
    page = browser.post(address, form(slide="20", filters="", group_by="[]", allowed_skew="5"))
    assert page.status_code == 302, page.context["errors"]
    changed = AggregationRule.objects.get().spec()
    assert (changed.slide, changed.filters, changed.group_by) == (20, (), ())
    assert (row.spec().skew, changed.skew) == (60, 5)
    assert browser.get(address).status_code == 200
    AggregationRule.objects.create(name="bad", size=60, functions=7)
    assert b"60 s every 20 s" in browser.get(PAGE).content


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("name", "a b", "valid"),
        ("size", "0", "whole seconds"),
        ("size", "x", "whole number"),
        ("slide", "7", "no multiple"),
        ("allowed_skew", "2678401", "whole seconds"),
        ("filters", "[]", "expected an object"),
        ("filters", "{", "not JSON"),
        ("filters", '{"a": [[]]}', "'a'"),
        ("filters", '{"a": 1e999}', "not JSON"),
        ("group_by", '"payload.origin"', "list of paths"),
        ("group_by", "payload.origin", "not JSON"),
        ("time_path", "a..b", "empty step"),
        ("functions", "", "required"),
        ("functions", '[{"name": "n", "function": "median", "path": "x"}]', "n: function is none"),
        ("functions", "[" * 5000, "not JSON"),
        ("source", "aggregations", "valid choice"),
    ],
)
def test_a_wrong_field_says_why(browser: Client, field: str, value: str, text: str) -> None:
    page = browser.post(f"{PAGE}add/", form(**{field: value}))
    assert page.status_code == 200
    errors = page.context["adminform"].form.errors
    assert list(errors) == [field]
    assert text in errors[field][0]
    assert not AggregationRule.objects.exists()


@pytest.mark.processes
@pytest.mark.django_db
async def test_the_admin_shows_how_a_rule_stands(data_dir: Path) -> None:
    row = AggregationRule(name="r", size=60, time_path="at", functions=COUNT)
    with running_valkey(data_dir):
        assert (await sync_to_async(read_status)(row)).state == "waiting"
        position = await apublish("events", {"at": 1})
        assert position is not None
        processor = AggregationProcessor(row.spec())
        hold = await claim(processor, "me")
        assert hold is not None
        hold.position = Position(position.epoch, 0)
        processor.windows.progress.late = 1234
        processor.windows.advance(1_356_998_400)
        await save(hold)
        status = await sync_to_async(read_status)(row)
        assert (status.state, status.behind) == ("running", "1")
        assert status.left_out.startswith("1,234 too late")
        assert status.closed_until == "2013-01-01 00:00:00 UTC"
        await renew(processor, "me", give_up=True)
        assert (await sync_to_async(read_status)(row)).state == "waiting"
        await close_layer()
    row.enabled = False
    assert (await sync_to_async(read_status)(row)).state == "disabled"
