"""Which of many filters match a payload, at the cost of those that do. Pure.

Knows filters and that they belong to something, not to what. An item is found through one clause
of its filter: by the value at a path, a prefix of it, or a range it is in; what has alternatives,
through one clause of each. What none of these finds is compared with every payload.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

from realtime.filters.clauses import (
    Clause,
    Condition,
    Either,
    Filter,
    Key,
    Path,
    Predicate,
    is_number,
    lookup,
    lookup_key,
    matches,
)
from realtime.filters.intervals import Bucket, Item, Ranges, interval_of
from realtime.filters.prefixes import Prefixes, prefix_of

# How well a clause finds an item, the least is the best: how many others it finds as well, the
# kind of lookup, how many values, and whether nothing is looked up at its path yet.
Rating = tuple[int, int, int, bool]
BY_VALUE, BY_PREFIX, BY_RANGE, BY_ALTERNATIVES = range(4)


class Plan(NamedTuple):
    """The clauses under which an item is found: one, or one of each alternative."""

    rating: Rating
    clauses: tuple[Clause, ...]


class FilterIndex(Generic[Item]):
    """Items, each with a filter that is not empty."""

    def __init__(self) -> None:
        self._places: Places[Item] = Places()
        # Those with alternatives, which one payload may find several times, are kept apart.
        self._alternatives: Places[Item] = Places()
        self._several: Bucket[Item] = {}
        self._unindexed: Bucket[Item] = {}
        # None for what is not indexed.
        self._plans: dict[Item, Plan | None] = {}

    def __bool__(self) -> bool:
        return bool(self._plans)

    def insert(self, item: Item, compiled: Filter) -> None:
        """Add an item that is not there."""
        plan = self._plans[item] = self._plan(compiled, self._places)
        if plan is None:
            self._unindexed[item] = compiled
        elif plan.rating[1] == BY_ALTERNATIVES:
            self._several[item] = compiled
            for clause in plan.clauses:
                self._alternatives.insert(clause, item, compiled)
        else:
            [clause] = plan.clauses
            # What is found by its value has it; of a condition there may be more to compare.
            rest = [one for one in compiled if one is not clause or isinstance(one, Condition)]
            self._places.insert(clause, item, tuple(rest))

    def remove(self, item: Item) -> None:
        """Remove an item that is there."""
        plan = self._plans.pop(item)
        if plan is None:
            del self._unindexed[item]
        elif self._several.pop(item, None) is not None:
            for clause in plan.clauses:
                self._alternatives.discard(clause, item)
        else:
            self._places.discard(plan.clauses[0], item)

    def match(self, payload: Any) -> list[Item]:
        """Return each item whose filter a payload satisfies, once."""
        matched = []
        for bucket in self._places.find(payload):
            for item, rest in bucket.items():
                if not rest or matches(rest, payload):
                    matched.append(item)
        if self._several or self._unindexed:
            found = self._unindexed.copy()
            for bucket in self._alternatives.find(payload):
                found.update(bucket)
            matched += (item for item, whole in found.items() if matches(whole, payload))
        return matched

    def _plan(self, compiled: Filter, places: Places[Item]) -> Plan | None:
        plans = [plan for clause in compiled if (plan := self._plan_clause(clause, places))]
        return min(plans, key=lambda plan: plan.rating, default=None)

    def _plan_clause(self, clause: Clause, places: Places[Item]) -> Plan | None:
        if not isinstance(clause, Either):
            rating = places.rate(clause)
            return Plan(rating, (clause,)) if rating else None
        each = [self._plan(one, self._alternatives) for one in clause.alternatives]
        plans = [plan for plan in each if plan is not None]
        if len(plans) < len(each):
            return None  # what satisfies the others only would not be found
        crowding = max((plan.rating[0] for plan in plans), default=0)
        found = dict.fromkeys(one for plan in plans for one in plan.clauses)
        return Plan((crowding, BY_ALTERNATIVES, len(found), False), tuple(found))


class Places(Generic[Item]):
    """Items by clauses: path -> what is looked up with the value there -> items."""

    def __init__(self) -> None:
        self._values: dict[Path, dict[Key, Bucket[Item]]] = {}
        self._prefixes: dict[Path, Prefixes[Item]] = {}
        # By path, and whether of strings or of numbers.
        self._ranges: dict[tuple[Path, bool], Ranges[Item]] = {}

    def find(self, payload: Any) -> list[Bucket[Item]]:
        """Return the buckets of the items that a payload's values may concern."""
        found = []
        for path, values in self._values.items():
            bucket = values.get(lookup_key(payload, path))
            if bucket:
                found.append(bucket)
        for path, prefixes in self._prefixes.items():
            value = lookup(payload, path)
            if isinstance(value, str):
                found += prefixes.find(value)
        for (path, of_strings), ranges in self._ranges.items():
            value = lookup(payload, path)
            if isinstance(value, str) if of_strings else is_number(value):
                found += ranges.find(value)
        return found

    def rate(self, clause: Predicate | Condition) -> Rating | None:
        """Tell how well an item would be found by a clause; ``None`` if it would not.

        So a thousand filters on one event type and a user each end up under their users.
        """
        path = clause.path
        if isinstance(clause, Predicate):
            values = self._values.get(path, {})
            fullest = max((len(values.get(key, ())) for key in clause.keys), default=0)
            return fullest, BY_VALUE, len(clause.keys), not values
        if (prefix := prefix_of(clause)) is not None:
            prefixes = self._prefixes.get(path)
            return prefixes.crowding(prefix) if prefixes else 0, BY_PREFIX, 0, not prefixes
        if interval := interval_of(clause):
            ranges = self._ranges.get((path, interval.of_strings))
            return ranges.crowding(interval) if ranges else 0, BY_RANGE, 0, not ranges
        return None

    def insert(self, clause: Clause, item: Item, rest: Filter) -> None:
        """Add an item under a clause, with what is to be compared when it is found."""
        if isinstance(clause, Predicate):
            values = self._values.setdefault(clause.path, {}) if clause.keys else {}
            for key in clause.keys:
                values.setdefault(key, {})[item] = rest
        elif isinstance(clause, Condition):
            if (prefix := prefix_of(clause)) is not None:
                self._prefixes.setdefault(clause.path, Prefixes()).insert(prefix, item, rest)
            elif interval := interval_of(clause):
                place = clause.path, interval.of_strings
                self._ranges.setdefault(place, Ranges()).insert(interval, item, rest)

    def discard(self, clause: Clause, item: Item) -> None:
        """Remove an item from under a clause, if it is there."""
        if isinstance(clause, Predicate):
            self._discard_values(clause, item)
        elif isinstance(clause, Condition):
            if (prefix := prefix_of(clause)) is not None:
                _discard(self._prefixes, clause.path, prefix, item)
            elif interval := interval_of(clause):
                _discard(self._ranges, (clause.path, interval.of_strings), interval, item)

    def _discard_values(self, predicate: Predicate, item: Item) -> None:
        values = self._values.get(predicate.path, {})
        for key in predicate.keys:
            bucket = values.get(key, {})
            bucket.pop(item, None)
            if not bucket:
                values.pop(key, None)
        if not values:
            self._values.pop(predicate.path, None)


def _discard(tables: dict[Any, Any], place: Any, what: Any, item: Any) -> None:
    """Remove an item from a table, and the table if nothing is left in it."""
    if place in tables:
        tables[place].discard(what, item)
        if not tables[place]:
            del tables[place]
