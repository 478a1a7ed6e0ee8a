"""The query of an event stream: the subscription it asks for, and the credential it carries.

Knows the parameters of ``GET /api/stream/TYPE``; nothing of sessions.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

import msgspec

from realtime.auth import connection_tokens
from realtime.filters import parse_filter_options
from realtime.http.responses import read_bearer
from realtime.protocol import ErrorCode, ProtocolError
from realtime.protocol.sse import parse_event_id

MAX_PARAMETERS = 2000

# Parameter -> its values, in order. Where one value is expected, the last counts.
Query = dict[str, list[str]]


def read_query(query: bytes) -> Query:
    """Read a query string. Raises :class:`ProtocolError`."""
    try:
        return parse_qs(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, "too many parameters") from None


def read_data(kind: str, query: Query, headers: dict[bytes, str]) -> dict[str, Any]:
    """Return the ``data`` of a ``subscribe`` message for a stream, without a look at what it asks.

    Raises:
        ProtocolError: it cannot be read.
    """
    last_event_id = headers.get(b"last-event-id") or query.get("last_event_id", [""])[-1]
    try:
        return {
            "type": kind,
            "filters": _read_filters(query.get("filter", [])),
            "resume": parse_event_id(last_event_id)._asdict() if last_event_id else None,
            "rewind": _read_number(query.get("rewind")),
            "explain": _read_flag(query.get("explain")),
            **_read_options(query),
        }
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, str(error)) from None


def read_secret(query: Query, headers: dict[bytes, str]) -> str | None:
    """Return the bearer token, or that of the query, which only may be a short-lived one.

    Queries end up in logs and histories (RFC 6750, section 5.3).
    """
    secret = read_bearer(headers)
    if secret is not None or "token" not in query:
        return secret
    secret = query["token"][-1]
    if secret.startswith(connection_tokens.MARK) or secret.count(".") == 2:
        return secret
    raise ProtocolError(
        ErrorCode.INVALID_MESSAGE,
        "token: only connection tokens and JSON Web Tokens may be in the query; "
        "an access token goes into the Authorization header",
    )


def _read_filters(options: list[str]) -> Any:
    """Return the filters of ``filter`` parameters: ``path=value`` each, or one JSON object."""
    if len(options) == 1 and options[0].startswith("{"):
        try:
            return msgspec.json.decode(options[0])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ValueError(f"filter: not JSON ({error})") from None
    return parse_filter_options(options)


def _read_number(values: list[str] | None) -> int | None:
    if values is None:
        return None
    if not re.fullmatch("[0-9]{1,18}", values[-1]):
        raise ValueError("rewind: expected a number")
    return int(values[-1])


def _read_options(query: Query) -> dict[str, Any]:
    """Return the options as a ``subscribe`` message has them."""
    if "batch_ms" in query:
        raise ValueError("batch_ms: not in event streams, which have no frames")
    options: dict[str, Any] = {
        name: query[name][-1] for name in ("conflate", "on_overflow") if name in query
    }
    if "max_rate" in query:
        options["max_rate"] = text = query["max_rate"][-1]
        with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
            options["max_rate"] = msgspec.json.decode(text)  # else the reader of options refuses it
    if "fields" in query:
        options["fields"] = ",".join(query["fields"]).split(",")
    return options


def _read_flag(values: list[str] | None) -> bool:
    if values is None or values[-1] in ("0", "1"):
        return values is not None and values[-1] == "1"
    raise ValueError("explain: expected 0 or 1")
