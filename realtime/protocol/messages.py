"""The wire contract: message types, error and close codes, parsing and encoding. Pure.

Knows JSON and the contract (docs/protocol.md), nothing of sockets, settings or subscriptions'
meaning. Everything a client sends goes through :func:`parse`; everything it receives is encoded
here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from math import isfinite
from typing import Any, NamedTuple

import msgspec

# Subscription type -> the key of the payload in a data message.
PAYLOAD_KEYS = {
    "events": "event",
    "metrics": "metrics",
    "alerts": "alert",
    "predictions": "prediction",
    "aggregations": "aggregation",
    "system_status": "status",
}
SUBSCRIPTION_TYPES = tuple(PAYLOAD_KEYS)

MAX_METADATA_BYTES = 1024
SUBSCRIPTION_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}\Z")


class Position(NamedTuple):
    """A place in a type's log: the message with this offset. Offset 0 is before the first."""

    epoch: str
    offset: int


class ErrorCode(StrEnum):
    """Codes of ``error`` messages; :data:`ERROR_TEXTS` has their exact texts."""

    RATE_LIMITED = "rate_limited"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_TYPE = "unknown_type"
    AUTH_REQUIRED = "auth_required"
    FORBIDDEN = "forbidden"
    INVALID_SUBSCRIPTION = "invalid_subscription"
    UNKNOWN_SUBSCRIPTION = "unknown_subscription"
    DUPLICATE_SUBSCRIPTION = "duplicate_subscription"
    TOO_MANY_SUBSCRIPTIONS = "too_many_subscriptions"
    DATA_LOST = "data_lost"
    RESTARTING = "restarting"
    UNAVAILABLE = "unavailable"


# The two that end with a colon are followed by what is wrong.
ERROR_TEXTS = {
    ErrorCode.RATE_LIMITED: "Rate limit exceeded",
    ErrorCode.INVALID_MESSAGE: "Invalid message format: ",
    ErrorCode.UNKNOWN_TYPE: "Unknown message type",
    ErrorCode.AUTH_REQUIRED: "Authentication required",
    ErrorCode.FORBIDDEN: "Not permitted",
    ErrorCode.INVALID_SUBSCRIPTION: "Invalid subscription: ",
    ErrorCode.UNKNOWN_SUBSCRIPTION: "Unknown subscription",
    ErrorCode.DUPLICATE_SUBSCRIPTION: "Duplicate subscription",
    ErrorCode.TOO_MANY_SUBSCRIPTIONS: "Too many subscriptions",
    ErrorCode.DATA_LOST: "Data lost",
    ErrorCode.RESTARTING: "Server restarting",
    ErrorCode.UNAVAILABLE: "Temporarily unavailable",
}


class CloseCode(IntEnum):
    """WebSocket close codes the server sends (RFC 6455, section 7.4, and the IANA registry)."""

    PROTOCOL_ERROR = 1002
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


class CloseReason(StrEnum):
    """The exact reasons sent with a close code."""

    ORIGIN = "origin not allowed"
    AUTH_TIMEOUT = "authentication timeout"
    AUTH_FAILED = "authentication failed"
    TOKEN_REVOKED = "token revoked"  # noqa: S105 - a reason, not a secret
    TOKEN_EXPIRED = "token expired"  # noqa: S105 - a reason, not a secret
    FLOODING = "flooding"
    DISCONNECTED = "disconnected by an administrator"
    CAPACITY = "server at capacity"
    TOKEN_CONNECTIONS = "token connection limit"  # noqa: S105 - a reason, not a secret
    ADDRESS_CONNECTIONS = "address connection limit"
    SLOW_CONSUMER = "slow consumer"
    RESTARTING = "server restarting"
    TOO_BIG = "message too big"
    INTERNAL = "internal error"


class ProtocolError(Exception):
    """What a client sent cannot be served; becomes the ``error`` message with this code.

    ``metadata`` is the client's own, when it could be read.
    """

    def __init__(
        self, code: ErrorCode, explanation: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(ERROR_TEXTS[code] + explanation)
        self.code = code
        self.details = details
        self.metadata: msgspec.Raw | None = None


@dataclass(slots=True)
class Command:
    """A message of a client, read. ``metadata`` is its JSON text, to be returned unchanged."""

    metadata: msgspec.Raw | None


@dataclass(slots=True)
class Auth(Command):
    """``token`` is ``None`` when it is missing or no string: that counts as a wrong one."""

    token: str | None = field(repr=False)


@dataclass(slots=True)
class Subscribe(Command):
    """``data`` is the message's; what is asked for in it is read later, once a client may ask."""

    data: dict[str, Any]
    subscription_id: str | None


@dataclass(slots=True)
class Unsubscribe(Command):
    """End the subscription with this id."""

    subscription_id: str


@dataclass(slots=True)
class Ping(Command):
    """Asks for a ``pong``."""


class _Envelope(msgspec.Struct):
    """Takes the metadata out of a message as it was written."""

    metadata: msgspec.Raw = msgspec.Raw()


_envelope = msgspec.json.Decoder(_Envelope)
_encoder = msgspec.json.Encoder()


def _invalid(explanation: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_MESSAGE, explanation)


def parse(text: str | bytes) -> Command:
    """Read one message of a client. Raises :class:`ProtocolError`, nothing else."""
    message = _decode(text)
    metadata = _read_metadata(text, message)
    try:
        return _read_command(message, metadata)
    except ProtocolError as error:
        error.metadata = metadata
        raise


def _decode(text: str | bytes) -> dict[str, Any]:
    if not text:
        raise _invalid("empty message")
    try:
        message = msgspec.json.decode(text)
    except RecursionError:
        raise _invalid("nested too deeply") from None
    except (msgspec.DecodeError, UnicodeError) as error:
        raise _invalid(f"not JSON ({error})") from None
    if not isinstance(message, dict):
        raise _invalid("expected a JSON object")
    return message


def _read_metadata(text: str | bytes, message: dict[str, Any]) -> msgspec.Raw | None:
    if message.get("metadata") is None:
        return None
    if not isinstance(message["metadata"], dict):
        raise _invalid("metadata: expected an object")
    raw = bytes(_envelope.decode(text).metadata)  # a copy: the view would keep all of the text
    if len(raw) > MAX_METADATA_BYTES:
        raise _invalid(f"metadata: larger than {MAX_METADATA_BYTES} bytes")
    return msgspec.Raw(raw)


def _read_command(message: dict[str, Any], metadata: msgspec.Raw | None) -> Command:
    kind = _read_field(message, "type", str)
    if kind is None:
        raise _invalid("type: required")
    data = _read_field(message, "data", dict)
    chosen_id = _read_field(message, "subscription_id", str)
    _read_field(message, "timestamp", str)
    if kind == "ping":
        return Ping(metadata)
    if kind == "auth":
        token = (data or {}).get("token")
        return Auth(metadata, token if isinstance(token, str) else None)
    if kind == "subscribe":
        return _read_subscribe(data, chosen_id, metadata)
    if kind == "unsubscribe":
        return _read_unsubscribe(data, chosen_id, metadata)
    raise ProtocolError(ErrorCode.UNKNOWN_TYPE, details={"type": kind[:256]})


def _read_field(message: dict[str, Any], name: str, expected: type) -> Any:
    value = message.get(name)
    if value is not None and not isinstance(value, expected):
        raise _invalid(f"{name}: expected {'an object' if expected is dict else 'a string'}")
    return value


def _read_subscribe(
    data: dict[str, Any] | None, chosen_id: str | None, metadata: msgspec.Raw | None
) -> Subscribe:
    if data is None:
        raise _invalid("data: required")
    if chosen_id is not None and not SUBSCRIPTION_ID.match(chosen_id):
        raise _invalid("subscription_id: expected 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    return Subscribe(metadata, data, chosen_id)


def _read_unsubscribe(
    data: dict[str, Any] | None, chosen_id: str | None, metadata: msgspec.Raw | None
) -> Unsubscribe:
    subscription_id = _read_field(data or {}, "subscription_id", str) or chosen_id
    if subscription_id is None:
        raise _invalid("data.subscription_id: required")
    return Unsubscribe(metadata, subscription_id)


def format_timestamp(seconds: float) -> str:
    """Write a time (seconds since 1970) as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def encode(
    kind: str,
    timestamp: float,
    data: dict[str, Any] | None = None,
    subscription_id: str | None = None,
    metadata: msgspec.Raw | None = None,
) -> bytes:
    """Encode a server message as JSON text in UTF-8; absent parts are left out."""
    message: dict[str, Any] = {"type": kind}
    if data is not None:
        message["data"] = data
    message["timestamp"] = format_timestamp(timestamp)
    if metadata is not None:
        message["metadata"] = metadata
    if subscription_id is not None:
        message["subscription_id"] = subscription_id
    return _encoder.encode(message)


def encode_error(
    error: ProtocolError, timestamp: float, subscription_id: str | None = None
) -> bytes:
    """Encode the ``error`` message for *error*, which may concern a subscription."""
    data: dict[str, Any] = {"error": str(error), "code": error.code}
    if error.details is not None:
        data["details"] = error.details
    return encode("error", timestamp, data, subscription_id, error.metadata)


_DATA_HEADS = {
    kind: b'{"type":"data","data":{"%b":' % key.encode() for kind, key in PAYLOAD_KEYS.items()
}
_DATA_MIDDLES = {
    kind: b',"subscription_type":"%b"},"timestamp":"' % kind.encode() for kind in PAYLOAD_KEYS
}
_NO_POSITION = '","metadata":{},"subscription_id":"'
_POSITION = '","metadata":{"epoch":"%s","offset":%d},"subscription_id":"'


def encode_data_head(
    kind: str, payload: bytes, timestamp: str, position: Position | None = None
) -> bytes:
    """Encode a ``data`` message up to its subscription id, which differs between clients.

    *payload* is JSON text, the epoch of *position* needs no escapes in JSON; what follows is
    :func:`encode_data_tail`.
    """
    end = timestamp + (_NO_POSITION if position is None else _POSITION % position)
    return b"".join((_DATA_HEADS[kind], payload, _DATA_MIDDLES[kind], end.encode()))


def encode_data_tail(subscription_id: str) -> bytes:
    """Encode the end of a ``data`` message, the same for each message of a subscription."""
    return subscription_id.encode() + b'"}'


def replace_payload(kind: str, head: bytes, payload: bytes, other: bytes) -> bytes:
    """Return the head of a ``data`` message with another payload in the place of its own."""
    start = len(_DATA_HEADS[kind])
    return head[:start] + other + head[start + len(payload) :]


_ENVELOPE = len(b'{"type":"data","data":')
_TYPES = {kind: len(b',"subscription_type":"%b"}' % kind.encode()) for kind in PAYLOAD_KEYS}
_BATCH_HEADS = {
    kind: b'{"type":"data_batch","data":{"subscription_type":"%b","messages":[' % kind.encode()
    for kind in PAYLOAD_KEYS
}
_SUBSCRIPTION_ID = b',"subscription_id":"'


def encode_batch_item(kind: str, head: bytes, payload: bytes) -> bytes:
    """Return what a ``data_batch`` holds of a message: payload, timestamp and metadata."""
    end = len(_DATA_HEADS[kind]) + len(payload)
    return b"%b%b}" % (head[_ENVELOPE:end], head[end + _TYPES[kind] : -len(_SUBSCRIPTION_ID)])


def encode_batch_head(kind: str, items: Iterable[bytes], timestamp: str) -> bytes:
    """Encode a ``data_batch`` message up to its subscription id, as :func:`encode_data_head`."""
    end = b']},"timestamp":"%b"' % timestamp.encode()
    return b"".join((_BATCH_HEADS[kind], b",".join(items), end, _SUBSCRIPTION_ID))


def encode_payload(payload: Any) -> bytes:
    """Encode what a publisher gave as JSON text.

    Raises:
        ValueError: it is no mapping, or holds what JSON cannot (such as NaN).
    """
    if not isinstance(payload, dict):
        raise ValueError(f"payload: expected an object, got {type(payload).__name__}")
    try:
        text = _encoder.encode(payload)
    except (TypeError, ValueError, RecursionError, OverflowError, msgspec.EncodeError) as error:
        raise ValueError(f"payload: not JSON ({error})") from None
    if b"null" in text and _holds_nan(payload):
        raise ValueError("payload: not JSON (NaN and infinite numbers have no JSON form)")
    return text


def _holds_nan(payload: Any) -> bool:
    # Not recursive: what could be encoded may be nested deeper than Python calls may be.
    waiting = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float) and not isfinite(value):
            return True
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend(value)
    return False
