"""Items by what their filters want of one value: one of some values, a prefix, or a range. Pure."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right, insort
from typing import Any, Generic, NamedTuple, TypeVar

from realtime.filters import (
    CONTAINERS,
    LOWER,
    UPPER,
    Condition,
    Filter,
    Key,
    is_number,
    scalar_key,
)

Item = TypeVar("Item")
# Items, each with the clauses that remain to be compared when it is found.
Bucket = dict[Item, Filter]


class Values(dict[Key, Bucket[Item]]):
    """Items that want one of some values, by the value."""

    __slots__ = ()

    def insert(self, keys: frozenset[Key], item: Item, remaining: Filter) -> None:
        for key in keys:
            self.setdefault(key, {})[item] = remaining

    def discard(self, keys: frozenset[Key], item: Item) -> None:
        for key in keys:
            _discard(self, key, item)

    def find(self, value: Any) -> list[Bucket[Item]]:
        if isinstance(value, CONTAINERS):
            return []
        bucket = self.get(scalar_key(value))
        return [bucket] if bucket else []

    def crowding(self, keys: frozenset[Key]) -> int:
        return max((len(self.get(key, ())) for key in keys), default=0)


class Prefixes(dict[int, dict[str, Bucket[Item]]]):
    """Items that want strings with a prefix, by its length, each of which is one lookup."""

    def insert(self, prefix: str, item: Item, remaining: Filter) -> None:
        self.setdefault(len(prefix), {}).setdefault(prefix, {})[item] = remaining

    def discard(self, prefix: str, item: Item) -> None:
        prefixes = self.get(len(prefix), {})
        _discard(prefixes, prefix, item)
        if not prefixes:
            self.pop(len(prefix), None)

    def find(self, value: Any) -> list[Bucket[Item]]:
        """Return the buckets of the prefixes with which a value begins."""
        if not isinstance(value, str):
            return []
        buckets = (prefixes.get(value[:length]) for length, prefixes in self.items())
        return [bucket for bucket in buckets if bucket]

    def crowding(self, prefix: str) -> int:
        return sum(map(len, self.find(prefix)))


class Interval(NamedTuple):
    """The whole numbers of the values that a range contains; see :func:`_number`."""

    low: int
    high: int


class Ranges(dict[int, dict[int, "_Node[Item]"]]):
    """Items that want a value in a range of numbers or of strings, at the cost of those that do.

    An interval tree after Edelsbrunner (1980) whose nodes are all whole numbers, their halves,
    their quarters, and so on; a range is kept at the smallest that contains it. With numbers from 0
    to 7::

        0   1   2   3 | 4   5   6   7     level 3, one node of 8 numbers: [1, 5] and [2, 6]
        0   1 | 2   3   4   5 | 6   7     level 2, two nodes of 4: [0, 2] at the first of them

    A range contains the middle of its node. So a value looks at one node of each level, and at one
    end of its ranges: 3 is left of the middle of level 3, so it is in those that begin at 3 or
    before. With 10,000 ranges a payload takes 9 us; sorted by where they begin, it took 5.5 ms.
    The nodes are kept by level and by their number in it.
    """

    def insert(self, interval: Interval, item: Item, remaining: Filter) -> None:
        level, place = _place(interval)
        lows, highs = self.setdefault(level, {}).setdefault(place, _Node(_Ends(), _Ends()))
        lows.insert(interval.low, item, remaining)
        highs.insert(interval.high, item, remaining)

    def discard(self, interval: Interval, item: Item) -> None:
        level, place = _place(interval)
        nodes = self.get(level, {})
        if node := nodes.get(place):
            node.lows.discard(interval.low, item)
            node.highs.discard(interval.high, item)
            if not node.lows.order:
                del nodes[place]
        if not nodes:
            self.pop(level, None)

    def find(self, value: Any) -> list[Bucket[Item]]:
        """Return the buckets of the ranges that contain a value, and rarely of others."""
        return self._find(_number(value)) if isinstance(value, str) or is_number(value) else []

    def _find(self, number: int) -> list[Bucket[Item]]:
        buckets: list[Bucket[Item]] = []
        for level, nodes in self.items():
            node = nodes.get(number >> level)
            if node is None:
                continue
            if level and number >> (level - 1) & 1:
                buckets += node.highs.since(number)
            else:
                buckets += node.lows.until(number)
        return buckets

    def crowding(self, interval: Interval) -> int:
        return sum(map(len, self._find(interval.low)))


class _Node(NamedTuple, Generic[Item]):
    """The ranges of one node, by where they begin and by where they end."""

    lows: _Ends[Item]
    highs: _Ends[Item]


class _Ends(Generic[Item]):
    """Buckets by one end of their ranges, in order."""

    __slots__ = ("_buckets", "order")

    def __init__(self) -> None:
        self.order: list[int] = []
        self._buckets: dict[int, Bucket[Item]] = {}

    def insert(self, end: int, item: Item, remaining: Filter) -> None:
        if end not in self._buckets:
            self._buckets[end] = {}
            insort(self.order, end)
        self._buckets[end][item] = remaining

    def discard(self, end: int, item: Item) -> None:
        if end in self._buckets and _discard(self._buckets, end, item):
            del self.order[bisect_left(self.order, end)]

    def until(self, number: int) -> list[Bucket[Item]]:
        return [self._buckets[end] for end in self.order[: bisect_right(self.order, number)]]

    def since(self, number: int) -> list[Bucket[Item]]:
        return [self._buckets[end] for end in self.order[bisect_left(self.order, number) :]]


def _place(interval: Interval) -> tuple[int, int]:
    level = (interval.low ^ interval.high).bit_length()
    return level, interval.low >> level


# Bytes of a string in its number. Strings with the same beginning are found together.
STRING_BYTES = 24
_STRINGS = Interval(1 << 8 * STRING_BYTES, (2 << 8 * STRING_BYTES) - 1)
_NUMBERS = Interval(0, (1 << 64) - 1)


def _number(value: str | int | float) -> int:
    """Return the whole number of a value, never larger than that of a larger value.

    Strings have numbers beyond those of all numbers.
    """
    if isinstance(value, str):
        # The order of UTF-8's bytes is that of code points.
        start = value[:STRING_BYTES].encode("utf-8", "surrogatepass")[:STRING_BYTES]
        return _STRINGS.low + int.from_bytes(start.ljust(STRING_BYTES, b"\0"))
    try:
        number = float(value) + 0.0  # there is no -0.0 then
    except OverflowError:
        number = float("inf") if value > 0 else float("-inf")
    # The bits of an IEEE 754 number, read as a whole number, have its order, but for negative
    # numbers the opposite order: 1.5 is 0x3FF8..., 2.0 is 0x4000..., -1.5 is 0xBFF8...
    bits: int = struct.unpack(">q", struct.pack(">d", number))[0]
    return bits + (1 << 63) if bits >= 0 else ~bits & ((1 << 63) - 1)


def _discard(buckets: dict[Any, Bucket[Item]], key: Any, item: Item) -> bool:
    """Remove an item from a bucket, if it is there; remove an empty one, and tell whether it was.

    It may be gone already: alternatives may be found by the same value.
    """
    bucket = buckets.get(key, {})
    bucket.pop(item, None)
    if not bucket:
        buckets.pop(key, None)
    return not bucket


def interval_of(condition: Condition) -> Interval | None:
    """Return the range of a condition, if it has bounds; both of them are strings or numbers."""
    lows = [_number(operand) for operator, operand in condition.tests if operator in LOWER]
    highs = [_number(operand) for operator, operand in condition.tests if operator in UPPER]
    if not lows and not highs:
        return None
    low, high = _STRINGS if max(lows + highs) >= _STRINGS.low else _NUMBERS
    return Interval(*(lows or [low]), *(highs or [high]))
