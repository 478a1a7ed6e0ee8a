"""Filters as clients write them: ``{path: value or operators}``, and their limits. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from realtime.filters import (
    EVERYTHING,
    Clause,
    Comparison,
    Condition,
    Filter,
    Key,
    PathError,
    Predicate,
    all_of,
    any_of,
    is_number,
    read_path,
    scalar_key,
)

# Paths of a filter, including those in its alternatives; values of one path.
MAX_PATHS = 32
MAX_VALUES = 1000
# Alternatives of one ``$or``, and how deep one may be inside another.
MAX_ALTERNATIVES = 32
MAX_DEPTH = 3
# Characters of the text that prefix, suffix and contains look for.
MAX_TEXT_CHARACTERS = 256

OR = "$or"


class FilterError(ValueError):
    """A filter is malformed; the message names the path, and the operator if there is one."""


def compile_filters(filters: Any) -> Filter:
    """Compile the ``filters`` of a client. Raises :class:`FilterError`."""
    if filters is None:
        return EVERYTHING
    if not isinstance(filters, dict):
        raise FilterError("filters: expected an object")
    if _count_paths(filters, 0) > MAX_PATHS:
        raise FilterError(f"filters: more than {MAX_PATHS} paths")
    return all_of(_clauses(filters))


def parse_filter_options(options: Iterable[str]) -> dict[str, Any]:
    """Return the filters of ``path=value`` options: a value is JSON if it parses, else a string.

    ``["a=1", "a=x", "b=null"]`` gives ``{"a": [1, "x"], "b": None}``. A path with operators may
    come only once: any or all of them would not be clear. Raises :class:`FilterError`.
    """
    values_by_path: dict[str, list[Any]] = {}
    for option in options:
        path, separator, text = option.partition("=")
        if not separator or not path:
            raise FilterError(f"filter {option!r}: expected path=value")
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = text
        values_by_path.setdefault(path, []).extend(value if isinstance(value, list) else [value])
    filters: dict[str, Any] = {}
    for path, values in values_by_path.items():
        filters[path] = values[0] if path != OR and len(values) == 1 else values
        if path != OR and len(values) > 1 and any(isinstance(value, dict) for value in values):
            raise FilterError(f"filters: {path!r}: give its operators once, as one object")
    compile_filters(filters)
    return filters


def _count_paths(filters: dict[str, Any], depth: int) -> int:
    """Count the paths, including those in alternatives; stop when they are too many."""
    count = len(filters) - (OR in filters)
    for alternative in _alternatives(filters, depth):
        if count > MAX_PATHS:
            break
        count += _count_paths(alternative, depth + 1)
    return count


def _alternatives(filters: dict[str, Any], depth: int) -> list[dict[str, Any]]:
    """Return the alternatives in a filter's ``$or``, checked; none if it has no ``$or``."""
    if OR not in filters:
        return []
    alternatives = filters[OR]
    if not isinstance(alternatives, list):
        raise FilterError(f"filters: {OR!r}: expected an array of filters")
    if not alternatives:
        raise FilterError(f"filters: {OR!r} has no alternatives")
    if len(alternatives) > MAX_ALTERNATIVES:
        raise FilterError(f"filters: {OR!r} has more than {MAX_ALTERNATIVES} alternatives")
    if depth >= MAX_DEPTH:
        raise FilterError(f"filters: {OR!r} is nested more than {MAX_DEPTH} deep")
    for alternative in alternatives:
        if not isinstance(alternative, dict):
            raise FilterError(f"filters: {OR!r}: expected an array of filters")
        if not alternative:
            raise FilterError(f"filters: {OR!r}: an alternative is empty, so matches everything")
    return alternatives


def _clauses(filters: dict[str, Any]) -> Iterator[Clause]:
    for path, value in filters.items():
        if path == OR:
            yield from any_of(all_of(_clauses(alternative)) for alternative in value)
        else:
            yield _read_clause(path, value)


def _read_clause(path: Any, value: Any) -> Clause:
    try:
        steps = read_path(path)
    except PathError as error:
        raise FilterError(f"filters: {error}") from None
    if isinstance(value, dict):
        return Condition(steps, frozenset(_tests(path, value)))
    return Predicate(steps, _keys(repr(path), value if isinstance(value, list) else [value]))


def _keys(where: str, values: list[Any]) -> frozenset[Key]:
    if not values:
        raise FilterError(f"filters: {where} has no values")
    if len(values) > MAX_VALUES:
        raise FilterError(f"filters: {where} has more than {MAX_VALUES} values")
    for item in values:
        if isinstance(item, dict | list):
            raise FilterError(
                f"filters: {where}: expected a string, number, boolean, null, an array of these "
                "or an object of operators"
            )
    return frozenset(scalar_key(item) for item in values)


def _tests(path: str, operators: dict[str, Any]) -> Iterator[Comparison]:
    if not operators:
        raise FilterError(f"filters: {path!r}: an object without operators")
    for operator, operand in operators.items():
        if operator not in _READERS:
            raise FilterError(
                f"filters: {path!r}: unknown operator {str(operator)[:32]!r}, "
                f"expected one of {', '.join(_READERS)}"
            )
        operand = _READERS[operator](f"{path!r}: {operator}", operand)
        yield Comparison({"eq": "in", "ne": "nin"}.get(operator, operator), operand)


def _read_key(where: str, operand: Any) -> Key:
    if isinstance(operand, dict | list):
        raise FilterError(f"filters: {where}: expected a string, number, boolean or null")
    return scalar_key(operand)


def _read_scalars(where: str, operand: Any) -> frozenset[Key]:
    if not isinstance(operand, list) or any(isinstance(item, dict | list) for item in operand):
        raise FilterError(
            f"filters: {where}: expected an array of strings, numbers, booleans or nulls"
        )
    return _keys(where, operand)


def _read_boolean(where: str, operand: Any) -> bool:
    if not isinstance(operand, bool):
        raise FilterError(f"filters: {where}: expected true or false")
    return operand


def _read_bound(where: str, operand: Any) -> Any:
    is_bound = isinstance(operand, str) or (
        is_number(operand) and (isinstance(operand, int) or math.isfinite(operand))
    )
    if not is_bound:
        raise FilterError(f"filters: {where}: expected a number or a string")
    return operand


def _read_text(where: str, operand: Any) -> str:
    if not isinstance(operand, str):
        raise FilterError(f"filters: {where}: expected a string")
    if len(operand) > MAX_TEXT_CHARACTERS:
        raise FilterError(f"filters: {where}: more than {MAX_TEXT_CHARACTERS} characters")
    return operand


# Each is called with where the operand is, for the error, and the operand.
_READERS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(("eq", "ne"), lambda where, operand: frozenset({_read_key(where, operand)})),
    **dict.fromkeys(("in", "nin"), _read_scalars),
    "exists": _read_boolean,
    **dict.fromkeys(("gt", "gte", "lt", "lte"), _read_bound),
    **dict.fromkeys(("prefix", "suffix"), _read_text),
    "contains": lambda where, operand: (
        _read_text(where, operand) if isinstance(operand, str) else _read_key(where, operand)
    ),
}
OPERATORS = tuple(_READERS)
