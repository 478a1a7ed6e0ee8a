"""Filters: ``{path: value}`` pairs compiled to predicates that a payload must all satisfy. Pure.

Equality is JSON's: 1 equals 1.0, ``true`` does not equal 1, "1" does not equal 1. A missing path
matches nothing, not even null.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

MAX_PATHS = 32
MAX_VALUES = 1000
MAX_STEPS = 16
MAX_PATH_CHARACTERS = 256

# Namespace of derived subscription ids (version 5 UUIDs). Changing it changes every id.
SUBSCRIPTION_NAMESPACE = uuid.UUID("6f0a7c1e-54a5-5f8e-9d0b-2f6f3f0c8a11")

Path = tuple[str, ...]
# A scalar in a form whose hash and equality are JSON's.
Key = str | int | float | None | tuple[bool]
MISSING = object()


class FilterError(ValueError):
    """A filter is malformed; the message names the path."""


class Predicate(NamedTuple):
    """The value at *path* must equal one of *keys*."""

    path: Path
    keys: frozenset[Key]


# Predicates in the order of their paths: equal filters are equal tuples.
Filter = tuple[Predicate, ...]
EVERYTHING: Filter = ()


def scalar_key(value: Any) -> Key:
    """Return a hashable form of a JSON scalar in which ``true`` and 1 differ.

    An object or array gives itself, which equals no key and must not be hashed: see
    :func:`lookup_key`.
    """
    return (value,) if value is True or value is False else value


def compile_filters(filters: Any) -> Filter:
    """Compile the ``filters`` of a client. Raises :class:`FilterError`."""
    if filters is None:
        return EVERYTHING
    if not isinstance(filters, dict):
        raise FilterError("filters: expected an object")
    if len(filters) > MAX_PATHS:
        raise FilterError(f"filters: more than {MAX_PATHS} paths")
    return tuple(
        sorted(
            (Predicate(_path(path), _keys(path, value)) for path, value in filters.items()),
            key=lambda predicate: predicate.path,
        )
    )


def parse_filter_options(options: Iterable[str]) -> dict[str, Any]:
    """Return the filters of ``path=value`` options: a value is JSON if it parses, else a string.

    A path given several times matches any of its values. Raises :class:`FilterError`.
    """
    filters: dict[str, list[Any]] = {}
    for option in options:
        path, separator, text = option.partition("=")
        if not separator or not path:
            raise FilterError(f"filter {option!r}: expected path=value")
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            value = text
        filters.setdefault(path, []).extend(value if isinstance(value, list) else [value])
    compile_filters(filters)
    return {path: values[0] if len(values) == 1 else values for path, values in filters.items()}


def _path(text: Any) -> Path:
    if not isinstance(text, str):
        raise FilterError("filters: a path is not a string")
    if len(text) > MAX_PATH_CHARACTERS:
        raise FilterError(
            f"filters: the path {text[:32]!r}... has more than {MAX_PATH_CHARACTERS} characters"
        )
    steps = tuple(text.split("."))
    if len(steps) > MAX_STEPS:
        raise FilterError(f"filters: the path {text!r} has more than {MAX_STEPS} steps")
    if "" in steps:
        raise FilterError(f"filters: the path {text!r} has an empty step")
    return steps


def _keys(path: str, value: Any) -> frozenset[Key]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise FilterError(f"filters: {path!r} has no values")
    if len(values) > MAX_VALUES:
        raise FilterError(f"filters: {path!r} has more than {MAX_VALUES} values")
    for item in values:
        if isinstance(item, dict | list):
            raise FilterError(
                f"filters: {path!r}: expected a string, number, boolean, null or an array of these"
            )
    return frozenset(scalar_key(item) for item in values)


def conjunction(first: Filter, second: Filter) -> Filter:
    """Return the filter that matches what both match (a client's, and what its token enforces)."""
    if not first or not second:
        return first or second
    keys = {predicate.path: predicate.keys for predicate in first}
    for predicate in second:
        known = keys.get(predicate.path)
        keys[predicate.path] = predicate.keys if known is None else known & predicate.keys
    return tuple(sorted((Predicate(*item) for item in keys.items()), key=lambda p: p.path))


def lookup_key(payload: Any, path: Path) -> Any:
    """Return the key of the scalar at *path*, or :data:`MISSING` for no value or no scalar."""
    for step in path:
        if not isinstance(payload, dict):
            return MISSING
        payload = payload.get(step, MISSING)
    if isinstance(payload, dict | list):
        return MISSING
    return scalar_key(payload)


def matches(compiled: Filter, payload: Any) -> bool:
    """Tell whether *payload* (decoded JSON) satisfies every predicate."""
    return all(lookup_key(payload, predicate.path) in predicate.keys for predicate in compiled)


def derive_subscription_id(kind: str, compiled: Filter) -> str:
    """Return the id of a subscription without a chosen one: equal for equal type and filters."""
    canonical = [
        [list(predicate.path), sorted(_canonical(key) for key in predicate.keys)]
        for predicate in compiled
    ]
    return str(uuid.uuid5(SUBSCRIPTION_NAMESPACE, json.dumps([kind, canonical])))


def _canonical(key: Key) -> str:
    if isinstance(key, tuple):
        return json.dumps(key[0])
    if isinstance(key, float) and key.is_integer():
        key = int(key)
    return json.dumps(key)
