"""Filters: what compiles, JSON equality, limits, ids, and agreement with a naive evaluator."""

from __future__ import annotations

import random
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.filters import EVERYTHING, MAX_PATH_CHARACTERS, MAX_STEPS, matches
from realtime.filters.compiler import (
    MAX_ALTERNATIVES,
    MAX_DEPTH,
    MAX_PATHS,
    MAX_TEXT_CHARACTERS,
    MAX_VALUES,
    OPERATORS,
    FilterError,
    compile_filters,
    parse_filter_options,
)
from tests.filters.worlds import (
    derived,
    filters,
    over_the_wire,
    thorough,
    values,
)

# What compiles

NO_SCALAR = "expected a string, number, boolean or null"
NO_ARRAY = "expected an array of strings, numbers, booleans or nulls"
NO_VALUE = "expected a string, number, boolean, null, an array of these or an object of operators"


@pytest.mark.parametrize("nothing", [None, {}])
def test_no_filters_match_everything(nothing: Any) -> None:
    assert compile_filters(nothing) == EVERYTHING
    assert matches(EVERYTHING, {}) and matches(EVERYTHING, {"a": [1]})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "filters: expected an object"),
        ("a=1", "filters: expected an object"),
        (0, "filters: expected an object"),
        (False, "filters: expected an object"),
        ({"": 1}, "filters: the path '' has an empty step"),
        ({".": 1}, "filters: the path '.' has an empty step"),
        ({"a.": 1}, "filters: the path 'a.' has an empty step"),
        ({".a": 1}, "filters: the path '.a' has an empty step"),
        ({"a..b": 1}, "filters: the path 'a..b' has an empty step"),
        ({"a": []}, "filters: 'a' has no values"),
        ({"a": {}}, "filters: 'a': an object without operators"),
        ({"a": [1, [2]]}, f"filters: 'a': {NO_VALUE}"),
        ({"a": [{"gt": 1}]}, f"filters: 'a': {NO_VALUE}"),
        (
            {"a": {"$gt": 1}},
            f"filters: 'a': unknown operator '$gt', expected one of {', '.join(OPERATORS)}",
        ),
        (
            {"a": {"x" * 99: 1}},
            f"filters: 'a': unknown operator '{'x' * 32}', expected one of {', '.join(OPERATORS)}",
        ),
        ({"a": {"eq": [1]}}, f"filters: 'a': eq: {NO_SCALAR}"),
        ({"a": {"ne": {}}}, f"filters: 'a': ne: {NO_SCALAR}"),
        ({"a": {"contains": [1]}}, f"filters: 'a': contains: {NO_SCALAR}"),
        ({"a": {"in": 1}}, f"filters: 'a': in: {NO_ARRAY}"),
        ({"a": {"in": "abc"}}, f"filters: 'a': in: {NO_ARRAY}"),
        ({"a": {"nin": [[1]]}}, f"filters: 'a': nin: {NO_ARRAY}"),
        ({"a": {"in": []}}, "filters: 'a': in has no values"),
        ({"a": {"nin": []}}, "filters: 'a': nin has no values"),
        ({"a": {"exists": 1}}, "filters: 'a': exists: expected true or false"),
        ({"a": {"exists": None}}, "filters: 'a': exists: expected true or false"),
        ({"a": {"gt": True}}, "filters: 'a': gt: expected a number or a string"),
        ({"a": {"gte": None}}, "filters: 'a': gte: expected a number or a string"),
        ({"a": {"lt": [1]}}, "filters: 'a': lt: expected a number or a string"),
        ({"a": {"lte": float("nan")}}, "filters: 'a': lte: expected a number or a string"),
        ({"a": {"lte": float("inf")}}, "filters: 'a': lte: expected a number or a string"),
        ({"a": {"prefix": 1}}, "filters: 'a': prefix: expected a string"),
        ({"a": {"suffix": None}}, "filters: 'a': suffix: expected a string"),
        ({"a": {"gt": 1, "suffix": 1}}, "filters: 'a': suffix: expected a string"),
        ({"$or": 1}, "filters: '$or': expected an array of filters"),
        ({"$or": {"a": 1}}, "filters: '$or': expected an array of filters"),
        ({"$or": [{"a": 1}, 1]}, "filters: '$or': expected an array of filters"),
        ({"$or": []}, "filters: '$or' has no alternatives"),
        (
            {"$or": [{"a": 1}, {}]},
            "filters: '$or': an alternative is empty, so matches everything",
        ),
        ({"$or": [{"a": {}}]}, "filters: 'a': an object without operators"),
        ({"$or": [{"a..b": 1}]}, "filters: the path 'a..b' has an empty step"),
        ({1: "a"}, "filters: a path is not a string"),
    ],
)
def test_a_wrong_filter_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filters(wrong)
    assert str(caught.value) == message


def test_limits_are_the_contracts() -> None:
    assert (MAX_PATHS, MAX_VALUES, MAX_STEPS, MAX_PATH_CHARACTERS) == (32, 1000, 16, 256)
    assert (MAX_ALTERNATIVES, MAX_DEPTH, MAX_TEXT_CHARACTERS) == (32, 3, 256)


def nested(depth: int) -> dict[str, Any]:
    """Return a filter with alternatives in alternatives, so many deep."""
    return {"$or": [nested(depth - 1), {f"b{depth}": 1}]} if depth else {"a": 1}


@pytest.mark.parametrize(
    ("most", "too_much", "message"),
    [
        (
            {f"p{n}": 1 for n in range(32)},
            {f"p{n}": 1 for n in range(33)},
            "filters: more than 32 paths",
        ),
        (
            {"a": list(range(1000))},
            {"a": list(range(1001))},
            "filters: 'a' has more than 1000 values",
        ),
        ({".".join("a" * 16): 1}, {".".join("a" * 17): 1}, "has more than 16 steps"),
        ({"a" * 256: 1}, {"a" * 257: 1}, "has more than 256 characters"),
        (
            {"a": {"in": list(range(1000))}},
            {"a": {"in": list(range(1001))}},
            "filters: 'a': in has more than 1000 values",
        ),
        (
            {"$or": [{f"p{n}": 1} for n in range(32)]},
            {"$or": [{f"p{n}": 1} for n in range(33)]},
            "filters: '\\$or' has more than 32 alternatives",
        ),
        (
            {"a": 1, "$or": [{f"p{n}": 1} for n in range(31)]},
            {"a": 1, "$or": [{f"p{n}": 1} for n in range(32)]},
            "filters: more than 32 paths",
        ),
        (nested(3), nested(4), "filters: '\\$or' is nested more than 3 deep"),
        *(
            ({"a": {name: "x" * 256}}, {"a": {name: "x" * 257}}, f"'a': {name}: more than 256")
            for name in ("prefix", "suffix", "contains")
        ),
    ],
)
def test_a_limit_holds_to_the_number(most: Any, too_much: Any, message: str) -> None:
    compile_filters(most)
    with pytest.raises(FilterError, match=message):
        compile_filters(too_much)


def test_an_error_does_not_repeat_a_huge_path() -> None:
    with pytest.raises(FilterError) as caught:
        compile_filters({"a" * 1_000_000: 1})
    assert len(str(caught.value)) < 200


def test_a_thousand_equal_values_are_one_value() -> None:
    assert compile_filters({"a": [1] * 1000}) == compile_filters({"a": 1})


@given(st.recursive(values, lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)))
@thorough
def test_anything_compiles_or_is_a_filter_error(anything: Any) -> None:
    try:
        compiled = compile_filters(anything)
    except FilterError as error:
        assert str(error).startswith("filters: ")
    else:
        matches(compiled, {})


# Derived ids


def as_float(value: Any) -> Any:
    """Write a whole number with a point, if that says the same."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and value < 10**300 and float(value) == value else value


def rewrite(wanted: dict[str, Any], shuffler: random.Random) -> dict[str, Any]:
    """Say the same in another way."""
    rewritten: dict[str, Any] = {}
    for path in shuffler.sample(list(wanted), len(wanted)):
        value = wanted[path]
        if path == "$or":
            alternatives = [rewrite(one, shuffler) for one in value]
            rewritten[path] = shuffler.sample(alternatives, len(alternatives))
        elif isinstance(value, dict):
            names = shuffler.sample(list(value), len(value))
            rewritten[path] = {name: as_float(value[name]) for name in names}
        else:
            several = [as_float(item) for item in (value if isinstance(value, list) else [value])]
            shuffler.shuffle(several)
            rewritten[path] = several + several[:1]  # repeated, too
    return rewritten


@given(filters, st.randoms(use_true_random=False))
@thorough
def test_an_id_does_not_depend_on_how_filters_are_written(
    wanted: dict[str, Any], shuffler: random.Random
) -> None:
    rewritten = rewrite(wanted, shuffler)
    assert derived("events", rewritten) == derived("events", wanted)
    assert compile_filters(rewritten) == compile_filters(wanted)


@given(filters, filters)
@thorough
def test_ids_are_equal_only_for_equal_filters(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    same = compile_filters(first) == compile_filters(second)
    assert (derived("events", first) == derived("events", second)) is same


def test_an_id_is_a_version_5_uuid_that_no_release_may_change() -> None:
    assert derived("events", None) == "dd37f0ca-5d76-529f-82c8-9137fa9013ad"
    mixed = derived("alerts", {"a.b": ["x", 1, True, None]})
    assert mixed == "cd58f2b5-dc6b-550c-a8da-5124e7d8d5f8"
    several = {"b": [True, "x"], "a.c": 2**70, "é": "\U0001f600", "a": [0.5, -1, None]}
    assert derived("metrics", several) == "7b444964-079a-53d2-bf77-4642b12642e0"
    assert (
        derived("events", {"a": {"gte": 1, "lt": 500, "ne": 7}})
        == "29f6eba5-d3fe-537c-be1e-b680e9c5d170"
    )
    assert (
        derived("events", {"a": 1, "$or": [{"b": {"prefix": "x"}}, {"c": 1}]})
        == "9e96188c-907c-51a3-b9bd-d77c511a006f"
    )
    assert uuid.UUID(derived("events", None)).version == 5
    assert derived("events", None) == derived("events", {})
    ids = {
        derived(kind, wanted)
        for kind in ("events", "metrics")
        for wanted in ({}, {"a": 1}, {"a": "1"}, {"a": True}, {"a": None}, {"a": "null"}, {"b": 1})
    }
    assert len(ids) == 14
    assert derived("events", {"a.b": 1}) != derived("events", {"a": 1, "b": 1})


@pytest.mark.parametrize("value", [1e300, 2**70, 0.1, -1.5, "é\U0001f600", 'a"b', ""])
def test_unusual_values_have_ids(value: Any) -> None:
    assert derived("events", {"a": value}) == derived("events", over_the_wire({"a": [value]}))


# Filters of commands


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (["a=1"], {"a": 1}),
        (["a=1.5"], {"a": 1.5}),
        (["a=true"], {"a": True}),
        (["a=null"], {"a": None}),
        (['a="1"'], {"a": "1"}),
        (["a=x"], {"a": "x"}),
        (["a="], {"a": ""}),
        (["a=x=y"], {"a": "x=y"}),
        (["a=NaN"], {"a": "NaN"}),
        (["a.b=JFK"], {"a.b": "JFK"}),
        (["a=x", "a=y"], {"a": ["x", "y"]}),
        (["a=x", "b=1", "a=2"], {"a": ["x", 2], "b": 1}),
        (["a=[1,2]"], {"a": [1, 2]}),
        (["a=[1,2]", "a=x"], {"a": [1, 2, "x"]}),
        (["a=[1]"], {"a": 1}),
        (['a={"gte":60}'], {"a": {"gte": 60}}),
        (['a={"gte":60}', "b=1"], {"a": {"gte": 60}, "b": 1}),
        (['$or=[{"a":1},{"b":{"lt":2}}]'], {"$or": [{"a": 1}, {"b": {"lt": 2}}]}),
        (['$or=[{"a":1}]'], {"$or": [{"a": 1}]}),
        (['$or={"a":1}', '$or={"b":2}'], {"$or": [{"a": 1}, {"b": 2}]}),
        (["a=" + "[" * 5000], {"a": "[" * 5000}),
    ],
)
def test_options_are_filters(options: list[str], expected: dict[str, Any]) -> None:
    assert parse_filter_options(options) == expected


@pytest.mark.parametrize("option", ["", "a", "=1", "a..b=1", "a=[]", 'a={"b":1}', "$or=1"])
def test_a_wrong_option_is_refused(option: str) -> None:
    with pytest.raises(FilterError):
        parse_filter_options([option])


@pytest.mark.parametrize("again", ['a={"lt":90}', "a=1"])
def test_operators_of_a_path_are_given_once(again: str) -> None:
    with pytest.raises(FilterError, match="'a': give its operators once, as one object"):
        parse_filter_options(['a={"gte":60}', again])


@given(st.lists(st.text(max_size=12)))
@thorough
def test_any_options_are_filters_or_an_error(options: list[str]) -> None:
    try:
        compile_filters(parse_filter_options(options))
    except FilterError as error:
        assert str(error)
