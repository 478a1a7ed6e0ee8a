"""A published message and the frames that carry it: encoded once for all who receive it. Pure.

A frame is a head, which is shared, and a tail with the subscription id::

    {"type":"data","data":{...},...        head: encoded once, and compressed once
    ,"subscription_id":"5f0e..."}          tail: the same for all with this id

A compressed frame keeps the tail readable, so that nothing is compressed for each client::

    header of the frame (RSV1 set) | compressed head: complete blocks, ending on a byte
    | header of a stored block: 60 bytes are 00 3C 00 C3 FF | the tail, as it is
    | 00, which begins the empty block whose other bytes permessage-deflate leaves out

Only the tail and the two lengths differ between clients, so ``tail.join`` makes the frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from realtime.filters import MISSING, Path, decode_or_none
from realtime.protocol import (
    STORED_END,
    Position,
    deflate,
    encode_data_head,
    format_timestamp,
    header,
    stored_block,
)

# Bytes from which a message is compressed: below, it costs more than it saves.
MIN_DEFLATED = 1024


class Encoded:
    """The head of a message: what clients receive up to the subscription id."""

    __slots__ = ("_deflated_head", "head")

    def __init__(self, head: bytes) -> None:
        self.head = head
        self._deflated_head = b""

    def around_tail(self, tail_length: int, deflated: bool) -> tuple[bytes, bytes]:
        """Return the bytes that go before and after a tail of *tail_length* to make a frame."""
        length = len(self.head) + tail_length
        if not deflated or length < MIN_DEFLATED:
            return header(length) + self.head, b""
        if not self._deflated_head:
            self._deflated_head = deflate(self.head)
        before = self._deflated_head + stored_block(tail_length)
        length = len(before) + tail_length + len(STORED_END)
        return header(length, deflated=True) + before, STORED_END


E = TypeVar("E", bound=Encoded)


class Message(Encoded):
    """A published message: its payload as JSON text, and what is made of it when needed."""

    __slots__ = ("_decoded", "number", "offset", "payload", "timestamp")

    def __init__(
        self, kind: str, payload: bytes, timestamp: float, position: Position | None = None
    ) -> None:
        self.payload = payload
        # Time of publishing, in seconds since 1970.
        self.timestamp = timestamp
        # Offset in the type's log, from 1 on; 0 if the message is not in the log.
        self.offset = 0 if position is None else position.offset
        # Its place among the messages that the hub has taken of the type, from 1 on; 0 before.
        self.number = 0
        super().__init__(encode_data_head(kind, payload, format_timestamp(timestamp), position))
        self._decoded: Any = MISSING

    def release(self) -> None:
        """Free the memory of what can be made anew."""
        self._decoded = MISSING
        self._deflated_head = b""

    @property
    def decoded(self) -> Any:
        """The payload as Python objects, or ``None``; decoded when first asked for."""
        if self._decoded is MISSING:
            self._decoded = decode_or_none(self.payload)
        return self._decoded


def frame_pieces(messages: Sequence[Encoded], tail_length: int, deflated: bool) -> list[bytes]:
    """Return the bytes before, between and after the tails: ``tail.join`` makes the frames."""
    pieces = []
    end = b""
    for message in messages:
        before, after = message.around_tail(tail_length, deflated)
        pieces.append(end + before)
        end = after
    pieces.append(end)
    return pieces


def cut(messages: list[E], most_bytes: int) -> Iterator[list[E]]:
    """Yield messages in pieces of at most so many bytes, but of at least one message."""
    piece: list[E] = []
    size = 0
    for message in messages:
        if piece and size + len(message.head) > most_bytes:
            yield piece
            piece, size = [], 0
        piece.append(message)
        size += len(message.head)
    if piece:
        yield piece


# The option ``fields``: the steps of wanted paths, nested; ``None`` is everything below: "a" and
# "b.c" are {"a": None, "b": {"c": None}}.
FieldTree = dict[str, Any]

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def field_tree(paths: Iterable[Path]) -> FieldTree:
    """Return paths as a tree. Where an object and a part of it are wanted, the object is."""
    tree: FieldTree = {}
    for path in sorted(paths, key=len):
        node: Any = tree
        for step in path[:-1]:
            node = node.setdefault(step, {})
            if node is None:
                break
        else:
            node[path[-1]] = None
    return tree


def project(payload: bytes, tree: FieldTree) -> bytes:
    """Return the wanted parts of a payload (JSON text), byte for byte as published.

    What cannot be decoded here has no parts, just as no filter matches it.
    """
    try:
        return msgspec.json.encode(_project(payload, tree))
    except (RecursionError, ValueError):
        return b"{}"


def _project(payload: bytes | msgspec.Raw, tree: FieldTree) -> dict[str, Any]:
    values = _decode_object(payload)
    parts: dict[str, Any] = {}
    for step, below in tree.items():
        value = values.get(step)
        if value is None:
            continue
        if below is None:
            parts[step] = value
        elif bytes(value).startswith(b"{") and (part := _project(value, below)):
            parts[step] = part
    return parts
