"""The request to subscribe: how the ``data`` of a ``subscribe`` message is read. Pure.

Knows what a client may ask for; nothing of what it is allowed, which its grant says.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from realtime.filters import Filter, compile_filters, derive_subscription_id
from realtime.protocol import SUBSCRIPTION_TYPES, ErrorCode, Position, ProtocolError
from realtime.protocol.options import Options, read_options

MAX_REWIND = 1000


class StartFrom(NamedTuple):
    """Where a subscription starts: after a position, with the newest few messages, or now."""

    resume: Position | None = None
    rewind: int = 0


class SubscribeRequest(NamedTuple):
    """What a client asks to subscribe to, with its own filters and not those of its token."""

    type: str
    # The filters compiled, and as the client wrote them.
    filters: Filter
    raw_filters: dict[str, Any]
    options: Options | None = None
    start_from: StartFrom = StartFrom()
    # Whether it asks how many of the newest messages its filters match.
    wants_explanation: bool = False

    def derive_id(self) -> str:
        """Return the id of a subscription without a chosen one: equal for equal subscriptions."""
        plain = derive_subscription_id(self.type, self.filters)
        if self.options is None:
            return plain
        return str(uuid.uuid5(uuid.UUID(plain), json.dumps(self.options.describe())))


def invalid_type() -> ProtocolError:
    """Return the error for a subscription type that does not exist."""
    expected = ", ".join(SUBSCRIPTION_TYPES)
    return ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, f"type: expected one of {expected}")


def read_subscribe_request(data: Mapping[str, Any]) -> SubscribeRequest:
    """Read the ``data`` of a ``subscribe`` message. Raises :class:`ProtocolError`."""
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in SUBSCRIPTION_TYPES:
        raise invalid_type()
    raw_filters = data.get("filters")
    try:
        return SubscribeRequest(
            kind,
            compile_filters(raw_filters),
            raw_filters or {},
            read_options(data),
            read_start(data.get("resume"), data.get("rewind")),
            _read_flag("explain", data),
        )
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, str(error)) from None


def read_start(resume: Any, rewind: Any) -> StartFrom:
    """Read what a client sent as ``resume`` and ``rewind``. Raises ``ValueError``."""
    return StartFrom(
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


def _read_flag(name: str, data: Mapping[str, Any]) -> bool:
    flag = data.get(name)
    if flag is None or isinstance(flag, bool):
        return bool(flag)
    raise ValueError(f"{name}: expected true or false")
