"""Reads the time that a message carries: a number, or RFC 3339 text. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

# Numbers are milliseconds from here on and seconds below: as seconds this is the year 5138, as
# milliseconds 1973.
FIRST_MILLISECONDS = 10**11
# The years 1 to 9999, which a datetime can hold, in seconds since 1970.
EARLIEST, LATEST = -62_135_596_800, 253_402_300_799
# Of a text: all that RFC 3339 needs, with a fraction of many digits.
MAX_CHARACTERS = 64
_DAY = 86_400


def read_time(value: Any) -> float | None:
    """Return a time in seconds since 1970; ``None`` for what is no time between years 1 and 9999.

    A time is a number of seconds or milliseconds since 1970, or text as in RFC 3339, section 5.6:
    the letters ``T`` and ``Z`` may be small, and a space may stand for the ``T``. Text without an
    offset is UTC. A leap second, 23:59:60 UTC, is the first second of the next day.
    """
    if type(value) is str:
        return _read_text(value)
    if type(value) is not float and type(value) is not int:
        return None
    if FIRST_MILLISECONDS <= value <= LATEST * 1000:
        return value / 1000
    return float(value) if EARLIEST <= value < FIRST_MILLISECONDS else None


def _read_text(text: str) -> float | None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return _read_rare_text(text)
    if len(text) > MAX_CHARACTERS or text.isdigit():  # digits alone are some number, not a date
        return None
    seconds = (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).timestamp()
    return seconds if EARLIEST <= seconds <= LATEST else None


def _read_rare_text(text: str) -> float | None:
    """Read what RFC 3339 allows and :meth:`datetime.fromisoformat` does not."""
    if text[16:19] == ":60":
        seconds = _read_text(f"{text[:16]}:59{text[19:]}")
        if seconds is None or (seconds + 1) // 1 % _DAY or seconds + 1 > LATEST:
            return None
        return seconds + 1
    return _read_text(text.upper()) if text.endswith("z") else None
