"""Which of many ranges a value is in, at the cost of those it is in. Pure.

Knows numbers, or strings, and what is in order; nothing of filters. An interval tree after
Edelsbrunner (1980) without rebalancing: its middles are not chosen, but the halves, quarters and so
on of all there could be. A range is kept at the first middle that it contains, in the order of its
lower and of its upper bounds; a value passes one middle a level, and on its side of that it is in
the ranges from the first to the last whose bound it has passed.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from typing import Any, Generic, NamedTuple, TypeVar

from realtime.filters.clauses import LOWER, UPPER, Condition, Filter

Item = TypeVar("Item")
# Items, each with what is left to compare.
Bucket = dict[Item, Filter]

# A value and, below, whether it is itself excluded; above, whether it is included: in this order
# bounds that let more values in come first below and last above.
Bound = tuple[Any, bool]

# Bytes of a string by which it is found. Strings that begin with the same are found together.
STRING_BYTES = 24


class Interval(NamedTuple):
    """The values between two bounds of one kind, of which there is one at least."""

    lower: Bound | None
    upper: Bound | None

    @property
    def of_strings(self) -> bool:
        """Whether its values are strings, and not numbers."""
        value, _ = self.lower or self.upper or (None, False)
        return isinstance(value, str)


def interval_of(condition: Condition) -> Interval | None:
    """Return the range of the values that a condition lets pass, if it has bounds."""
    lower = upper = None
    for operator, operand in condition.tests:
        if operator in LOWER:
            lower = operand, operator == "gt"
        elif operator in UPPER:
            upper = operand, operator == "lte"
    return Interval(lower, upper) if lower or upper else None


class Ranges(Generic[Item]):
    """Items by intervals, all of numbers or all of strings."""

    def __init__(self) -> None:
        self._above: _Bounds[Item] = _Bounds()
        self._below: _Bounds[Item] = _Bounds()
        # Level -> middle -> the intervals that contain it and no middle of a higher level.
        self._levels: dict[int, dict[int, _Node[Item]]] = {}

    def __bool__(self) -> bool:
        return bool(self._above.order or self._below.order or self._levels)

    def insert(self, interval: Interval, item: Item, rest: Filter) -> None:
        """Add an item."""
        lower, upper = interval
        if upper is None:
            self._above.insert(lower, item, rest)
        elif lower is None:
            self._below.insert(upper, item, rest)
        else:
            level, middle = _place(lower, upper)
            node = self._levels.setdefault(level, {}).setdefault(middle, _Node())
            node.lower.insert(lower, item, rest)
            node.upper.insert(upper, item, rest)

    def discard(self, interval: Interval, item: Item) -> None:
        """Remove an item, if it is there."""
        lower, upper = interval
        if upper is None:
            self._above.discard(lower, item)
        elif lower is None:
            self._below.discard(upper, item)
        else:
            level, middle = _place(lower, upper)
            nodes = self._levels.get(level, {})
            if middle in nodes:
                nodes[middle].lower.discard(lower, item)
                nodes[middle].upper.discard(upper, item)
                if not nodes[middle].lower.order:
                    del nodes[middle]
            if not nodes:
                self._levels.pop(level, None)

    def find(self, value: Any) -> list[Bucket[Item]]:
        """Return the buckets of the intervals that contain a value, and rarely of others."""
        found = self._above.until((value, False))
        found += self._below.since((value, True))
        number = _number(value)
        for level, nodes in self._levels.items():
            node = nodes.get(number >> level)
            if node is None:
                continue
            if level and number >> (level - 1) & 1:
                found += node.upper.since((value, True))
            else:
                found += node.lower.until((value, False))
        return found

    def crowding(self, interval: Interval) -> int:
        """Return about how many items are found with the values at the edge of an interval."""
        value, _ = interval.lower or interval.upper or (0, False)
        return sum(map(len, self.find(value)))


class _Node(Generic[Item]):
    """The intervals of one middle, twice."""

    __slots__ = ("lower", "upper")

    def __init__(self) -> None:
        self.lower: _Bounds[Item] = _Bounds()
        self.upper: _Bounds[Item] = _Bounds()


class _Bounds(Generic[Item]):
    """Buckets in the order of their bounds."""

    __slots__ = ("_buckets", "order")

    def __init__(self) -> None:
        self.order: list[Bound] = []
        self._buckets: dict[Bound, Bucket[Item]] = {}

    def insert(self, bound: Bound | None, item: Item, rest: Filter) -> None:
        assert bound is not None
        if bound not in self._buckets:
            self._buckets[bound] = {}
            self.order.insert(bisect_left(self.order, bound), bound)
        self._buckets[bound][item] = rest

    def discard(self, bound: Bound | None, item: Item) -> None:
        assert bound is not None
        bucket = self._buckets.get(bound, {})
        bucket.pop(item, None)
        if bound in self._buckets and not bucket:
            del self._buckets[bound]
            del self.order[bisect_left(self.order, bound)]

    def until(self, bound: Bound) -> list[Bucket[Item]]:
        """Return the buckets up to a bound."""
        return [self._buckets[one] for one in self.order[: bisect_right(self.order, bound)]]

    def since(self, bound: Bound) -> list[Bucket[Item]]:
        """Return the buckets from a bound on."""
        return [self._buckets[one] for one in self.order[bisect_left(self.order, bound) :]]


def _place(lower: Bound, upper: Bound) -> tuple[int, int]:
    """Return level and middle of an interval: where the ways to its bounds part."""
    low, high = _number(lower[0]), _number(upper[0])
    level = (low ^ high).bit_length()
    return level, low >> level


def _number(value: Any) -> int:
    """Return a whole number, such that a lesser value's is not greater."""
    if isinstance(value, str):
        # The order of UTF-8's bytes is that of code points.
        start = value[:STRING_BYTES].encode("utf-8", "surrogatepass")[:STRING_BYTES]
        return int.from_bytes(start.ljust(STRING_BYTES, b"\0"))
    try:
        number = float(value) + 0.0  # there is no -0.0 then
    except OverflowError:
        number = float("inf") if value > 0 else float("-inf")
    # The bits of an IEEE 754 number, read as a whole number, have its order from zero on.
    bits: int = struct.unpack(">q", struct.pack(">d", number))[0]
    return bits + (1 << 63) if bits >= 0 else ~bits & ((1 << 63) - 1)
