"""The access log: one line at INFO for each connection, when it has ended, and no other.

In the logger ``realtime.access``. Knows how the line is written, nothing of what happens. Secrets
have no way in: a token is named by its public prefix.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec

logger = logging.getLogger("realtime.access")

# What needs no quotes in a line of names and values.
_PLAIN = re.compile(r"[\w.:@/+-]+", re.ASCII)


class Line(dict[str, Any]):
    """Fields, which the formatter for JSON writes as they are; as text, names and values.

    No value can end the line or look like another field.
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
    known = {name: value for name, value in fields.items() if value is not None}
    logger.info(
        Line(
            message="connection closed",
            transport=transport,
            client_id=client_id,
            code=code,
            seconds=round(seconds, 3),
            **known,
        )
    )
