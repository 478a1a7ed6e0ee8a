"""What a log promises, and how what it keeps is written; nothing of where it is kept."""

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


class LogUnavailable(Exception):
    """The log does not answer, or there is none."""


class Entry(NamedTuple):
    """One message as it was appended; ``timestamp`` in seconds since 1970."""

    timestamp: float
    body: bytes


class Chunk(NamedTuple):
    """Consecutive entries of a log.

    ``head`` is the offset of the newest message. ``first`` is that of the first entry; what is
    missing before it is no longer retained. Without entries it is ``head + 1``.
    """

    epoch: str
    head: int
    first: int
    entries: list[Entry]


class Batch(NamedTuple):
    """Messages that travel and are kept as one piece.

    ``before`` and ``after`` are the group message around its position, up to ``packed``, for a
    log that can send it; else empty.
    """

    bodies: Sequence[bytes]
    packed: bytes
    before: bytes = b""
    after: bytes = b""


@dataclass(frozen=True)
class Append:
    """Messages to be appended together.

    ``once`` identifies them: within ``once_ttl`` seconds and one epoch the same again appends
    nothing and gives the first position. So an attempt whose answer was lost may be repeated; and
    if the log was lost with what it had confirmed, the new one gets it.
    """

    kind: str
    batches: Sequence[Batch]
    timestamp: float
    once: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    once_ttl: int = 30


class Log(Protocol):
    """The logs of all types. Every method raises :class:`LogUnavailable`."""

    def append(self, what: Append) -> Position:
        """Append and return the first message's position; from any thread."""

    async def aappend(self, what: Append) -> Position:
        """Append and return the first message's position."""

    async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
        """Return what is retained after an offset, or as much as one read gives.

        That is about :data:`READ_BYTES`, and *at_most* messages or :data:`READ_ENTRIES`.
        """

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Return the newest position of each type whose log answers; epoch "" if there is none."""

    async def lengths(self, kinds: Iterable[str]) -> dict[str, int]:
        """Return how many messages of each type are retained, if its log answers."""

    async def renew(self, kind: str, seen: Position) -> None:
        """Begin a new epoch if the log has lost the message at *seen*, which was there."""


def position_text(position: Position) -> str:
    """Write a position in a fixed width, as group messages carry it."""
    return f"{position.epoch}:{position.offset:020d}"


def read_position(text: str) -> Position:
    """Read what :func:`position_text` wrote."""
    epoch, _, offset = text.partition(":")
    return Position(epoch, int(offset))


# As wide as any position, to be replaced by one.
NO_POSITION = position_text(Position("0" * 16, 0))


def pack(bodies: Sequence[bytes]) -> bytes:
    """Make one piece of payloads."""
    return _packer.encode(bodies)


def unpack(packed: bytes) -> list[bytes]:
    """Return what :func:`pack` was given."""
    return _unpacker.decode(packed)


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(list[bytes])


def new_epoch() -> str:
    return secrets.token_hex(8)
