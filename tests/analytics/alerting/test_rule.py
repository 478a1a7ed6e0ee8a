"""What an alert rule may say."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.analytics.alerting.rule import (
    AlertSpec,
    DeviationCondition,
    ThresholdCondition,
)
from realtime.analytics.rules import RuleError

ABOVE = ThresholdCondition("above", 10.0, 5.0)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"name": ""}, "name: expected 1 to 100"),
        ({"name": "a b"}, "name: expected"),
        ({"source": "alerts"}, "source: expected one of events, "),
        ({"value": ""}, "value: expected a path"),
        ({"value": "a..b"}, "value: the path 'a..b' has an empty step"),
        ({"value": 5}, "value: expected a path"),
        ({"time": "."}, "time: the path"),
        ({"filters": []}, "filters: expected an object"),
        ({"filters": {"a": []}}, "filters: 'a' has no values"),
        ({"group_by": "a"}, "group_by: expected a list"),
        ({"group_by": ["a"] * 9}, "group_by: more than 8 paths"),
        ({"severity": "bad"}, "severity: expected one of info"),
        ({"for_seconds": -1}, "for_seconds: expected at least 0"),
        ({"for_seconds": True}, "for_seconds: expected a number"),
        ({"for_seconds": float("nan")}, "for_seconds: expected a number"),
        ({"resolve_after": 0}, "resolve_after: expected at most 3.1536e+08 and more than 0"),
        (
            {"condition": ThresholdCondition("above", 5, 6)},
            "clear: expected at most the threshold, 5",
        ),
        (
            {"condition": ThresholdCondition("below", 5, 4)},
            "clear: expected at least the threshold, 5",
        ),
        ({"condition": ThresholdCondition("above", 10**400, 4)}, "threshold: expected a number"),
        (
            {"condition": ThresholdCondition("beside", 5, 4)},
            "direction: expected one of above, below",
        ),
        ({"condition": DeviationCondition(0, 0)}, "deviation: expected more than 0"),
        (
            {"condition": DeviationCondition(3, 4)},
            "clear: expected at least 0 and at most 3",
        ),
        (
            {"condition": DeviationCondition(3, 2, alpha=1)},
            "alpha: expected more than 0 and less than 1",
        ),
        ({"condition": DeviationCondition(3, 2, samples=1)}, "samples: expected at least 2"),
        ({"condition": DeviationCondition(3, 2, least=-1)}, "least: expected at least 0"),
    ],
)
def test_a_wrong_rule_says_what_is_wrong(fields: dict[str, Any], wrong: str) -> None:
    right: dict[str, Any] = {"name": "load", "source": "metrics", "value": "v", "condition": ABOVE}
    with pytest.raises(RuleError) as error:
        AlertSpec(**right | fields)
    assert str(error.value).startswith(wrong)
