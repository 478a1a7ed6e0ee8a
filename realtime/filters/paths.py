"""What is in a payload: decoding it, paths as clients write them, and the value at a path. Pure.

Knows nothing of filters; options, aggregation rules and alert rules read their paths here as well.
"""

from __future__ import annotations

from typing import Any

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
    """Return JSON text as Python objects; ``None``, in which no path leads anywhere, if it cannot
    be decoded here, for example because it is nested too deeply."""
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

    The same as :func:`scalar_key` of :func:`lookup`, without their calls: every event with
    subscribers who filter comes through here.
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

    An object or array is returned as it is: it equals no key, and must not be hashed.
    """
    return (value,) if value is True or value is False else value


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number, which booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
