"""What the demo's messages share: a payload with its type, and how times are written."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from realtime.protocol import format_timestamp


class Message(NamedTuple):
    """One payload for one subscription type."""

    type: str
    payload: dict[str, Any]


def iso(time: datetime) -> str:
    """Write a time as the files do: UTC, milliseconds, ``Z``."""
    return format_timestamp(time.timestamp())
