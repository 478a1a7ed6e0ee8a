"""What a log promises, and how its messages and positions are written; nothing of where they are.

Each subscription type has a log. Its messages are numbered 1, 2, 3 and so on without a gap: their
*offsets* are dense, so a reader that has message 7 and receives message 9 knows that exactly
message 8 is missing, and asks the log for it.

An offset alone does not identify a message. Suppose that a client has received up to offset 7 when
the server's memory is lost; the new log begins at offset 1, and has reached 9 when the client comes
back and asks for what follows 7. It would get 8 and 9 and never learn that it has missed 1 to 7. So
each log has a random *epoch*, a new one whenever it begins anew, and a position is both::

    before    epoch 3f9a    1 2 3 4 5 6 7          the client has seen 3f9a:7
    after     epoch b021    1 2 3 4 5 6 7 8 9      it is told that 3f9a is gone, and reads from 1
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec

from realtime.protocol import Position

# Messages and bytes of one read, about: a few milliseconds of work for server and reader.
READ_ENTRIES = 256
READ_BYTES = 1024 * 1024


class Entry(NamedTuple):
    """One message as it was appended; ``timestamp`` in seconds since 1970."""

    timestamp: float
    body: bytes


class Chunk(NamedTuple):
    """Consecutive entries of a log; ``head`` is the offset of its newest message.

    ``first`` is that of the first entry, ``head + 1`` if there is none. What is between the offset
    that was asked for and ``first`` is no longer retained.
    """

    epoch: str
    head: int
    first: int
    entries: list[Entry]


class Batch(NamedTuple):
    """Messages that are sent and stored as one piece.

    A log in Redis sends the group message ``before + POSITION + after + packed`` by itself, unless
    both are empty.
    """

    bodies: Sequence[bytes]
    packed: bytes
    before: bytes = b""
    after: bytes = b""


@dataclass(frozen=True)
class Append:
    """Messages to be appended together.

    ``once`` identifies the append: repeated within ``once_ttl`` seconds and in the same epoch, as
    after an answer that was lost, it appends nothing and returns the first attempt's position.
    """

    kind: str
    batches: Sequence[Batch]
    timestamp: float
    once: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    once_ttl: int = 30


class Log(Protocol):
    """The logs of all types. Methods may raise :class:`realtime.cluster.clients.Unavailable`."""

    def append(self, append: Append) -> Position:
        """Append and return the first message's position; from any thread."""

    async def aappend(self, append: Append) -> Position:
        """Append and return the first message's position."""

    async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
        """Return the retained messages after an offset, or the first of them.

        They are about :data:`READ_BYTES`, and *at_most* messages or :data:`READ_ENTRIES`.
        """

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Return the newest position of each type whose log answers; epoch "" if there is none."""

    async def lengths(self, kinds: Iterable[str]) -> dict[str, int]:
        """Return how many messages of each type are retained, if its log answers."""

    async def renew(self, kind: str, seen: Position) -> None:
        """Begin a new epoch if the log no longer has the message at *seen*.

        *seen* is a position that the log has given before. A server that was killed may have lost
        its last messages, and would give their offsets to others.
        """


def position_text(position: Position) -> str:
    """Write a position in a fixed width, as group messages carry it."""
    return f"{position.epoch}:{position.offset:020d}"


def read_position(text: str) -> Position:
    """Read what :func:`position_text` wrote."""
    epoch, _, offset = text.partition(":")
    return Position(epoch, int(offset))


# A placeholder as wide as any position, to be replaced by one.
NO_POSITION = position_text(Position("0" * 16, 0))


# Payloads as one piece, and back.
pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(list[bytes]).decode


def new_epoch() -> str:
    return secrets.token_hex(8)
