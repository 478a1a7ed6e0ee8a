"""A published message, and the frames that carry it: encoded once for all who receive it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from realtime.filters import MISSING
from realtime.protocol import Position, encode_data_head, format_timestamp
from realtime.protocol.frames import STORED_END, deflate, header, stored_block

# Bytes from which a message is compressed: below, it costs more than it saves.
MIN_DEFLATED = 1024


class Encoded:
    """What clients receive up to the subscription id, which differs between them."""

    __slots__ = ("_deflated_head", "head")

    def __init__(self, head: bytes) -> None:
        self.head = head
        self._deflated_head = b""

    def around_tail(self, tail_length: int, deflated: bool) -> tuple[bytes, bytes]:
        """Return what goes before and after a tail of so many bytes to make a frame."""
        length = len(self.head) + tail_length
        if not deflated or length < MIN_DEFLATED:
            return header(length) + self.head, b""
        if not self._deflated_head:
            self._deflated_head = deflate(self.head)
        before = self._deflated_head + stored_block(tail_length)
        length = len(before) + tail_length + len(STORED_END)
        return header(length, deflated=True) + before, STORED_END


class Message(Encoded):
    """A published message: its payload as JSON text, and the parts made of it when needed."""

    __slots__ = ("_decoded", "offset", "payload", "timestamp")

    def __init__(
        self, kind: str, payload: bytes, timestamp: float, position: Position | None = None
    ) -> None:
        self.payload = payload
        # Time of publishing, in seconds since 1970.
        self.timestamp = timestamp
        # Offset in the type's log; 0 if it is not there.
        self.offset = 0 if position is None else position.offset
        # The data message up to the subscription id, shared by all who receive it.
        super().__init__(encode_data_head(kind, payload, format_timestamp(timestamp), position))
        self._decoded: Any = MISSING

    def release(self) -> None:
        """Let go of what can be made anew."""
        self._decoded = MISSING
        self._deflated_head = b""

    @property
    def decoded(self) -> Any:
        """The payload as Python objects, decoded when first asked for."""
        if self._decoded is MISSING:
            try:
                self._decoded = msgspec.json.decode(self.payload)
            except (RecursionError, ValueError):
                self._decoded = None  # no filter finds a value in what cannot be read here
        return self._decoded


def frame_pieces(messages: Sequence[Encoded], tail_length: int, deflated: bool) -> list[bytes]:
    """Return what is between the tails of the messages' frames; ``tail.join`` makes the frames."""
    pieces = []
    end = b""
    for message in messages:
        before, after = message.around_tail(tail_length, deflated)
        pieces.append(end + before)
        end = after
    pieces.append(end)
    return pieces


def cut(messages: list[Message], most_bytes: int) -> Iterator[list[Message]]:
    """Cut messages into pieces of so many bytes, but of one message at least."""
    piece: list[Message] = []
    size = 0
    for message in messages:
        if piece and size + len(message.head) > most_bytes:
            yield piece
            piece, size = [], 0
        piece.append(message)
        size += len(message.head)
    if piece:
        yield piece
