"""Filters: what compiles, JSON equality, limits, ids, and agreement with a naive evaluator."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime.filters import (
    EVERYTHING,
    MAX_PATH_CHARACTERS,
    MAX_PATHS,
    MAX_STEPS,
    MAX_VALUES,
    FilterError,
    compile_filters,
    conjunction,
    derive_subscription_id,
    matches,
    parse_filter_options,
)

thorough = settings(deadline=None, max_examples=100)

# A small world, so that paths and values meet: what is equal, and what only looks so.
steps = st.sampled_from(["a", "b", "c", "0"])
values = st.sampled_from(
    [None, True, False, 0, 1, 0.0, 1.0, -0.0, 0.5, 2**53, 2**53 + 1, "", "0", "1", "true", "null"]
)
payloads = st.recursive(
    values,
    lambda inner: st.dictionaries(steps, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=8,
)
objects = st.dictionaries(steps, payloads, max_size=4)
filters = st.dictionaries(
    st.lists(steps, min_size=1, max_size=3).map(".".join),
    values | st.lists(values, min_size=1, max_size=3),
    max_size=3,
)


def equal_in_json(first: Any, second: Any) -> bool:
    """Compare two scalars by their kinds in JSON, then by value."""
    kinds: list[type | tuple[type, ...]] = [bool, (int, float), str, type(None)]
    for kind in kinds:
        if isinstance(first, kind) or isinstance(second, kind):
            return isinstance(first, kind) and isinstance(second, kind) and bool(first == second)
    return False


def naive_match(wanted: dict[str, Any], payload: Any) -> bool:
    """Tell whether *payload* has one of the wanted values at every path, step by step."""
    for path, value in wanted.items():
        here = payload
        for step in path.split("."):
            if not isinstance(here, dict) or step not in here:
                return False
            here = here[step]
        if isinstance(here, dict | list):
            return False
        accepted = value if isinstance(value, list) else [value]
        if not any(equal_in_json(here, item) for item in accepted):
            return False
    return True


def over_the_wire(value: Any) -> Any:
    """Return what the other side reads."""
    return json.loads(json.dumps(value))


# What compiles


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
        (
            {"a": {}},
            "filters: 'a': expected a string, number, boolean, null or an array of these",
        ),
        (
            {"a": [1, [2]]},
            "filters: 'a': expected a string, number, boolean, null or an array of these",
        ),
        (
            {"a": [{"$gt": 1}]},
            "filters: 'a': expected a string, number, boolean, null or an array of these",
        ),
        ({1: "a"}, "filters: a path is not a string"),
    ],
)
def test_a_wrong_filter_is_named(wrong: Any, message: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filters(wrong)
    assert str(caught.value) == message


def test_limits_are_the_contracts() -> None:
    assert (MAX_PATHS, MAX_VALUES, MAX_STEPS, MAX_PATH_CHARACTERS) == (32, 1000, 16, 256)


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


# Equality


@pytest.mark.parametrize(
    ("wanted", "value", "matching"),
    [
        (1, 1, True),
        (1, 1.0, True),
        (1.0, 1, True),
        (0, -0.0, True),
        (1, True, False),
        (True, 1, False),
        (True, 1.0, False),
        (0, False, False),
        (False, 0, False),
        (True, True, True),
        (False, False, True),
        ("1", 1, False),
        (1, "1", False),
        ("true", True, False),
        (None, None, True),
        (None, False, False),
        (None, 0, False),
        (None, "", False),
        ("", None, False),
        ("a", "a", True),
        ("a", "A", False),
        ("\u00e9", "e\u0301", False),  # they look alike, but JSON knows no normal form
        (2**53, 2**53 + 1, False),
        (2**53 + 1, 2**53 + 1, True),
        (float(2**53), 2**53 + 1, False),
        (10**30, 10**30, True),
        ("a", ["a"], False),
        ("a", {"a": "a"}, False),
        ([1, "1"], "1", True),
        ([1, "1"], 1.0, True),
        ([1, "1"], True, False),
        ([1, True], True, True),
        ([None, 0], None, True),
    ],
)
def test_equality_is_that_of_json(wanted: Any, value: Any, matching: bool) -> None:
    assert matches(compile_filters({"a": wanted}), {"a": value}) is matching


@pytest.mark.parametrize("payload", [{}, {"b": None}, {"a": {}}, {"a": {"c": None}}, {"a": None}])
def test_a_missing_path_matches_nothing(payload: Any) -> None:
    assert not matches(compile_filters({"a.b": None}), payload)
    assert not matches(compile_filters({"a.b": [None, 1]}), payload)


def test_a_path_walks_objects_only() -> None:
    compiled = compile_filters({"a.0": "x"})
    assert matches(compiled, {"a": {"0": "x"}})
    assert not matches(compiled, {"a": ["x"]})
    assert not matches(compiled, {"a.0": "x"})
    assert not matches(compiled, {"a": "x"})


def test_all_paths_must_match() -> None:
    compiled = compile_filters({"a": 1, "b.c": ["x", "y"]})
    assert matches(compiled, {"a": 1, "b": {"c": "y"}, "d": 5})
    assert not matches(compiled, {"a": 1, "b": {"c": "z"}})
    assert not matches(compiled, {"a": 2, "b": {"c": "y"}})


@given(filters, objects)
@example({"a": 1}, {"a": True})
@example({"a": [True, 1]}, {"a": 1.0})
@example({"a.b": None}, {"a": {}})
@thorough
def test_agrees_with_a_naive_evaluator(wanted: dict[str, Any], payload: dict[str, Any]) -> None:
    compiled = compile_filters(over_the_wire(wanted))
    assert matches(compiled, over_the_wire(payload)) is naive_match(wanted, payload)


@given(st.recursive(values, lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)))
@thorough
def test_anything_compiles_or_is_a_filter_error(anything: Any) -> None:
    try:
        compiled = compile_filters(anything)
    except FilterError as error:
        assert str(error).startswith("filters: ")
    else:
        matches(compiled, {})


# Two filters at once


@given(filters, filters, objects)
@thorough
def test_a_conjunction_matches_what_both_match(
    first: dict[str, Any], second: dict[str, Any], payload: dict[str, Any]
) -> None:
    both = conjunction(compile_filters(first), compile_filters(second))
    expected = naive_match(first, payload) and naive_match(second, payload)
    assert matches(both, payload) is expected
    assert both == conjunction(compile_filters(second), compile_filters(first))


def test_a_conjunction_of_what_excludes_each_other_matches_nothing() -> None:
    both = conjunction(compile_filters({"a": [1, 2]}), compile_filters({"a": [3, True]}))
    assert both != EVERYTHING
    others: list[Any] = [1, 2, 3, True, None, [], {}]
    for value in others:
        assert not matches(both, {"a": value})
    assert not matches(both, {})


def test_a_conjunction_with_everything_is_the_other() -> None:
    some = compile_filters({"a": 1})
    assert conjunction(some, EVERYTHING) == conjunction(EVERYTHING, some) == some
    assert conjunction(some, some) == some
    assert conjunction(EVERYTHING, EVERYTHING) == EVERYTHING


# Derived ids


def derived(kind: str, wanted: Any) -> str:
    """Return the id of a subscription for which the client has chosen none."""
    return derive_subscription_id(kind, compile_filters(wanted))


def as_float(value: Any) -> Any:
    """Write a whole number with a point, if that says the same."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and float(value) == value else value


@given(filters, st.randoms(use_true_random=False))
@thorough
def test_an_id_does_not_depend_on_how_filters_are_written(
    wanted: dict[str, Any], shuffler: random.Random
) -> None:
    rewritten: dict[str, Any] = {}
    for path in shuffler.sample(list(wanted), len(wanted)):
        value = wanted[path]
        several = [as_float(item) for item in (value if isinstance(value, list) else [value])]
        shuffler.shuffle(several)
        rewritten[path] = several + several[:1]  # repeated, too
    assert derived("events", rewritten) == derived("events", wanted)


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
        (["a=" + "[" * 5000], {"a": "[" * 5000}),
    ],
)
def test_options_are_filters(options: list[str], expected: dict[str, Any]) -> None:
    assert parse_filter_options(options) == expected


@pytest.mark.parametrize("option", ["", "a", "=1", "a..b=1", "a=[]", 'a={"b":1}'])
def test_a_wrong_option_is_refused(option: str) -> None:
    with pytest.raises(FilterError):
        parse_filter_options([option])


@given(st.lists(st.text(max_size=12)))
@thorough
def test_any_options_are_filters_or_an_error(options: list[str]) -> None:
    try:
        compile_filters(parse_filter_options(options))
    except FilterError as error:
        assert str(error)
