"""The parts that the demo's messages share: a message, a flight's fields, a mean, a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from realtime.demo.records import Flight


class Message(NamedTuple):
    """One payload for one subscription type."""

    type: str
    payload: dict[str, Any]


def flight_fields(flight: Flight) -> dict[str, Any]:
    """Return what every message about a flight says; ``airport`` is where it left."""
    return {
        "airport": flight.origin,
        "dest": flight.dest,
        "carrier": flight.carrier,
        "flight": flight.flight,
    }


def mean(total: float, count: int, digits: int = 2) -> float | None:
    """Return a rounded mean, None of nothing."""
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return round(total / count, digits) + 0.0 if count else None


def iso(time: datetime) -> str:
    """Write a time as the files do: UTC, milliseconds, ``Z``."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
