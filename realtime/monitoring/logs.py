"""The access log and the audit log, which name a token by its public prefix alone.

The access log has one line for each connection, when it has ended, in ``realtime.access``, and no
other lines. The audit log, in ``realtime.audit``, has one JSON object for each event, whatever the
format of other logs. Knows how lines are written, nothing of what happens.
"""

from __future__ import annotations

import logging
import re
import time
from enum import StrEnum
from typing import Any

import msgspec

from realtime.protocol import format_timestamp

_access = logging.getLogger("realtime.access")
_audit = logging.getLogger("realtime.audit")

# A value that needs no quotes.
_PLAIN = re.compile(r"[\w.:@/+-]+", re.ASCII)
# django.contrib.admin.models: ADDITION, CHANGE, DELETION.
_ACTIONS = {1: "added", 2: "changed", 3: "deleted"}


class Line(dict[str, Any]):
    """The fields of a line of the access log, as the message of a log record.

    python-json-logger writes a dict as fields of its own. Any other formatter, also that of a site
    with logging of its own, asks for the text: names and values, where no value can end the line
    or look like another field.
    """

    def __str__(self) -> str:
        fields = [f"{name}={_text(self[name])}" for name in self if name != "message"]
        return " ".join([self["message"], *fields])


def _text(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else msgspec.json.encode(text).decode()


def record_end(*, transport: str, client_id: str, code: int, seconds: float, **fields: Any) -> None:
    """Write the line of a connection that has ended; fields that are ``None`` are left out.

    *code* is the close code, 1005 or 1006 if there was none. Other fields: ``address``, ``holder``
    (whose rights it had), ``token`` (the credential's prefix), ``reason`` (why this server ended
    it), ``messages_received``, ``bytes_sent``, ``subscriptions`` (at the end).
    """
    head: dict[str, Any] = {
        "message": "connection closed",
        "transport": transport,
        "client_id": client_id,
    }
    head |= {"code": code, "seconds": round(seconds, 3)}
    _access.info(Line(head | _present(fields)))


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


class Event(StrEnum):
    """The events, and the fields of their lines besides ``time`` and ``event``, as far as known."""

    AUTHENTICATED = "authenticated"  # client_id, holder, token, address
    AUTH_FAILED = "auth_failed"  # client_id, token, address
    DENIED = "denied"  # client_id, holder, token, address, type
    ENDED = "ended"  # client_id, holder, token, address, reason
    LIMIT_REACHED = "limit_reached"  # client_id, holder, token, address, limit
    ADMIN_CHANGE = "admin_change"  # user, action, model, object, object_id, changes


def record(event: Event, **fields: Any) -> None:
    """Write a line of the audit log; fields that are ``None`` are left out."""
    if _audit.isEnabledFor(logging.INFO):
        line = {"time": format_timestamp(time.time()), "event": event, **_present(fields)}
        _audit.info("%s", msgspec.json.encode(line).decode())


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
