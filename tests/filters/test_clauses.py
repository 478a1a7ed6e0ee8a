"""What compiled filters match, alone and combined, whatever their payloads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given

from realtime.filters import EVERYTHING, conjunction, matches
from realtime.filters.compiler import compile_filters
from tests.filters.worlds import (
    derived,
    filters,
    naive_match,
    objects,
    over_the_wire,
    thorough,
)

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
