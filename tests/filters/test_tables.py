"""Tables of values, prefixes and ranges: what contains a value is found."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.filters.compiler import compile_filters
from realtime.filters.index import FilterIndex


@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9) | st.integers(), st.floats(-1e9, 1e9)), max_size=40),
    st.lists(st.integers() | st.floats(allow_nan=False), max_size=20),
)
@settings(deadline=None, max_examples=200)
def test_many_ranges_find_what_is_in_them(
    edges: list[tuple[float, float]], numbers: list[float]
) -> None:
    index: FilterIndex[int] = FilterIndex()
    kept = {}
    for number, (low, width) in enumerate(edges):
        index.insert(number, compile_filters({"n": {"gt": low, "lte": low + abs(width)}}))
        kept[number] = low, low + abs(width)
    for number in list(kept)[::3]:
        index.remove(number)
        del kept[number]
    for value in [*numbers, *(edge for edges in kept.values() for edge in edges)]:
        expected = [number for number, (low, high) in kept.items() if low < value <= high]
        assert sorted(index.match({"n": value})) == expected
