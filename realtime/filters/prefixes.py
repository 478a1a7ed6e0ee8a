"""Which of many prefixes a string begins with, at one lookup for each length. Pure."""

from __future__ import annotations

from typing import Generic

from realtime.filters.clauses import Condition, Filter
from realtime.filters.intervals import Bucket, Item


def prefix_of(condition: Condition) -> str | None:
    """Return the longest prefix among a condition's tests, if there is one."""
    prefixes = [operand for operator, operand in condition.tests if operator == "prefix"]
    return max(prefixes, key=len, default=None)


class Prefixes(Generic[Item]):
    """Items by prefixes. Filters bound how long one is, so how many lengths there are."""

    def __init__(self) -> None:
        # Length -> prefix -> items.
        self._lengths: dict[int, dict[str, Bucket[Item]]] = {}

    def __bool__(self) -> bool:
        return bool(self._lengths)

    def insert(self, prefix: str, item: Item, remaining: Filter) -> None:
        """Add an item."""
        self._lengths.setdefault(len(prefix), {}).setdefault(prefix, {})[item] = remaining

    def discard(self, prefix: str, item: Item) -> None:
        """Remove an item, if it is there."""
        prefixes = self._lengths.get(len(prefix), {})
        bucket = prefixes.get(prefix, {})
        bucket.pop(item, None)
        if not bucket:
            prefixes.pop(prefix, None)
        if not prefixes:
            self._lengths.pop(len(prefix), None)

    def find(self, text: str) -> list[Bucket[Item]]:
        """Return the buckets of the prefixes with which a string begins."""
        buckets = []
        for length, prefixes in self._lengths.items():
            bucket = prefixes.get(text[:length])
            if bucket:
                buckets.append(bucket)
        return buckets

    def crowding(self, prefix: str) -> int:
        """Return how many items are found with this prefix."""
        return sum(map(len, self.find(prefix)))
