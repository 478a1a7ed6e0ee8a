"""The values that rules read from messages, as columns, each made once for all rules. Pure.

A column is as long as its records, with ``None`` for a message that has nothing to count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any, TypeVar, TypeVarTuple

from realtime.analytics.processing.contract import Records
from realtime.analytics.rules import plain_number
from realtime.filters import MISSING, Filter, Path, matches
from realtime.protocol.times import read_time

# Integers beyond it do not count as numbers: no float might hold their sum.
BIGGEST = 10**300
# Characters of a group's value; a message with a longer one is in no group.
MAX_GROUP_CHARACTERS = 1000
# Longer texts are compared by a digest.
_MAX_TEXT = 64
# Begins the text of whatever is not a short string, so that it equals no short string.
_MARK = "\0"

# The values at the paths that a rule groups by. ``true`` and ``false`` are in a tuple of their own,
# since in Python they would equal 1 and 0.
GroupValues = tuple[Any, ...]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def _once(make: Callable[[Records, *Ts], T]) -> Callable[[Records, *Ts], T]:
    """Let rules that read the same from the same records share what *make* returns."""

    def made(records: Records, *args: *Ts) -> T:
        key = make, *args
        result: T | None = records.computed.get(key)
        if result is None:
            result = records.computed[key] = make(records, *args)
        return result

    return made


@_once
def matching(records: Records, filters: Filter) -> Sequence[int]:
    """Return the indices of the messages that match."""
    if not filters:
        return range(len(records))
    return [i for i, payload in enumerate(records) if matches(filters, payload)]


@_once
def values(records: Records, path: Path) -> list[Any]:
    """Return the value at a path, of any type; ``None`` for null and for no value."""
    return [None if value is MISSING else value for value in records.column(path)]


@_once
def numbers(records: Records, path: Path) -> list[Any]:
    """Return the number at a path; booleans are not numbers."""
    return [value if _is_number(value) else None for value in records.column(path)]


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and -BIGGEST < value < BIGGEST)


@_once
def texts(records: Records, path: Path) -> list[Any]:
    """Return a text for the scalar at a path: the same for values that are equal in JSON."""
    return [
        value
        if type(value) is str and len(value) <= _MAX_TEXT and value[:1] != _MARK
        else _text(value)
        for value in records.column(path)
    ]


def _text(value: Any) -> str | None:
    if value is None or value is MISSING or isinstance(value, dict | list):
        return None
    if isinstance(value, str):
        digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16)
        return f"{_MARK}s{digest.hexdigest()}"
    if type(value) is int and not _is_number(value):
        return f"{_MARK}{value:x}"  # in decimal it may have more digits than Python writes
    return f"{_MARK}{plain_number(value)!r}"


@_once
def in_order(records: Records) -> list[Records]:
    """Return the messages in parts: another begins where the log's clock was put back."""
    timestamps = records.timestamps
    cuts = [i for i, (one, next_one) in enumerate(pairwise(timestamps), 1) if next_one < one]
    if not cuts:
        return [records]
    return [records.part(start, end) for start, end in pairwise([0, *cuts, len(records)])]


@_once
def own_times(records: Records, path: Path) -> list[Any]:
    """Return each message's own time, in seconds since 1970; without a path, its publishing.

    What is no time, or one before 1970, is ``None``.
    """
    if not path:
        return records.timestamps
    return [
        seconds if (seconds := read_time(value)) is not None and seconds >= 0 else None
        for value in records.column(path)
    ]


@_once
def times(records: Records, path: Path, skew: float) -> list[Any]:
    """Return own times, with ``None`` also for those that lead the log's by more than *skew*."""
    if not path:
        return records.timestamps
    return [
        own if own is not None and own <= published + skew else None
        for own, published in zip(own_times(records, path), records.timestamps, strict=True)
    ]


@_once
def passed_times(records: Records, path: Path, skew: float) -> list[Any]:
    """Return :func:`times`, those that lead the log's time as the log's time."""
    if not path:
        return records.timestamps
    return [
        own if own is None or own <= published else published
        for own, published in zip(times(records, path, skew), records.timestamps, strict=True)
    ]


@_once
def groups(records: Records, paths: tuple[Path, ...]) -> list[Any]:
    """Return each message's group; ``None`` if a value is no scalar. A missing value is null."""
    if not paths:
        return [()] * len(records)
    columns = [_group_values(records, path) for path in paths]
    return [None if MISSING in values else values for values in zip(*columns, strict=True)]


@_once
def keys(
    records: Records, time_path: Path, skew: float, slide: int, paths: tuple[Path, ...]
) -> list[Any]:
    """Return each message's slide, counted from 1970, and group; ``None`` if one is missing."""
    pairs = zip(times(records, time_path, skew), groups(records, paths), strict=True)
    return [
        None if time is None or group is None else (int(time // slide), group)
        for time, group in pairs
    ]


@_once
def _group_values(records: Records, path: Path) -> list[Any]:
    return [
        value if type(value) is str and len(value) <= MAX_GROUP_CHARACTERS else _group_value(value)
        for value in records.column(path)
    ]


def _group_value(value: Any) -> Any:
    if value is MISSING:
        return None
    if value is True or value is False:
        return (value,)
    return plain_number(value) if value is None or _is_number(value) else MISSING
