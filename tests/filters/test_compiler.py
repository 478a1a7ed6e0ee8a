"""Filters: what compiles, JSON equality, limits, ids, and agreement with a naive evaluator."""

from __future__ import annotations

import json
import random
import uuid
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from realtime.filters.clauses import EVERYTHING, matches
from realtime.filters.compiler import (
    MAX_ALTERNATIVES,
    MAX_DEPTH,
    MAX_PATHS,
    MAX_TEXT_CHARACTERS,
    MAX_VALUES,
    OPERATORS,
    FilterError,
    compile_filters,
    conjunction,
    derive_subscription_id,
    parse_filter_options,
)
from realtime.filters.paths import MAX_PATH_CHARACTERS, MAX_STEPS

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
paths = st.lists(steps, min_size=1, max_size=3).map(".".join)
exact = values | st.lists(values, min_size=1, max_size=3)
plain_filters = st.dictionaries(paths, exact, max_size=3)
bounds = st.sampled_from([-1, 0, 0.5, 1, 1.0, 2**53, 2**53 + 1, 10**400, "", "0", "1", "b", "true"])
texts = st.sampled_from(["", "0", "1", "t", "true", "e", "ue", "u"])
operators = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("eq", "ne"), values),
        **dict.fromkeys(("in", "nin"), st.lists(values, min_size=1, max_size=3)),
        **dict.fromkeys(("gt", "gte", "lt", "lte"), bounds),
        **dict.fromkeys(("prefix", "suffix"), texts),
        "contains": values,
        "exists": st.booleans(),
    },
).filter(bool)
# Few at once, or nothing would ever match.
few_operators = operators.map(lambda all_of: dict(list(all_of.items())[:3]))


def filters_up_to(depth: int, least: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Return filters with alternatives in alternatives, so many deep."""
    conditions = st.dictionaries(paths, exact | few_operators, min_size=least, max_size=2)
    if not depth:
        return conditions
    alternatives = st.lists(filters_up_to(depth - 1, 1), min_size=1, max_size=3)
    return st.builds(
        lambda filters, either: filters | ({"$or": either} if either else {}),
        conditions,
        st.none() | alternatives,
    )


filters = plain_filters | filters_up_to(2)


def equal_in_json(first: Any, second: Any) -> bool:
    """Compare two scalars by their kinds in JSON, then by value."""
    kinds: list[type | tuple[type, ...]] = [bool, (int, float), str, type(None)]
    for kind in kinds:
        if isinstance(first, kind) or isinstance(second, kind):
            return isinstance(first, kind) and isinstance(second, kind) and bool(first == second)
    return False


def naive_match(wanted: dict[str, Any], payload: Any) -> bool:
    """Tell whether *payload* is as wanted at every path, step by step."""
    for path, value in wanted.items():
        if path == "$or":
            if not any(naive_match(alternative, payload) for alternative in value):
                return False
            continue
        found = [payload]
        for step in path.split("."):
            found = [one[step] for one in found if isinstance(one, dict) and step in one]
        if isinstance(value, dict):
            tests = value
        else:
            tests = {"in": value if isinstance(value, list) else [value]}
        if not all(naive_test(found, name, operand) for name, operand in tests.items()):
            return False
    return True


def naive_test(found: list[Any], name: str, operand: Any) -> bool:
    """Tell whether the value that was found, if any was, passes one operator."""
    if name == "exists":
        return bool(found) is operand
    if not found:
        return False
    [here] = found
    if name in ("eq", "in"):
        accepted = operand if name == "in" else [operand]
        return any(equal_in_json(here, item) for item in accepted)
    if name in ("ne", "nin"):
        refused = operand if name == "nin" else [operand]
        return not any(equal_in_json(here, item) for item in refused)
    if name == "contains" and isinstance(here, list):
        return any(equal_in_json(item, operand) for item in here)
    if isinstance(here, bool) or isinstance(operand, bool):
        return False
    both_text = isinstance(here, str) and isinstance(operand, str)
    if name == "prefix":
        return both_text and here[: len(operand)] == operand
    if name == "suffix":
        return both_text and here[::-1][: len(operand)] == operand[::-1]
    if name == "contains":
        return both_text and here.find(operand) >= 0
    both_numbers = isinstance(here, int | float) and isinstance(operand, int | float)
    if not both_text and not both_numbers:
        return False
    if name in ("gt", "lte"):
        return bool(here > operand) is (name == "gt")
    return bool(here < operand) is (name == "lt")


def over_the_wire(value: Any) -> Any:
    """Return what the other side reads."""
    return json.loads(json.dumps(value))


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


# Operators


@pytest.mark.parametrize(
    ("operators", "value", "matching"),
    [
        ({"gte": 100, "lt": 500}, 100, True),
        ({"gte": 100, "lt": 500}, 499.99, True),
        ({"gte": 100, "lt": 500}, 500, False),
        ({"gt": 100}, 100.0, False),
        ({"lte": 100}, 100.0, True),
        ({"gt": 2**53}, 2**53 + 1, True),
        ({"lt": 10**400}, 1e300, True),
        ({"gte": 0}, True, False),
        ({"gte": 0}, "1", False),
        ({"gte": "0"}, 1, False),
        ({"gte": 0}, None, False),
        ({"gte": 0}, [1], False),
        ({"gte": "2026-01", "lt": "2026-02"}, "2026-01-31T23:59:59Z", True),
        ({"lt": "a"}, "B", True),  # by code points
        ({"gt": "\uffff"}, "\U0001f600", True),
        ({"ne": 1}, 2, True),
        ({"ne": 1}, True, True),
        ({"ne": 1}, 1.0, False),
        ({"ne": 1}, [1], True),
        ({"nin": [1, "1", None]}, "1", False),
        ({"nin": [1, "1", None]}, {}, True),
        ({"exists": True}, None, True),
        ({"exists": True}, [], True),
        ({"exists": False}, None, False),
        ({"prefix": "ab"}, "abc", True),
        ({"prefix": "ab"}, "Abc", False),
        ({"prefix": "abc"}, "ab", False),
        ({"prefix": ""}, "", True),
        ({"prefix": ""}, 1, False),
        ({"suffix": "bc"}, "abc", True),
        ({"suffix": "abcd"}, "bcd", False),
        ({"contains": "b"}, "abc", True),
        ({"contains": "b"}, ["a", "b"], True),
        ({"contains": "b"}, ["abc"], False),
        ({"contains": 1}, [True], False),
        ({"contains": 1}, [1.0], True),
        ({"contains": 1}, "1", False),
        ({"contains": None}, [None], True),
        ({"contains": "b"}, {"b": 1}, False),
        ({"prefix": "a", "suffix": "c", "contains": "b", "ne": "abbc"}, "abc", True),
        ({"prefix": "a", "suffix": "c", "contains": "b", "ne": "abbc"}, "abbc", False),
        ({"in": [1, 2, 3], "gt": 1, "ne": 3}, 2, True),
        ({"in": [1, 2, 3], "gt": 1, "ne": 3}, 3, False),
    ],
)
def test_an_operator_compares(operators: dict[str, Any], value: Any, matching: bool) -> None:
    compiled = compile_filters({"a.b": operators})
    assert matches(compiled, {"a": {"b": value}}) is matching
    assert naive_match({"a.b": operators}, {"a": {"b": value}}) is matching


@pytest.mark.parametrize("payload", [{}, {"a": 1}, {"a": {}}, {"a": [{"b": 1}]}, []])
def test_what_is_missing_only_does_not_exist(payload: Any) -> None:
    for operators in ({"ne": 1}, {"nin": [1]}, {"lt": 1}, {"prefix": ""}, {"exists": True}):
        assert not matches(compile_filters({"a.b": operators}), payload)
    assert matches(compile_filters({"a.b": {"exists": False}}), payload)


def test_one_alternative_is_enough() -> None:
    compiled = compile_filters(
        {"kind": "order", "$or": [{"amount": {"gte": 100}}, {"user": ["u1", "u2"], "vip": True}]}
    )
    assert matches(compiled, {"kind": "order", "amount": 100})
    assert matches(compiled, {"kind": "order", "user": "u2", "vip": True})
    assert not matches(compiled, {"kind": "order", "user": "u2"})
    assert not matches(compiled, {"amount": 100})


@pytest.mark.parametrize(
    "same",
    [
        [{"a": 1}, {"a": [1, 1.0]}, {"a": {"eq": 1}}, {"a": {"in": [1]}}, {"$or": [{"a": 1}]}],
        [
            {"a": [1, 2]},
            {"$or": [{"a": 2}, {"a": 1}]},
            {"a": {"in": [0, 1, 2, 3], "gt": 0, "lt": 3}},
        ],
        [{"a": {"ne": 1}}, {"a": {"nin": [1.0]}}, {"a": {"nin": [1], "exists": True}}],
        [{"a": {"gt": 1, "lt": 2}}, {"a": {"lt": 2.0, "gt": 1.0}}],
        [
            {"$or": [{"a": 1, "b": {"gt": 1}}, {"c": {"prefix": "x"}}]},
            {"$or": [{"c": {"prefix": "x"}}, {"b": {"gt": 1.0}, "a": [1]}, {"c": {"prefix": "x"}}]},
            {"$or": [{"$or": [{"c": {"prefix": "x"}}]}, {"b": {"gt": 1}, "a": 1}]},
            {"$or": [{"c": {"prefix": "x"}}, {"b": {"gt": 1}, "a": 1}, {"a": {"gt": 2, "lt": 1}}]},
        ],
    ],
)
def test_what_says_the_same_is_the_same_subscription(same: list[dict[str, Any]]) -> None:
    assert len({compile_filters(wanted) for wanted in same}) == 1
    assert len({derived("events", wanted) for wanted in same}) == 1


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


@given(filters, filters, objects)
@example({"a": 1}, {"a": {"exists": False}}, {})
@example({"$or": [{"a": 1}, {"b": {"exists": True}}]}, {"a": {"ne": 1}}, {"a": 0, "b": None})
@example({"a": {"gte": 1}}, {"$or": [{"a": {"lt": 2}}]}, {"a": 1.0})
@thorough
def test_nothing_escapes_what_is_enforced(
    enforced: dict[str, Any], own: dict[str, Any], payload: dict[str, Any]
) -> None:
    both = conjunction(compile_filters(own), compile_filters(enforced))
    if not naive_match(enforced, payload):
        assert not matches(both, payload)
    else:
        assert matches(both, payload) is naive_match(own, payload)


def test_what_enforces_that_nothing_is_there_and_something_is_matches_nothing() -> None:
    exists, not_there = compile_filters({"a": {"exists": True}}), {"a": {"exists": False}}
    both = conjunction(exists, compile_filters(not_there))
    assert not matches(both, {}) and not matches(both, {"a": 1})


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
