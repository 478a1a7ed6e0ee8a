"""What a rule may say, in code and in the admin."""

from __future__ import annotations

import re
from typing import Any

import pytest

from realtime import aggregation_rule
from realtime.analytics.aggregation import definitions
from realtime.analytics.aggregation.rule import (
    PLAIN_FUNCTIONS,
    AggregationSpec,
    make_spec,
)
from realtime.analytics.registry import DefinitionRegistry
from realtime.analytics.rules import RuleError
from realtime.models import AggregationRule
from tests.support import ROOT

COUNT = [{"name": "n", "function": "count"}]
PAGE = "/admin/realtime/aggregationrule/"
DOCUMENTATION = (ROOT / "docs/analytics.md").read_text()


def rule(**changes: Any) -> AggregationSpec:
    fields: dict[str, Any] = {"name": "r", "size": 60, "functions": COUNT}
    return make_spec(**fields | changes)


WRONG: list[tuple[str, Any]] = [
    ("name", ""),
    ("name", "a b"),
    ("name", "é"),
    ("name", "x" * 65),
    ("name", "x\n"),
    ("name", None),
    ("source", "aggregations"),
    ("source", "nothing"),
    ("source", []),
    ("filters", []),
    ("filters", {"a..b": 1}),
    ("group_by", "payload.origin"),
    ("group_by", {"a": 1}),
    ("group_by", ["a", "a"]),
    ("group_by", [1]),
    ("group_by", [[]]),
    ("group_by", [""]),
    ("group_by", ["a..b"]),
    ("group_by", ["a." * 16 + "b"]),
    ("group_by", ["x" * 257]),
    ("group_by", list("abcdefghi")),
    ("size", 0),
    ("size", -60),
    ("size", 2_678_401),
    ("size", 1.5),
    ("size", True),
    ("size", "60"),
    ("size", None),
    ("slide", 0),
    ("slide", 7),
    ("slide", 120),
    ("allowed_lateness", -1),
    ("allowed_lateness", 10**20),
    ("allowed_skew", -1),
    ("allowed_skew", 0.5),
    ("allowed_skew", 2_678_401),
    ("time_path", "a..b"),
    ("time_path", 7),
    ("functions", []),
    ("functions", None),
    ("functions", {}),
    ("functions", "count"),
    ("functions", [7]),
    ("functions", COUNT * 2),
    ("functions", [{"name": f"n{n}", "function": "count"} for n in range(33)]),
    ("functions", [{"function": "count"}]),
    ("functions", [{"name": "a b", "function": "count"}]),
    ("functions", [{"name": "n"}]),
    ("functions", [{"name": "n", "function": "median", "path": "x"}]),
    ("functions", [{"name": "n", "function": ["sum"], "path": "x"}]),
    ("functions", [{"name": "n", "function": "p0", "path": "x"}]),
    ("functions", [{"name": "n", "function": "p100", "path": "x"}]),
    ("functions", [{"name": "n", "function": "sum"}]),
    ("functions", [{"name": "n", "function": "sum", "path": "a..b"}]),
    ("functions", [{"name": "n", "function": "sum", "path": 7}]),
    ("functions", [{"name": "n", "function": "count", "pth": "x"}]),
    ("functions", [{"name": "n", "function": "count", 7: "x"}]),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_what_is_wrong_is_refused_with_its_field(field: str, value: Any) -> None:
    with pytest.raises(RuleError) as error:
        rule(**{field: value})
    assert error.value.field == field
    assert str(error.value).startswith(f"{field}: ")
    assert "\n" not in str(error.value)


def test_a_window_has_so_many_slides() -> None:
    assert rule(size=86_400, slide=60).slides == 1440
    with pytest.raises(RuleError, match="more than 1440"):
        rule(size=86_460, slide=60)


def test_the_definition_changes_with_what_is_computed() -> None:
    assert rule().definition == rule(name="other", slide=60, filters={}).definition
    changes: list[dict[str, Any]] = [
        {"source": "metrics"},
        {"filters": {"a": 1}},
        {"group_by": ["a"]},
        {"size": 61},
        {"slide": 30},
        {"allowed_lateness": 1},
        {"allowed_skew": 60},
        {"time_path": "at"},
        {"functions": [{"name": "m", "function": "count"}]},
        {"functions": [{"name": "n", "function": "count", "path": "x"}]},
    ]
    sizes = {rule(**change).definition for change in [{}, *changes]}
    assert len(sizes) == len(changes) + 1


def test_every_field_and_function_is_documented() -> None:
    fields = re.findall(r"^\| `(\w+)` \|", DOCUMENTATION.split("### What a rule says")[1], re.M)
    # The functions' table follows.
    assert fields[:10] == [
        *("name", "source", "filters", "group_by", "size", "slide"),
        *("allowed_lateness", "allowed_skew", "time_path", "functions"),
    ]
    section = DOCUMENTATION.split("### Functions")[1].split("### Windows")[0]
    assert set(re.findall(r"`([a-z]+)`", section)) >= set(PLAIN_FUNCTIONS)


# In code


@pytest.fixture
def no_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "aggregation_rules", DefinitionRegistry("aggregation rule"))


@pytest.mark.usefixtures("no_rules")
def test_rules_are_defined_in_code() -> None:
    spec = aggregation_rule("one", size=60, functions=COUNT)
    assert aggregation_rule("one", size=60, functions=COUNT) == spec
    with pytest.raises(ValueError, match="another aggregation rule named 'one'"):
        aggregation_rule("one", size=61, functions=COUNT)
    with pytest.raises(ValueError, match=r"^size: "):
        aggregation_rule("two", size=0, functions=COUNT)
    assert list(definitions.aggregation_rules) == [spec]


@pytest.mark.django_db
@pytest.mark.usefixtures("no_rules")
def test_rows_take_the_place_of_code_and_wrong_rows_do_not_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    AggregationRule.objects.create(name="one", size=10, functions=COUNT)
    AggregationRule.objects.create(name="two", size=10, functions=COUNT)
    AggregationRule.objects.create(name="off", size=10, functions=COUNT, enabled=False)
    AggregationRule.objects.create(name="bad", size=10, functions=[])
    for name in ("one", "three", "off", "bad"):
        aggregation_rule(name, size=60, functions=COUNT)
    for _ in range(2):
        sizes = {spec.name: spec.size for spec in definitions.load_rules()}
        assert sizes == {"one": 10, "two": 10, "three": 60}
    [message] = caplog.messages
    assert message.startswith("the aggregation rule bad of the admin is wrong: functions: Expected")
