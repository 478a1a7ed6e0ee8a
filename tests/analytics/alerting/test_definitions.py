"""Alert rules in code, and in the admin in their place."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.analytics.alerting import definitions, ledger
from realtime.analytics.alerting.definitions import alert_rule
from realtime.analytics.alerting.rule import AlertSpec, DeviationCondition, ThresholdCondition
from realtime.analytics.alerting.signing import new_secret
from realtime.analytics.registry import DefinitionRegistry
from tests.analytics.alerting.alerts import (
    add_rule,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: DefinitionRegistry[AlertSpec] = DefinitionRegistry("alert rule")
    for module in (definitions, ledger):
        monkeypatch.setattr(module, "alert_rules", registry)


@pytest.mark.usefixtures("no_rules")
def test_rules_in_code_and_in_the_admin() -> None:
    secret = new_secret()
    alert_rule(
        "late",
        source="metrics",
        value="v",
        above=5,
        clear=4,
        webhook_url="x",
        webhook_secret=secret,
    )
    alert_rule("odd", source="metrics", value="v", deviation=3)
    alert_rule("low", source="metrics", value="v", below=5)
    conditions = {name: rule.condition for name, rule in ledger.rules_in_force().items()}
    assert conditions == {
        "late": ThresholdCondition("above", 5, 4),
        "odd": DeviationCondition(3, 2),
        "low": ThresholdCondition("below", 5, 5),
    }
    assert ledger.targets("late") == ((), "x", secret)
    row = add_rule()
    assert ledger.rules_in_force()["late"].condition == ThresholdCondition("above", 60, 60)
    row.enabled = False
    row.save()
    assert "late" not in ledger.rules_in_force()


@pytest.mark.usefixtures("no_rules")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "give one of above, below and deviation"),
        ({"above": 1, "below": 2}, "give one of"),
        ({"above": 1, "clear": 2}, "clear: expected at most"),
        ({"above": 1, "source": "alerts"}, "source: expected"),
        ({"above": 1, "webhook_url": "http://x", "webhook_secret": "short"}, "Expected whsec_"),
        ({"above": 2, "name": "twice"}, "there is another alert rule named 'twice'"),
    ],
)
def test_a_wrong_rule_in_code_is_refused(fields: dict[str, Any], text: str) -> None:
    alert_rule("twice", source="metrics", value="v", above=1)
    with pytest.raises(ValueError, match=text):
        alert_rule(**{"name": "new", "source": "metrics", "value": "v"} | fields)


def test_a_row_that_is_no_rule_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    add_rule()
    add_rule(name="broken", value_path="..")
    assert list(ledger.rules_in_force()) == ["late"]
    assert list(ledger.rules_in_force()) == ["late"]
    [message] = caplog.messages
    assert message.startswith("the alert rule broken of the admin is wrong: value: ")
