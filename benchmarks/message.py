"""The event that every benchmark publishes: about 240 bytes of JSON, numbered and stamped."""

from __future__ import annotations

import time
from typing import Any

# Precedes the 19 digits of the time of publishing, however the rest of the JSON is spaced.
STAMP = b'"ns:'
STAMP_DIGITS = 19
# So many users take turns, unless a benchmark says otherwise.
USERS = 1000


def event(sequence: int, users: int = USERS, stamp: str = "") -> dict[str, Any]:
    """Return event number *sequence*; its length does not depend on the number.

    The stamp is the machine's real-time clock, with which the kernel marks what arrives.
    """
    return {
        "event_id": f"evt_{sequence:010d}",
        "event_type": "user_action",
        "user_id": user(sequence % users),
        "timestamp": "2026-01-01T00:00:00.000Z",
        "sent": stamp or f"ns:{time.time_ns():0{STAMP_DIGITS}d}",
        "payload": {"action": "purchase", "amount": 129.95, "currency": "EUR", "page": "/cart/pay"},
    }


def user(number: int) -> str:
    """Return the value by which filters tell events apart."""
    return f"user_{number:06d}"
