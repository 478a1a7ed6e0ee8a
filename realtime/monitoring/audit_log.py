"""The audit log: who authenticated, who failed, what was denied, what administrators changed.

A line is a JSON object, in the logger ``realtime.audit``, whatever the format of other logs. It has
no secrets: a token is named by its public prefix.
"""

from __future__ import annotations

import logging
import time
from enum import StrEnum
from typing import Any

import msgspec

from realtime.protocol import format_timestamp

logger = logging.getLogger("realtime.audit")

# django.contrib.admin.models: ADDITION, CHANGE, DELETION.
_ACTIONS = {1: "added", 2: "changed", 3: "deleted"}


class Event(StrEnum):
    """The events, and the fields of their lines besides ``time`` and ``event``, as far as known."""

    AUTHENTICATED = "authenticated"  # client_id, holder, token, address
    AUTH_FAILED = "auth_failed"  # client_id, token, address
    DENIED = "denied"  # client_id, holder, token, address, type
    ENDED = "ended"  # client_id, holder, token, address, reason
    LIMIT_REACHED = "limit_reached"  # client_id, holder, token, address, limit
    ADMIN_CHANGE = "admin_change"  # user, action, model, object, object_id, changes


def record_admin_change(sender: Any, instance: Any, created: bool, **kwargs: Any) -> None:
    """Write an entry that the admin has just made in its own log, for any table."""
    if created:
        record(
            Event.ADMIN_CHANGE,
            user=instance.user.get_username(),
            action=_ACTIONS.get(instance.action_flag, str(instance.action_flag)),
            model=str(instance.content_type),
            object=instance.object_repr,
            object_id=instance.object_id,
            changes=instance.get_change_message() or None,
        )


def record(event: Event, **fields: Any) -> None:
    """Write one line; fields that are ``None`` are left out."""
    if logger.isEnabledFor(logging.INFO):
        line = {"time": format_timestamp(time.time()), "event": event, **fields}
        present = {name: value for name, value in line.items() if value is not None}
        logger.info("%s", msgspec.json.encode(present).decode())
