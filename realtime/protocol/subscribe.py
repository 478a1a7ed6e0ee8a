"""What a client asks to subscribe to, read from the ``data`` of its message. Pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from realtime.filters import Filter, compile_filters, derive_subscription_id
from realtime.protocol import SUBSCRIPTION_TYPES, ErrorCode, Position, ProtocolError
from realtime.protocol.options import Options, read_options

MAX_REWIND = 1000


class Request(NamedTuple):
    """What a client asks for: to go on after a position, or to have the newest few."""

    resume: Position | None = None
    rewind: int = 0


def read_request(resume: Any, rewind: Any) -> Request:
    """Read what a client sent as ``resume`` and ``rewind``. Raises ``ValueError``."""
    return Request(
        None if resume is None else _read_position(resume),
        0 if rewind is None else _read_count(rewind),
    )


def _read_position(resume: Any) -> Position:
    if not isinstance(resume, dict):
        raise ValueError("resume: expected an object with epoch and offset")
    epoch, offset = resume.get("epoch"), resume.get("offset")
    if not isinstance(epoch, str):
        raise ValueError("resume.epoch: expected a string")
    if type(offset) is not int or offset < 0:
        raise ValueError("resume.offset: expected an integer of 0 or more")
    return Position(epoch, offset)


def _read_count(rewind: Any) -> int:
    if type(rewind) is not int or not 0 <= rewind <= MAX_REWIND:
        raise ValueError(f"rewind: expected an integer from 0 to {MAX_REWIND}")
    return rewind


class Wanted(NamedTuple):
    """What a client asks to subscribe to: with its own filters, not yet those of its token."""

    type: str
    filters: Filter
    request: Request
    options: Options | None = None
    # The filters as the client wrote them, if it wants to know what they match.
    explained: dict[str, Any] | None = None


def derive_id(wanted: Wanted) -> str:
    """Return the id of a subscription without a chosen one: equal for equal subscriptions."""
    plain = derive_subscription_id(wanted.type, wanted.filters)
    if wanted.options is None:
        return plain
    return str(uuid.uuid5(uuid.UUID(plain), json.dumps(wanted.options.describe())))


def read_subscription(data: Mapping[str, Any]) -> Wanted:
    """Read the ``data`` of a ``subscribe`` message. Raises :class:`ProtocolError`."""
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in SUBSCRIPTION_TYPES:
        raise ProtocolError(
            ErrorCode.INVALID_SUBSCRIPTION,
            f"type: expected one of {', '.join(SUBSCRIPTION_TYPES)}",
        )
    try:
        filters = compile_filters(data.get("filters"))
        request = read_request(data.get("resume"), data.get("rewind"))
        explained = (data.get("filters") or {}) if _read_flag("explain", data) else None
        return Wanted(kind, filters, request, read_options(data), explained)
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, str(error)) from None


def _read_flag(name: str, data: Mapping[str, Any]) -> bool:
    flag = data.get(name)
    if flag is None or isinstance(flag, bool):
        return bool(flag)
    raise ValueError(f"{name}: expected true or false")
