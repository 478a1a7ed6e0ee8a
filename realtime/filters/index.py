"""Which of many filters match a payload, at the cost of those that do. Pure.

An item is found through one clause of its filter (of each alternative): by the value at a path, a
prefix of it, or a range around it. Filters without such a clause are compared with every payload.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

from realtime.filters import (
    Clause,
    Condition,
    Either,
    Filter,
    Path,
    Predicate,
    lookup,
    matches,
)
from realtime.filters.tables import (
    Bucket,
    Item,
    Prefixes,
    Ranges,
    Values,
    interval_of,
    prefix_of,
)

# How well a clause finds an item, the smallest is the best: how many other items it finds as well,
# the way of the lookup, how many values, and whether it is the first to be looked up there.
Rating = tuple[int, int, int, bool]
BY_VALUE, BY_PREFIX, BY_RANGE, BY_ALTERNATIVES = range(4)
# What is looked up with the value at a path, by the way of the lookup.
TABLES: tuple[Any, ...] = (Values, Prefixes, Ranges)


class Plan(NamedTuple):
    """The clauses through which an item is found: one, or one of each alternative."""

    rating: Rating
    clauses: tuple[Predicate | Condition, ...]


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
    """Items by single clauses, in a table for each path and way of lookup."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Path, int], Any] = {}

    def find(self, payload: Any) -> list[Bucket[Item]]:
        """Return the buckets of all items whose clause the payload satisfies, and of few others."""
        buckets: list[Bucket[Item]] = []
        for (path, _), table in self._tables.items():
            buckets += table.find(lookup(payload, path))
        return buckets

    def rate(self, clause: Predicate | Condition) -> Rating | None:
        """Tell how well a clause would find an item; ``None`` if it would not find it at all.

        Crowded values are avoided: filters on one event type and a user each are found by the user.
        """
        wish = _wish_of(clause)
        if wish is None:
            return None
        way, operand = wish
        table = self._tables.get((clause.path, way))
        values = len(operand) if way == BY_VALUE else 0
        return table.crowding(operand) if table else 0, way, values, not table

    def insert(self, clause: Predicate | Condition, item: Item, remaining: Filter) -> None:
        """Add an item under a clause. *remaining* is compared whenever the item is found."""
        if wish := _wish_of(clause):
            way, operand = wish
            place = clause.path, way
            if place not in self._tables:
                self._tables[place] = TABLES[way]()
            self._tables[place].insert(operand, item, remaining)

    def discard(self, clause: Predicate | Condition, item: Item) -> None:
        if wish := _wish_of(clause):
            way, operand = wish
            table = self._tables.get((clause.path, way))
            if table is not None:
                table.discard(operand, item)
                if not table:
                    del self._tables[clause.path, way]


def _wish_of(clause: Predicate | Condition) -> tuple[int, Any] | None:
    """Return in which way an item can be found through a clause, and what its table is given."""
    if isinstance(clause, Predicate):
        return BY_VALUE, clause.keys
    if (prefix := prefix_of(clause)) is not None:
        return BY_PREFIX, prefix
    interval = interval_of(clause)
    return None if interval is None else (BY_RANGE, interval)
