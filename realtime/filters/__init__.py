"""Which payloads match? Filters of paths and clauses, all of which a payload satisfies. Pure.

:mod:`realtime.filters.compiler` has the language in which clients write filters.

Equality is JSON's: 1 equals 1.0, but ``true`` does not equal 1. Combining clauses brings them into
one normal form, so filters with the same meaning are equal tuples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

# The steps of a path: ``"user.id"`` is ``("user", "id")``.
Path = tuple[str, ...]
# A JSON scalar in a form whose hash and equality are JSON's: 1 equals 1.0, but ``true`` does not.
Key = str | int | float | None | tuple[bool]
# The value at a path where there is none; ``None`` is JSON's null.
MISSING = object()
# What a JSON value may be that is no scalar.
CONTAINERS = (dict, list)

MAX_STEPS = 16
MAX_PATH_CHARACTERS = 256


class PathError(ValueError):
    """A path is malformed. The message says how, but not to which field the path belongs."""


def read_path(text: Any) -> Path:
    """Return the steps of a path such as ``"user.id"``. Raises :class:`PathError`."""
    if not isinstance(text, str):
        raise PathError("a path is not a string")
    if len(text) > MAX_PATH_CHARACTERS:
        raise PathError(f"the path {text[:32]!r}... has more than {MAX_PATH_CHARACTERS} characters")
    steps = tuple(text.split("."))
    if len(steps) > MAX_STEPS:
        raise PathError(f"the path {text!r} has more than {MAX_STEPS} steps")
    if "" in steps:
        raise PathError(f"the path {text!r} has an empty step")
    return steps


def decode_or_none(text: bytes) -> Any:
    """Return JSON text as Python objects; ``None`` if it cannot be decoded here."""
    try:
        return msgspec.json.decode(text)
    except (RecursionError, ValueError):
        return None


def lookup(payload: Any, path: Path) -> Any:
    """Return the value at *path*, or :data:`MISSING`. A path leads through objects only."""
    for step in path:
        if not isinstance(payload, dict):
            return MISSING
        payload = payload.get(step, MISSING)
    return payload


def lookup_key(payload: Any, path: Path) -> Any:
    """Return the key of the scalar at *path*, or :data:`MISSING` for no value or no scalar.

    :func:`scalar_key` of :func:`lookup` without their calls: every event with filters comes here.
    """
    for step in path:
        if not isinstance(payload, dict):
            return MISSING
        payload = payload.get(step, MISSING)
    if isinstance(payload, CONTAINERS):
        return MISSING
    return (payload,) if payload is True or payload is False else payload


def scalar_key(value: Any) -> Key:
    """Return a hashable form of a JSON scalar in which ``true`` and 1 differ.

    An object or array is returned as it is, and must not be hashed.
    """
    return (value,) if value is True or value is False else value


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number, which booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


class Comparison(NamedTuple):
    """An operator and what it compares with: a key, a boolean, or for in and nin a set of keys."""

    operator: str
    operand: Any


class Predicate(NamedTuple):
    """The value at *path* must equal one of *keys*."""

    path: Path
    keys: frozenset[Key]

    @property
    def tests(self) -> frozenset[Comparison]:
        return frozenset({Comparison("in", self.keys)})

    def holds(self, payload: Any) -> bool:
        return lookup_key(payload, self.path) in self.keys


class Condition(NamedTuple):
    """The value at *path* must pass all of *tests*, none of which is ``in``."""

    path: Path
    tests: frozenset[Comparison]

    def holds(self, payload: Any) -> bool:
        return _passes(lookup(payload, self.path), self.tests)


class Either(NamedTuple):
    """One of *alternatives* must match."""

    alternatives: tuple[Filter, ...]

    def holds(self, payload: Any) -> bool:
        return any(matches(alternative, payload) for alternative in self.alternatives)


Clause = Predicate | Condition | Either
# At most one clause for each path, sorted by path, and after them those with alternatives.
Filter = tuple[Clause, ...]
EVERYTHING: Filter = ()


def matches(compiled: Filter, payload: Any) -> bool:
    """Tell whether *payload* (decoded JSON) satisfies every clause."""
    for clause in compiled:  # noqa: SIM110 - all() takes twice the time
        if not clause.holds(payload):
            return False
    return True


def _is_comparable(value: Any, bound: Any) -> bool:
    return isinstance(value, str) if isinstance(bound, str) else is_number(value)


def _is_none_of(value: Any, keys: frozenset[Key]) -> bool:
    return value is not MISSING and (isinstance(value, CONTAINERS) or scalar_key(value) not in keys)


def _contains(value: Any, wanted: Key) -> bool:
    if isinstance(value, str):
        return isinstance(wanted, str) and wanted in value
    return isinstance(value, list) and any(scalar_key(item) == wanted for item in value)


# Each operator is called with the value in the payload and the filter's operand.
_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "in": lambda value, keys: not isinstance(value, CONTAINERS) and scalar_key(value) in keys,
    "nin": _is_none_of,
    "exists": lambda value, wanted: (value is not MISSING) is wanted,
    "gt": lambda value, bound: _is_comparable(value, bound) and value > bound,
    "gte": lambda value, bound: _is_comparable(value, bound) and value >= bound,
    "lt": lambda value, bound: _is_comparable(value, bound) and value < bound,
    "lte": lambda value, bound: _is_comparable(value, bound) and value <= bound,
    "prefix": lambda value, start: isinstance(value, str) and value.startswith(start),
    "suffix": lambda value, end: isinstance(value, str) and value.endswith(end),
    "contains": _contains,
}
LOWER = ("gt", "gte")
UPPER = ("lt", "lte")


def _passes(value: Any, tests: Iterable[Comparison]) -> bool:
    return all(_HOLDS[operator](value, operand) for operator, operand in tests)


def all_of(clauses: Iterable[Clause]) -> Filter:
    """Return the filter that matches what all *clauses* hold for."""
    tests: dict[Path, set[Comparison]] = {}
    either: dict[Either, None] = {}
    for clause in clauses:
        if isinstance(clause, Either):
            either[clause] = None
        else:
            tests.setdefault(clause.path, set()).update(clause.tests)
    by_path = (_clause(path, tests[path]) for path in sorted(tests))
    return (*by_path, *sorted(either, key=lambda clause: json.dumps(_canonical_clause(clause))))


def conjunction(first: Filter, second: Filter) -> Filter:
    """Return the filter that matches what both match (a client's, and what its token enforces)."""
    if not first or not second:
        return first or second
    return all_of((*first, *second))


def any_of(filters: Iterable[Filter]) -> Filter:
    """Return the filter that matches what any of *filters*, none of them empty, does.

    ``{"$or": [{"a": 1}, {"a": 2}]}`` is ``{"a": [1, 2]}``.
    """
    values: dict[Path, frozenset[Key]] = {}
    others: dict[Filter, None] = {}
    for compiled in _flat(filters):
        match compiled:
            case (Predicate(path, keys),):
                values[path] = values.get(path, frozenset()) | keys
            case _:
                others[compiled] = None
    alternatives: list[Filter] = [(Predicate(path, keys),) for path, keys in values.items()]
    alternatives += others
    if len(alternatives) == 1:
        return alternatives[0]
    alternatives.sort(key=lambda alternative: json.dumps(canonical(alternative)))
    return (Either(tuple(alternatives)),)


def _flat(filters: Iterable[Filter]) -> Iterable[Filter]:
    """Yield alternatives without those that can never match; nested ones are yielded themselves."""
    for compiled in filters:
        if len(compiled) == 1 and isinstance(compiled[0], Either):
            yield from compiled[0].alternatives
        elif all(clause[-1] for clause in compiled):  # else it has no keys or no alternatives
            yield compiled


def _clause(path: Path, tests: set[Comparison]) -> Predicate | Condition:
    """Return the normal form of a clause with these *tests*, of which there is at least one."""
    accepted = [test.operand for test in tests if test.operator == "in"]
    if accepted:
        others = [test for test in tests if test.operator != "in"]
        keys: frozenset[Key] = frozenset.intersection(*accepted)
        values = {key: key[0] if isinstance(key, tuple) else key for key in keys}
        return Predicate(path, frozenset(key for key in keys if _passes(values[key], others)))
    if len(tests) > 1 and Comparison("exists", False) in tests:
        return Predicate(path, frozenset())
    strictest = _strictest(_without_repeats(tests))
    if strictest is None:
        return Predicate(path, frozenset())
    return Condition(path, frozenset(strictest))


def _without_repeats(tests: set[Comparison]) -> set[Comparison]:
    """Drop ``exists: true`` beside other tests, which imply it, and join all ``nin`` to one."""
    if len(tests) > 1:
        tests = tests - {Comparison("exists", True)}
    excluded = [test for test in tests if test.operator == "nin"]
    if len(excluded) > 1:
        tests = tests.difference(excluded)
        tests.add(Comparison("nin", frozenset().union(*(test.operand for test in excluded))))
    return tests


def _strictest(tests: set[Comparison]) -> set[Comparison] | None:
    """Keep only the strictest bound on each side; return ``None`` if no value can pass both."""
    lower = [test for test in tests if test.operator in LOWER]
    upper = [test for test in tests if test.operator in UPPER]
    if len({isinstance(test.operand, str) for test in lower + upper}) > 1:
        return None  # nothing is a string and a number
    low = max(lower, key=_bound_order, default=None)
    high = min(upper, key=_bound_order, default=None)
    if low and high and _bound_order(low) >= _bound_order(high):
        return None
    return tests.difference(lower, upper).union(test for test in (low, high) if test)


def _bound_order(test: Comparison) -> tuple[Any, bool]:
    """Return what sorts bounds: ``gte 1`` and ``lt 1`` are before ``gt 1`` and ``lte 1``."""
    return test.operand, test.operator in ("gt", "lte")


def canonical(compiled: Filter) -> list[Any]:
    """Return JSON data that is equal for equal filters, also where one has 1 and the other 1.0."""
    return [_canonical_clause(clause) for clause in compiled]


def _canonical_clause(clause: Clause) -> list[Any]:
    if isinstance(clause, Either):
        return ["$or", [canonical(alternative) for alternative in clause.alternatives]]
    if isinstance(clause, Predicate):
        return [list(clause.path), _canonical_operand(clause.keys)]
    tests = ([test.operator, _canonical_operand(test.operand)] for test in clause.tests)
    return [list(clause.path), sorted(tests, key=json.dumps)]


def _canonical_operand(operand: Any) -> Any:
    if isinstance(operand, frozenset):
        return sorted(map(_canonical_operand, operand))
    if isinstance(operand, tuple):
        [operand] = operand
    elif isinstance(operand, float) and operand.is_integer():
        operand = int(operand)
    return json.dumps(operand)
