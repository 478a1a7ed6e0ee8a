"""The index of filters: few of many are compared with a payload."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from realtime.filters.compiler import compile_filters
from realtime.filters.index import FilterIndex


@pytest.mark.parametrize(
    "filters_of",
    [
        lambda n: {"n": {"gte": n, "lt": n + 1}},
        lambda n: {"n": {"gte": n, "lt": n + 1}, "kind": "x"},
        lambda n: {"text": {"prefix": f"user-{n:05}-"}},
        lambda n: {"text": {"gte": f"user-{n:05}-", "lt": f"user-{n:05}."}},
        lambda n: {"$or": [{"n": n}, {"text": {"prefix": f"user-{n:05}-"}}]},
        lambda n: {"$or": [{"n": {"gte": n, "lt": n + 1}, "kind": "x"}, {"other": n}]},
    ],
)
def test_an_event_is_compared_with_few_of_many_filters(filters_of: Callable[[int], Any]) -> None:
    index: FilterIndex[int] = FilterIndex()
    for n in range(2000):
        index.insert(n, compile_filters(filters_of(n)))
    payload = Watched({"n": 1234, "text": "user-01234-x", "kind": "x", "other": -1})
    assert index.match(payload) == [1234]
    assert 0 < payload.looks < 20
    for n in range(2000):
        index.remove(n)
    assert index.match(payload) == []
    assert not index


class Watched(dict[str, Any]):
    """A payload that counts how often something is looked up in it."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        """Count, and return the value."""
        self.looks += 1
        return super().get(key, default)
