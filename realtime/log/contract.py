"""What a log promises, how its messages and positions are written, and the log in memory.

Each subscription type has a log. Its messages are numbered 1, 2, 3 and so on without a gap: their
*offsets* are dense, so a reader that has message 7 and receives message 9 knows that exactly
message 8 is missing, and asks the log for it.

An offset alone does not identify a message. Suppose that a client has received up to offset 7 when
the server's memory is lost; the new log begins at offset 1, and has reached 9 when the client comes
back and asks for what follows 7. It would get 8 and 9 and never learn that it has missed 1 to 7. So
each log has a random *epoch*, a new one whenever it begins anew, and a position is both::

    before    epoch 3f9a    1 2 3 4 5 6 7          the client has seen 3f9a:7
    after     epoch b021    1 2 3 4 5 6 7 8 9      it is told that 3f9a is gone, and reads from 1

A log that goes on at another server, after a failover, has a new epoch too, from the first message
on that the other server did not have. ``Chunk.earlier`` says where the epochs before it ended, so
that only those are told who have read something that is lost::

    before    epoch 3f9a    1 2 3 4 5 6 7          one client has seen 3f9a:4, another 3f9a:7
    after     epoch 3f9a    1 2 3 4 5  b021 6 7    the first goes on; the other is told, and reads 6
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from realtime.config import get_streaming_config
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
    that was asked for and ``first`` is no longer retained. ``time`` is the log's when it was read,
    in seconds since 1970; what is appended later has no earlier time. ``earlier`` has the last
    position of each epoch that this one goes on with.
    """

    epoch: str
    head: int
    first: int
    entries: list[Entry]
    time: float
    earlier: Sequence[Position] = ()

    def shared(self, position: Position) -> int | None:
        """Return the offset up to which this log has what a reader at *position* has read."""
        return shared(position, Position(self.epoch, self.head), self.earlier)


def shared(position: Position, head: Position, earlier: Sequence[Position]) -> int | None:
    """Return the offset up to which a log has what a reader at *position* has read.

    The log ends at *head*, and *earlier* is as in :class:`Chunk`. ``None``: it has no such epoch.
    """
    last = {end.epoch: end.offset for end in (*earlier, head)}
    if position.epoch not in last:
        return None
    return min(position.offset, last[position.epoch])


class Batch(NamedTuple):
    """Messages that are sent and stored as one piece.

    A log in Redis sends the group message by itself, unless these are empty::

        before + POSITION + between + TIME + after + packed
    """

    bodies: Sequence[bytes]
    packed: bytes
    before: bytes = b""
    between: bytes = b""
    after: bytes = b""


@dataclass(frozen=True)
class Append:
    """Messages to be appended together.

    ``once`` identifies the append: repeated within ``once_ttl`` seconds and in the same log, as
    after an answer that was lost, it appends nothing and returns what the first attempt returned.
    """

    kind: str
    batches: Sequence[Batch]
    once: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    once_ttl: int = 30


class Appended(NamedTuple):
    """The first message's position, and when it was appended by the log's clock (seconds)."""

    first: Position
    timestamp: float


def position_text(position: Position) -> str:
    """Write a position in a fixed width, as group messages carry it."""
    return f"{position.epoch}:{position.offset:020d}"


def read_position(text: str) -> Position:
    """Read what :func:`position_text` wrote."""
    epoch, _, offset = text.partition(":")
    return Position(epoch, int(offset))


def next_time(now: float, last: float) -> float:
    """Return the time of a message after one at *last*: not before it.

    But a clock that is put back by more than a minute was wrong before, and is right now.
    """
    return max(now, last) if last - now < 60 else now


# A placeholder as wide as any position, to be replaced by one.
NO_POSITION = position_text(Position("0" * 16, 0))

# Payloads as one piece, and back.
pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(list[bytes]).decode


def new_epoch() -> str:
    return secrets.token_hex(8)


class _Stream:
    """The log of one type in memory."""

    def __init__(self) -> None:
        self.epoch = new_epoch()
        self.head = 0
        # The newest entries; the last has the offset ``head``.
        self.entries: deque[Entry] = deque()
        self._last_time = 0.0

    def now(self) -> float:
        """Return the time of what is appended now; forget what is no longer retained."""
        self._last_time = now = next_time(time.time(), self._last_time)
        config, entries = get_streaming_config().websocket, self.entries
        expired = now - config.history_ttl
        while entries and (len(entries) > config.history_size or entries[0].timestamp < expired):
            entries.popleft()
        return now


class MemoryLog:
    """The logs of all types in one process.

    :class:`realtime.log.redis.RedisLog` has the same methods; there, each may raise
    :class:`realtime.cluster.clients.Unavailable`.
    """

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        # Type and ``once`` of an append -> what it returned and when to forget it.
        self._appended: dict[tuple[str, str], tuple[Appended, float]] = {}
        self._forget_at = 1000
        # Publishers may be in other threads than readers.
        self._lock = threading.Lock()

    def append(self, append: Append) -> Appended:
        """Append; from any thread."""
        key = append.kind, append.once
        with self._lock:
            stream = self._stream(append.kind)
            now = stream.now()
            before, until = self._appended.get(key, (None, 0.0))
            if before is not None and before.first.epoch == stream.epoch and until > now:
                return before
            # What is due is forgotten once there is twice as much as the last time left.
            if len(self._appended) >= self._forget_at:
                self._appended = {key: it for key, it in self._appended.items() if it[1] > now}
                self._forget_at = 2 * len(self._appended) + 1000
            appended = Appended(Position(stream.epoch, stream.head + 1), now)
            for batch in append.batches:
                stream.entries.extend(Entry(now, body) for body in batch.bodies)
                stream.head += len(batch.bodies)
            stream.now()
            self._appended[key] = appended, now + append.once_ttl
            return appended

    async def aappend(self, append: Append) -> Appended:
        """Append."""
        return self.append(append)

    async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
        """Return the retained messages after an offset, or the first of them.

        They are about :data:`READ_BYTES`, and *at_most* messages or :data:`READ_ENTRIES`.
        """
        with self._lock:
            stream = self._stream(kind)
            now = stream.now()
            oldest = stream.head - len(stream.entries) + 1
            first = min(max(after + 1, oldest), stream.head + 1)
            entries = []
            room = READ_BYTES
            for offset in range(first, min(first + (at_most or READ_ENTRIES), stream.head + 1)):
                if room <= 0:
                    break
                entries.append(stream.entries[offset - oldest])
                room -= len(entries[-1].body)
            return Chunk(stream.epoch, stream.head, first, entries, now)

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Return the newest position of each type whose log answers; epoch "" if there is none."""
        with self._lock:
            streams = {kind: self._stream(kind) for kind in kinds}
            return {kind: Position(stream.epoch, stream.head) for kind, stream in streams.items()}

    async def lengths(self, kinds: Iterable[str]) -> dict[str, int]:
        """Return how many messages of each type are retained, if its log answers."""
        with self._lock:
            streams = {kind: self._stream(kind) for kind in kinds}
            for stream in streams.values():
                stream.now()
            return {kind: len(stream.entries) for kind, stream in streams.items()}

    async def renew(self, kind: str, seen: Position) -> None:
        """Begin a new epoch if the log no longer has the message at *seen*.

        *seen* is a position that the log has given before. A server that was killed may have lost
        its last messages, and would give their offsets to others.
        """
        with self._lock:
            stream = self._stream(kind)
            if stream.epoch == seen.epoch and stream.head < seen.offset:
                self._streams[kind] = _Stream()

    def _stream(self, kind: str) -> _Stream:
        return self._streams.setdefault(kind, _Stream())
