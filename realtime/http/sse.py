"""Server-sent events: what a session writes, as an event stream (HTML, section 9.2).

The hub makes WebSocket frames, since nearly all clients are WebSockets; here their payloads become
events. Knows text and its buffer; nothing of HTTP, sessions or subscriptions.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable

import msgspec

from realtime.protocol import CloseCode, CloseReason, Position
from realtime.protocol.frames import split_frames

# Bytes that leave in one write.
CHUNK = 64 * 1024
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
    """What of a message decides the form of its event."""

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
    said = msgspec.json.encode({"code": int(code), "reason": reason.value})
    return b"event: close\ndata: %b\n\n" % said


def events(frames: bytes) -> bytes:
    """Return the events of complete, uncompressed WebSocket frames."""
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
    found = message.data or _Data()
    name = found.code if message.type == "error" else message.type
    # Else what is replayed comes before that position.
    is_place = message.type == "subscribed" and not found.replayed
    place_line = event_id(Position(found.epoch, found.offset)) if is_place else b""
    return b"event: %b\n%b%b" % (name.encode(), place_line, data)


class _Last:
    """The frames that were last made into events: all members of a fan-out group share them."""

    frames: bytes = b""
    events: bytes = b""


def shared_events(frames: bytes) -> bytes:
    """Return the events of *frames*, made once for those who are given the same bytes in turn."""
    if frames is not _Last.frames:
        _Last.events = events(frames)
        _Last.frames = frames
    return _Last.events


class EventOutlet:
    """The way out of an event stream: a bounded buffer that the response is read from.

    It is the outlet of a session (:class:`realtime.delivery.transport.ConnectionOutlet`).
    """

    deflated = False
    on_lost: Callable[[], None] | None = None
    on_ended: Callable[[CloseReason], None] | None = None

    def __init__(self, max_buffered: Callable[[], int]) -> None:
        self._max_buffered = max_buffered
        self._pieces: deque[bytes] = deque()
        # Bytes in the pieces, and in the chunk that is being sent.
        self._buffered = 0
        self._being_sent = 0
        self._wake = asyncio.Event()
        self.bytes_sent = 0
        # With what the stream ends, once it does.
        self.closed: tuple[CloseCode, CloseReason] | None = None

    def write(self, frames: bytes) -> None:
        """Buffer the events of *frames*; a client that lets too much pile up is closed.

        One that has read all before may always have one more write, however large.
        """
        if self.closed is not None:
            return
        piece = shared_events(frames)
        waiting = self.buffered_bytes()
        if waiting and waiting + len(piece) > self._max_buffered():
            self.overflow()
            return
        self._append(piece)

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._buffered += len(piece)
        self.bytes_sent += len(piece)
        self._wake.set()

    def buffered_bytes(self) -> int:
        """Return how many bytes wait because the client does not read."""
        return self._buffered + self._being_sent

    def overflow(self) -> None:
        """Close a client that does not read what it is sent."""
        self.close(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)
        if self.on_ended is not None:
            self.on_ended(CloseReason.SLOW_CONSUMER)

    def trust(self) -> None:
        """A request has its bounds from the HTTP server."""

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """End the stream after what is buffered. What is written later is dropped."""
        if self.closed is None:
            self.closed = code, reason
            self._append(close_event(code, reason))

    async def read(self, seconds: float) -> bytes | None:
        """Return what is to be sent next, empty after so many seconds without anything.

        ``None`` is the end. To read again says that what was returned before has been sent.
        """
        self._being_sent = 0
        if not self._pieces:
            if self.closed is not None:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return b""
        return self._take()

    def _take(self) -> bytes:
        taken = [self._pieces.popleft()]
        size = len(taken[0])
        while self._pieces and size + len(self._pieces[0]) <= CHUNK:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        self._buffered -= size
        self._being_sent = size
        return b"".join(taken)
