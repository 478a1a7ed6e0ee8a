"""The access log: one line for each connection, when it has ended, in ``realtime.access``.

It has no other lines, and no secrets: a token is named by its public prefix. Knows how the line is
written, nothing of what happens.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec

logger = logging.getLogger("realtime.access")

# A value that needs no quotes.
_PLAIN = re.compile(r"[\w.:@/+-]+", re.ASCII)


class Line(dict[str, Any]):
    """The fields of a line, as the message of a log record.

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
    line = Line(message="connection closed", transport=transport, client_id=client_id)
    line |= {"code": code, "seconds": round(seconds, 3)}
    line |= {name: value for name, value in fields.items() if value is not None}
    logger.info(line)
