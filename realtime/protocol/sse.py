"""Server-sent events: WebSocket frames as the text of an event stream (HTML, section 9.2). Pure."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from realtime.protocol import CloseCode, CloseReason, Position, split_frames

COMMENT = b":\n\n"
# The end of a data message with a position; see `realtime.protocol.encode_data_head`.
_METADATA = b'"metadata":'
_PLACE = re.compile(rb'\{"epoch":"([^"]*)","offset":(\d+)\},"subscription_id":"[^"]*"\}')
_NEWLINES = bytes.maketrans(b"\r\n", b"  ")


class _Data(msgspec.Struct):
    code: str = ""
    replayed: int = 0
    epoch: str = ""
    offset: int = 0


class _Message(msgspec.Struct):
    type: str
    data: _Data | None = None


_message = msgspec.json.Decoder(_Message)


def event_id(position: Position) -> bytes:
    """Return the field that says up to where a client has received."""
    return b"id: %s:%d\n" % (position.epoch.encode(), position.offset)


def parse_event_id(text: str) -> Position:
    """Read what a client sends as ``Last-Event-ID``. Raises ``ValueError``."""
    epoch, _, offset = text.rpartition(":")
    if not epoch or not (offset.isascii() and offset.isdigit()) or len(offset) > 18:
        raise ValueError("Last-Event-ID: expected EPOCH:OFFSET")
    return Position(epoch, int(offset))


def close_event(code: CloseCode, reason: CloseReason) -> bytes:
    """Return the last event of a stream: what a WebSocket's close frame says."""
    data = msgspec.json.encode({"code": int(code), "reason": reason.value})
    return b"event: close\ndata: %b\n\n" % data


@lru_cache(maxsize=1)
def events(frames: bytes) -> bytes:
    """Return the events of uncompressed WebSocket frames, made once for a fan-out group."""
    return b"".join(_event(payload) for payload in split_frames(frames))


def _event(payload: bytes) -> bytes:
    """Return the event of one message.

    ``data`` messages have no name, which is EventSource's ``message``; errors have their code,
    since ``error`` is EventSource's own; others have their type.
    """
    data = b"data: %b\n\n" % payload.translate(_NEWLINES)
    if payload.startswith(b'{"type":"data"'):
        place = _PLACE.fullmatch(payload, payload.rindex(_METADATA) + len(_METADATA))
        return b"id: %b:%b\n%b" % (*place.groups(), data) if place else data
    message = _message.decode(payload)
    content = message.data or _Data()
    name = content.code if message.type == "error" else message.type
    # If messages are replayed, they come before the position of ``subscribed``.
    has_position = message.type == "subscribed" and not content.replayed
    place_line = event_id(Position(content.epoch, content.offset)) if has_position else b""
    return b"event: %b\n%b%b" % (name.encode(), place_line, data)
