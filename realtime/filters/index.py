"""Which of many filters match a payload, at the cost of those that do. Pure.

Knows filters and that each belongs to an item; nothing of what the items are. An item is found
through one clause of its filter: by the value at a path, by a prefix of it, or by a range that
contains it. A filter with alternatives is found through one clause of each alternative. Filters
without such a clause are compared with every payload.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

from realtime.filters.clauses import Clause, Condition, Either, Filter, Predicate, matches
from realtime.filters.intervals import Bucket, Interval, Item, Ranges, interval_of
from realtime.filters.paths import Key, Path, is_number, lookup, lookup_key
from realtime.filters.prefixes import Prefixes, prefix_of

# How well a clause finds an item, the smallest is the best: how many other items it finds as well,
# the way of the lookup, how many values, and whether nothing is looked up at its path yet.
Rating = tuple[int, int, int, bool]
BY_VALUE, BY_PREFIX, BY_RANGE, BY_ALTERNATIVES = range(4)


class Plan(NamedTuple):
    """The clauses through which an item is found: one, or one of each alternative."""

    rating: Rating
    clauses: tuple[Clause, ...]


class FilterIndex(Generic[Item]):
    """Items, each with a filter that is not empty."""

    def __init__(self) -> None:
        self._clauses: ClauseIndex[Item] = ClauseIndex()
        # Items with alternatives are kept apart, since one payload may find them several times.
        self._alternatives: ClauseIndex[Item] = ClauseIndex()
        self._with_alternatives: Bucket[Item] = {}
        self._unindexed: Bucket[Item] = {}
        # None for items that are not indexed.
        self._plans: dict[Item, Plan | None] = {}

    def __bool__(self) -> bool:
        return bool(self._plans)

    def insert(self, item: Item, compiled: Filter) -> None:
        """Add an item that is not there."""
        plan = self._plans[item] = self._plan(compiled, self._clauses)
        if plan is None:
            self._unindexed[item] = compiled
        elif plan.rating[1] == BY_ALTERNATIVES:
            self._with_alternatives[item] = compiled
            for clause in plan.clauses:
                self._alternatives.insert(clause, item, compiled)
        else:
            [indexed] = plan.clauses
            # A value that is looked up equals one of the predicate's; other clauses are compared.
            remaining = [
                clause
                for clause in compiled
                if clause is not indexed or isinstance(clause, Condition)
            ]
            self._clauses.insert(indexed, item, tuple(remaining))

    def remove(self, item: Item) -> None:
        """Remove an item that is there."""
        plan = self._plans.pop(item)
        if plan is None:
            del self._unindexed[item]
        elif self._with_alternatives.pop(item, None) is not None:
            for clause in plan.clauses:
                self._alternatives.discard(clause, item)
        else:
            self._clauses.discard(plan.clauses[0], item)

    def match(self, payload: Any) -> list[Item]:
        """Return each item whose filter a payload satisfies, once."""
        matched = []
        for bucket in self._clauses.find(payload):
            for item, remaining in bucket.items():
                if not remaining or matches(remaining, payload):
                    matched.append(item)
        if self._with_alternatives or self._unindexed:
            candidates = self._unindexed.copy()
            for bucket in self._alternatives.find(payload):
                candidates.update(bucket)
            matched += (item for item, whole in candidates.items() if matches(whole, payload))
        return matched

    def _plan(self, compiled: Filter, index: ClauseIndex[Item]) -> Plan | None:
        plans = [plan for clause in compiled if (plan := self._plan_clause(clause, index))]
        return min(plans, key=lambda plan: plan.rating, default=None)

    def _plan_clause(self, clause: Clause, index: ClauseIndex[Item]) -> Plan | None:
        """Return how to find an item through a clause; ``None`` if that is not possible."""
        if not isinstance(clause, Either):
            rating = index.rate(clause)
            return Plan(rating, (clause,)) if rating else None
        each = [self._plan(alternative, self._alternatives) for alternative in clause.alternatives]
        plans = [plan for plan in each if plan is not None]
        if len(plans) < len(each):
            return None  # a payload that satisfies only the others would not find the item
        crowding = max((plan.rating[0] for plan in plans), default=0)
        clauses = dict.fromkeys(clause for plan in plans for clause in plan.clauses)
        return Plan((crowding, BY_ALTERNATIVES, len(clauses), False), tuple(clauses))


class ClauseIndex(Generic[Item]):
    """Items by single clauses: path -> what is looked up with the value there -> items."""

    def __init__(self) -> None:
        self._values: dict[Path, dict[Key, Bucket[Item]]] = {}
        self._prefixes: dict[Path, Prefixes[Item]] = {}
        # By path, and whether the ranges are of strings or of numbers.
        self._ranges: dict[tuple[Path, bool], Ranges[Item]] = {}

    def find(self, payload: Any) -> list[Bucket[Item]]:
        """Return the buckets of all items whose clause the payload satisfies, and of few others."""
        buckets = []
        for path, values in self._values.items():
            bucket = values.get(lookup_key(payload, path))
            if bucket:
                buckets.append(bucket)
        for path, prefixes in self._prefixes.items():
            value = lookup(payload, path)
            if isinstance(value, str):
                buckets += prefixes.find(value)
        for (path, of_strings), ranges in self._ranges.items():
            value = lookup(payload, path)
            if isinstance(value, str) if of_strings else is_number(value):
                buckets += ranges.find(value)
        return buckets

    def rate(self, clause: Predicate | Condition) -> Rating | None:
        """Tell how well a clause would find an item; ``None`` if it would not find it at all.

        Crowded values are avoided: of a thousand filters on one event type and a user each, every
        one is found by its user.
        """
        if isinstance(clause, Predicate):
            values = self._values.get(clause.path, {})
            fullest = max((len(values.get(key, ())) for key in clause.keys), default=0)
            return fullest, BY_VALUE, len(clause.keys), not values
        operand = _operand_of(clause)
        if operand is None:
            return None
        tables, place = self._table(clause, operand)
        table = tables.get(place)
        way = BY_PREFIX if isinstance(operand, str) else BY_RANGE
        return table.crowding(operand) if table else 0, way, 0, not table

    def insert(self, clause: Clause, item: Item, remaining: Filter) -> None:
        """Add an item under a clause. *remaining* is compared whenever the item is found."""
        if isinstance(clause, Predicate):
            values = self._values.setdefault(clause.path, {}) if clause.keys else {}
            for key in clause.keys:
                values.setdefault(key, {})[item] = remaining
        elif isinstance(clause, Condition) and (operand := _operand_of(clause)) is not None:
            tables, place = self._table(clause, operand)
            if place not in tables:
                tables[place] = Prefixes() if isinstance(operand, str) else Ranges()
            tables[place].insert(operand, item, remaining)

    def discard(self, clause: Clause, item: Item) -> None:
        """Remove an item from under a clause, if it is there."""
        if isinstance(clause, Predicate):
            self._discard_values(clause, item)
        elif isinstance(clause, Condition) and (operand := _operand_of(clause)) is not None:
            tables, place = self._table(clause, operand)
            if place in tables:
                tables[place].discard(operand, item)
                if not tables[place]:
                    del tables[place]

    def _table(self, clause: Condition, operand: str | Interval) -> tuple[dict[Any, Any], Any]:
        """Return the tables in which a condition is looked up, and the key of its own."""
        if isinstance(operand, str):
            return self._prefixes, clause.path
        return self._ranges, (clause.path, operand.of_strings)

    def _discard_values(self, predicate: Predicate, item: Item) -> None:
        values = self._values.get(predicate.path, {})
        for key in predicate.keys:
            bucket = values.get(key, {})
            bucket.pop(item, None)
            if not bucket:
                values.pop(key, None)
        if not values:
            self._values.pop(predicate.path, None)


def _operand_of(condition: Condition) -> str | Interval | None:
    """Return the prefix or else the range by which a condition finds an item, if it has one."""
    prefix = prefix_of(condition)
    return interval_of(condition) if prefix is None else prefix
