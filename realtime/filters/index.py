"""Which of many filters match a payload, at the cost of those that do. Pure.

An item is found through one clause of its filter (of each alternative): by the value at a path, a
prefix of it, or a range around it. Filters without such a clause are compared with every payload.
"""

from __future__ import annotations

from typing import Any, Generic, NamedTuple

from realtime.filters import Clause, Condition, Either, Filter, Path, Predicate, lookup, matches
from realtime.filters.tables import Bucket, Item, Prefixes, Ranges, Values, interval_of

# How well a clause finds an item, the smallest is the best: how many other items it finds as well,
# the way of the lookup, how many values, and whether it is the first to be looked up there.
Rating = tuple[int, int, int, bool]
BY_VALUE, BY_PREFIX, BY_RANGE, BY_ALTERNATIVES = range(4)
# What is looked up with the value at a path, by the way of the lookup.
TABLES: tuple[Any, ...] = (Values, Prefixes, Ranges)


# A path, the way of the lookup there, and what its table is given.
Entry = tuple[Path, int, Any]


class Plan(NamedTuple):
    """Through which entries an item is found: one, or one of each alternative."""

    rating: Rating
    entries: tuple[Entry, ...]


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
            for entry in plan.entries:
                self._alternatives.insert(entry, item, compiled)
        else:
            [(path, _, operand)] = plan.entries
            # A value that is looked up equals one of the predicate's; other clauses are compared.
            remaining = (clause for clause in compiled if clause != Predicate(path, operand))
            self._clauses.insert(plan.entries[0], item, tuple(remaining))

    def remove(self, item: Item) -> None:
        plan = self._plans.pop(item)
        if plan is None:
            del self._unindexed[item]
        elif self._with_alternatives.pop(item, None) is not None:
            for entry in plan.entries:
                self._alternatives.discard(entry, item)
        else:
            self._clauses.discard(plan.entries[0], item)

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
            return index.plan(clause)
        each = [self._plan(alternative, self._alternatives) for alternative in clause.alternatives]
        plans = [plan for plan in each if plan is not None]
        if len(plans) < len(each):
            return None  # a payload that satisfies only the others would not find the item
        crowding = max((plan.rating[0] for plan in plans), default=0)
        entries = dict.fromkeys(entry for plan in plans for entry in plan.entries)
        return Plan((crowding, BY_ALTERNATIVES, len(entries), False), tuple(entries))


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

    def plan(self, clause: Predicate | Condition) -> Plan | None:
        """Tell how well a clause would find an item; ``None`` if it would not find it at all.

        Crowded values are avoided: filters on one event type and a user each are found by the user.
        """
        entry = _entry_of(clause)
        if entry is None:
            return None
        path, way, operand = entry
        table = self._tables.get((path, way))
        values = len(operand) if way == BY_VALUE else 0
        return Plan((table.crowding(operand) if table else 0, way, values, not table), (entry,))

    def insert(self, entry: Entry, item: Item, remaining: Filter) -> None:
        """Add an item. *remaining* is compared whenever the item is found."""
        path, way, operand = entry
        if (path, way) not in self._tables:
            self._tables[path, way] = TABLES[way]()
        self._tables[path, way].insert(operand, item, remaining)

    def discard(self, entry: Entry, item: Item) -> None:
        path, way, operand = entry
        table = self._tables.get((path, way))
        if table is not None:
            table.discard(operand, item)
            if not table:
                del self._tables[path, way]


def _entry_of(clause: Predicate | Condition) -> Entry | None:
    """Return how an item can be found through a clause, if it can."""
    if isinstance(clause, Predicate):
        return clause.path, BY_VALUE, clause.keys
    prefixes = [operand for operator, operand in clause.tests if operator == "prefix"]
    if prefixes:
        return clause.path, BY_PREFIX, max(prefixes, key=len)
    interval = interval_of(clause)
    return None if interval is None else (clause.path, BY_RANGE, interval)
