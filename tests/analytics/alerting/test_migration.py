"""Alert rules of a database from before migration 0007: they mean the same afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from realtime.analytics.alerting.models import AlertRule
from realtime.analytics.alerting.rule import AlertCondition, DeviationCondition, ThresholdCondition

pytestmark = pytest.mark.django_db(transaction=True)

BEFORE, AFTER = [("realtime", "0006_outbox")], [("realtime", "0007_alert_conditions")]
# Fields of the rows before, and the conditions that they meant.
ROWS: dict[str, tuple[dict[str, Any], AlertCondition]] = {
    "above": ({"threshold": 60.0}, ThresholdCondition("above", 60.0, 60.0)),
    "below": (
        {"condition": "below", "threshold": 5.0, "clear": 7.5, "factor": 9.0, "alpha": 0.5},
        ThresholdCondition("below", 5.0, 7.5),
    ),
    "usual": ({"condition": "deviation"}, DeviationCondition(3.0, 2.0, 0.05, 30, 0.0)),
    "odd": (
        {
            "condition": "deviation",
            "threshold": 1.0,
            "clear": 0.0,
            "factor": 4.0,
            "clear_factor": 1.5,
            "alpha": 0.1,
            "samples": 12,
            "least": 10.0,
        },
        DeviationCondition(4.0, 1.5, 0.1, 12, 10.0),
    ),
}


def migrate(target: list[tuple[str, str]]) -> Any:
    """Migrate, and return the model of alert rules as it was then."""
    executor = MigrationExecutor(connection)
    executor.migrate(target)
    return executor.loader.project_state(target).apps.get_model("realtime", "AlertRule")


@pytest.fixture
def rows_before() -> Iterator[Any]:
    """A database before the migration, with rows; it is migrated again in the end."""
    model = migrate(BEFORE)
    for name, (fields, _) in ROWS.items():
        model.objects.create(name=name, value_path="v", **fields)
    yield model
    MigrationExecutor(connection).migrate(AFTER)


@pytest.mark.usefixtures("rows_before")
def test_conditions_are_carried_over() -> None:
    migrate(AFTER)
    conditions = {row.name: row.spec().condition for row in AlertRule.objects.all()}
    assert conditions == {name: condition for name, (_, condition) in ROWS.items()}


@pytest.mark.usefixtures("rows_before")
def test_no_rule_changes_so_firing_alerts_stay() -> None:
    """The text by which a running rule notices a change is what it was before."""
    migrate(AFTER)
    assert (
        '["Deviation", 4.0, 1.5, 0.1, 12, 10.0]'
        in AlertRule.objects.get(name="odd").spec().definition
    )
    assert (
        '["Threshold", "below", 5.0, 7.5]' in AlertRule.objects.get(name="below").spec().definition
    )


@pytest.mark.usefixtures("rows_before")
def test_conditions_are_carried_back() -> None:
    migrate(AFTER)
    rows = {row.name: row for row in migrate(BEFORE).objects.all()}
    odd, below = rows["odd"], rows["below"]
    assert (odd.factor, odd.clear_factor, odd.alpha, odd.samples, odd.least) == (
        4,
        1.5,
        0.1,
        12,
        10,
    )
    assert (below.threshold, below.clear) == (5.0, 7.5)
    assert (rows["usual"].factor, rows["usual"].clear_factor) == (3.0, 2.0)
