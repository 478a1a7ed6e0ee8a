"""The wire: subscription types, codes, the server's messages as JSON text, their frames. Pure.

A ``data`` message has two parts, since most of it is the same for all who receive it. The head is
made once per message, the tail is the end of each client's own copy::

    {"type":"data","data":{...},"timestamp":"...","metadata":{...},"subscription_id":"my-id"}
    |----------------------------------- head ---------------------------------------||-tail-|

A frame, too, is built once for all connections that receive the same message (RFC 6455, section 5;
RFC 7692 for compression).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
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
    """What a client sent cannot be served; becomes the ``error`` message with this code."""

    def __init__(
        self, code: ErrorCode, explanation: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(ERROR_TEXTS[code] + explanation)
        self.code = code
        self.details = details
        self.metadata: msgspec.Raw | None = None  # the client's own, when it could be read


# Messages

_encoder = msgspec.json.Encoder()


class Position(NamedTuple):
    """A place in a type's log: the message with this offset. Offset 0 is before the first."""

    epoch: str
    offset: int


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

    *payload* is JSON text; the epoch of *position* needs no escapes in JSON.
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
    """Encode what a publisher gave as JSON text. Raises ``ValueError``: NaN, or no mapping."""
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


# Frames

_TEXT = 0x81  # FIN and opcode 1
_TEXT_DEFLATED = 0xC1  # the same with RSV1, as permessage-deflate marks a compressed message


def header(length: int, deflated: bool = False) -> bytes:
    """Return the header of an unmasked, unfragmented text frame of *length* payload bytes."""
    first = _TEXT_DEFLATED if deflated else _TEXT
    if length < 126:
        return bytes((first, length))
    if length < 65_536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def text_frame(payload: bytes) -> bytes:
    """Return *payload* as one text frame."""
    return header(len(payload)) + payload


def split_frames(frames: bytes) -> Iterator[bytes]:
    """Yield the payload of each frame in *frames*, which :func:`text_frame` made."""
    position = 0
    while position < len(frames):
        length, start = frames[position + 1], position + 2
        if length == 126:
            length, start = int.from_bytes(frames[start : start + 2], "big"), start + 2
        elif length == 127:
            length, start = int.from_bytes(frames[start : start + 8], "big"), start + 8
        position = start + length
        yield frames[start:position]


def deflate(data: bytes) -> bytes:
    """Compress *data* as complete deflate blocks that end on a byte, to be followed by others."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)


def stored_block(length: int) -> bytes:
    """Return what precedes at most 65,535 bytes that go into a deflate stream as they are.

    So what differs between clients follows what was compressed once (RFC 1951, section 3.2.4).
    """
    return struct.pack("<BHH", 0, length, length ^ 0xFFFF)


# Ends a message after a stored block: the first byte of the empty block whose other four bytes
# permessage-deflate leaves out (RFC 7692, section 7.2.1).
STORED_END = b"\x00"
