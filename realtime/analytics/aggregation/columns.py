"""What rules look at in messages, a column at a time, worked out once for all rules. Pure.

Knows messages and how to read them, nothing of windows. Columns are as long as their records;
``None`` stands where a message has nothing to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

from realtime.analytics.processing.contract import Records
from realtime.filters import MISSING, Filter, Path, matches

# Integers beyond it are no numbers here: their sums might be beyond any float.
BIGGEST = 10**300
# Milliseconds from here on, seconds below: as seconds it is the year 5138, as milliseconds 1973.
FIRST_MILLISECONDS = 10**11
# Seconds by which a message may say that it happened later than it was published.
MAX_AHEAD = 86_400
# Characters of a group's value; a message with a longer one is in no group.
MAX_GROUP_CHARACTERS = 1000
# Longer texts are compared by a digest.
_MAX_TEXT = 64
# Before the text of what is no short string, so that none is equal to one.
_MARK = "\0"

# A group: the values at the paths of a rule; ``true`` and ``false`` in a tuple, so as to be
# different from 1 and 0.
Group = tuple[Any, ...]


def matching(records: Records, filters: Filter) -> Sequence[int]:
    """Return the indices of the messages that match."""
    if not filters:
        return range(len(records))
    return records.once(
        ("matching", filters),
        lambda: [i for i, payload in enumerate(records) if matches(filters, payload)],
    )


def values(records: Records, path: Path) -> list[Any]:
    """Return the value at a path, of any type; null is none."""
    return records.once(
        ("values", path),
        lambda: [None if value is MISSING else value for value in records.column(path)],
    )


def numbers(records: Records, path: Path) -> list[Any]:
    """Return the number at a path; booleans are none."""
    return records.once(
        ("numbers", path),
        lambda: [value if _is_number(value) else None for value in records.column(path)],
    )


def _is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and -BIGGEST < value < BIGGEST)


def texts(records: Records, path: Path) -> list[Any]:
    """Return a text for the scalar at a path, the same for what is equal in JSON; null is none."""
    return records.once(
        ("texts", path),
        lambda: [
            value
            if type(value) is str and len(value) <= _MAX_TEXT and value[:1] != _MARK
            else _text(value)
            for value in records.column(path)
        ],
    )


def _text(value: Any) -> str | None:
    if value is None or value is MISSING or isinstance(value, dict | list):
        return None
    if isinstance(value, str):
        digest = blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16)
        return f"{_MARK}s{digest.hexdigest()}"
    if type(value) is int and not _is_number(value):
        return f"{_MARK}{value:x}"  # in decimal it may have more digits than Python writes
    return f"{_MARK}{_plain(value)!r}"


def _plain(value: Any) -> Any:
    """Return an integer for a float that is equal to it, up to where floats are exact."""
    is_whole = type(value) is float and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value


def times(records: Records, path: Path) -> list[Any]:
    """Return when each message happened, in seconds since 1970; without a path: was published."""
    if not path:
        return records.timestamps
    return records.once(
        ("times", path),
        lambda: [
            _time(value, published)
            for value, published in zip(records.column(path), records.timestamps, strict=True)
        ],
    )


def _time(value: Any, published: float) -> float | None:
    if type(value) is str:
        try:
            found = datetime.fromisoformat(value)
            if found.tzinfo is None:
                found = found.replace(tzinfo=UTC)
            seconds = found.timestamp()
        except (ValueError, OverflowError):
            return None
    elif _is_number(value):
        seconds = value / 1000 if value >= FIRST_MILLISECONDS else value
    else:
        return None
    return seconds if 0 <= seconds <= published + MAX_AHEAD else None


def groups(records: Records, paths: Sequence[Path]) -> list[Any]:
    """Return each message's group; a missing value is null, one that is no scalar makes none."""
    if not paths:
        return [()] * len(records)

    def build() -> list[Any]:
        columns = [_group_values(records, path) for path in paths]
        return [None if MISSING in values else values for values in zip(*columns, strict=True)]

    return records.once(("groups", tuple(paths)), build)


def keys(records: Records, time_path: Path, slide: int, paths: Sequence[Path]) -> list[Any]:
    """Return each message's slide, counted from 1970, and group; ``None`` if it has not both."""

    def build() -> list[Any]:
        pairs = zip(times(records, time_path), groups(records, paths), strict=True)
        return [
            None if time is None or group is None else (int(time // slide), group)
            for time, group in pairs
        ]

    return records.once(("keys", time_path, slide, tuple(paths)), build)


def _group_values(records: Records, path: Path) -> list[Any]:
    return records.once(
        ("group values", path),
        lambda: [
            value
            if type(value) is str and len(value) <= MAX_GROUP_CHARACTERS
            else _group_value(value)
            for value in records.column(path)
        ],
    )


def _group_value(value: Any) -> Any:
    if value is MISSING:
        return None
    if value is True or value is False:
        return (value,)
    return _plain(value) if value is None or _is_number(value) else MISSING
