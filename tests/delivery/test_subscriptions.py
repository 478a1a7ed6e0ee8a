"""Counts for ``explain``: of the whole filter, of each of its paths and alternatives."""

from __future__ import annotations

from realtime.delivery.subscriptions import Explanation


def test_paths_and_alternatives_are_counted_apart() -> None:
    explanation = Explanation(
        {"a.b": 1, "c": {"gt": 5}, "$or": [{"d": [1, 2]}, {"d": 3, "$or": [{"e": 1}, {"e": 2}]}]}
    )
    for payload in (
        {"a": {"b": 1}, "c": 6, "d": 1},
        {"a": {"b": 1}, "c": 6, "d": 3, "e": 2},
        {"a": {"b": 2}, "c": 6, "d": 3},
        {"a": 1, "c": None},
        None,
    ):
        explanation.count(payload)
    assert explanation.as_data() == {
        "matching": 2,
        "paths": {"a.b": {"present": 3, "matching": 2}, "c": {"present": 4, "matching": 3}},
        "or": [
            {"matching": 1, "paths": {"d": {"present": 3, "matching": 1}}},
            {
                "matching": 1,
                "paths": {"d": {"present": 3, "matching": 2}},
                "or": [
                    {"matching": 0, "paths": {"e": {"present": 1, "matching": 0}}},
                    {"matching": 1, "paths": {"e": {"present": 1, "matching": 1}}},
                ],
            },
        ],
    }


def test_nothing_was_counted() -> None:
    assert Explanation({}).as_data() == {"matching": 0, "paths": {}}
