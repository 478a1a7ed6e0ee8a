"""Which of many ranges contain a value, at the cost of those that do. Pure.

Knows ranges of numbers or of strings and their order. An interval tree after Edelsbrunner (1980)
that needs no rebalancing, since its nodes are not chosen from the ranges: every value is mapped to
a whole number, and the nodes are the halves of all numbers, their quarters, and so on. A range is
kept at the largest of them whose middle it contains. With numbers from 0 to 7::

    0   1   2   3 | 4   5   6   7     level 3: [1, 5] and [2, 6] contain the middle between 3 and 4
            [------ 2 to 6 -----]
        [---- 1 to 5 ---]
    0   1 | 2   3     4   5 | 6   7   level 2: [0, 2] contains the middle between 1 and 2
    [------]

A value looks at one node of each level. The node keeps its ranges twice, sorted by lower and by
upper bound: 3 is left of the middle of level 3, so it is in all ranges of this node whose lower
bound is at most 3, and needs not compare their upper bounds; 5 is right of it and in those whose
upper bound is at least 5.

Sorting all ranges by their lower bound alone would take less code. With 10,000 narrow ranges, as
``{"gte": "user_1", "lt": "user_2"}``, matching one payload took 5.5 ms that way and 9 us this way.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from typing import Any, Generic, NamedTuple, TypeVar

from realtime.filters.clauses import LOWER, UPPER, Condition, Filter

Item = TypeVar("Item")
# Items, each with the clauses that remain to be compared.
Bucket = dict[Item, Filter]

# A value, and for a lower bound whether it is itself excluded, for an upper whether it is included.
# So bounds compare as their ranges begin and end: >= 1 before > 1, and < 1 before <= 1.
Bound = tuple[Any, bool]

# Bytes of a string by which it is found. Strings with the same beginning are found together.
STRING_BYTES = 24


class Interval(NamedTuple):
    """The values between two bounds, both strings or both numbers; one of them may be ``None``."""

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
        # Level -> number of the node in that level -> the intervals kept there.
        self._levels: dict[int, dict[int, _Node[Item]]] = {}

    def __bool__(self) -> bool:
        return bool(self._above.order or self._below.order or self._levels)

    def insert(self, interval: Interval, item: Item, remaining: Filter) -> None:
        """Add an item."""
        lower, upper = interval
        if upper is None:
            self._above.insert(lower, item, remaining)
        elif lower is None:
            self._below.insert(upper, item, remaining)
        else:
            level, middle = _place(lower, upper)
            node = self._levels.setdefault(level, {}).setdefault(middle, _Node())
            node.lower.insert(lower, item, remaining)
            node.upper.insert(upper, item, remaining)

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
        buckets = self._above.until((value, False))
        buckets += self._below.since((value, True))
        number = _number(value)
        for level, nodes in self._levels.items():
            node = nodes.get(number >> level)
            if node is None:
                continue
            if level and number >> (level - 1) & 1:
                buckets += node.upper.since((value, True))
            else:
                buckets += node.lower.until((value, False))
        return buckets

    def crowding(self, interval: Interval) -> int:
        """Return about how many items are found together with those of an interval."""
        value, _ = interval.lower or interval.upper or (0, False)
        return sum(map(len, self.find(value)))


class _Node(Generic[Item]):
    """The intervals that contain one middle, sorted by either bound."""

    __slots__ = ("lower", "upper")

    def __init__(self) -> None:
        self.lower: _Bounds[Item] = _Bounds()
        self.upper: _Bounds[Item] = _Bounds()


class _Bounds(Generic[Item]):
    """Buckets by bounds of one side, sorted."""

    __slots__ = ("_buckets", "order")

    def __init__(self) -> None:
        self.order: list[Bound] = []
        self._buckets: dict[Bound, Bucket[Item]] = {}

    def insert(self, bound: Bound | None, item: Item, remaining: Filter) -> None:
        assert bound is not None
        if bound not in self._buckets:
            self._buckets[bound] = {}
            self.order.insert(bisect_left(self.order, bound), bound)
        self._buckets[bound][item] = remaining

    def discard(self, bound: Bound | None, item: Item) -> None:
        assert bound is not None
        bucket = self._buckets.get(bound, {})
        bucket.pop(item, None)
        if bound in self._buckets and not bucket:
            del self._buckets[bound]
            del self.order[bisect_left(self.order, bound)]

    def until(self, bound: Bound) -> list[Bucket[Item]]:
        """Return the buckets up to a bound."""
        return [self._buckets[key] for key in self.order[: bisect_right(self.order, bound)]]

    def since(self, bound: Bound) -> list[Bucket[Item]]:
        """Return the buckets from a bound on."""
        return [self._buckets[key] for key in self.order[bisect_left(self.order, bound) :]]


def _place(lower: Bound, upper: Bound) -> tuple[int, int]:
    """Return the level and the number of an interval's node: the largest that has its middle in it.

    That is where the numbers of both bounds begin to differ, read from their highest bit.
    """
    low, high = _number(lower[0]), _number(upper[0])
    level = (low ^ high).bit_length()
    return level, low >> level


def _number(value: Any) -> int:
    """Return a whole number for a value, never larger than that of a larger value."""
    if isinstance(value, str):
        # The order of UTF-8's bytes is that of code points.
        start = value[:STRING_BYTES].encode("utf-8", "surrogatepass")[:STRING_BYTES]
        return int.from_bytes(start.ljust(STRING_BYTES, b"\0"))
    try:
        number = float(value) + 0.0  # there is no -0.0 then
    except OverflowError:
        number = float("inf") if value > 0 else float("-inf")
    # The bits of an IEEE 754 number, read as a whole number, have its order, and for negative
    # numbers the opposite order: 1.5 is 0x3FF8..., 2.0 is 0x4000..., -1.5 is 0xBFF8...
    bits: int = struct.unpack(">q", struct.pack(">d", number))[0]
    return bits + (1 << 63) if bits >= 0 else ~bits & ((1 << 63) - 1)
