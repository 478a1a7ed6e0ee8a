"""One type's messages in order: as the group brings them, from the log where it does not.

Knows the log and the order of its offsets; nothing of the channel layer, nor of who receives. A
message comes late rather than never, and never twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from realtime.config import get_streaming_config
from realtime.hub.message import Message
from realtime.hub.ordering import RECENT_MESSAGES, Recent, Sequence
from realtime.log import Chunk, Log
from realtime.monitoring.tracing import TraceOrigin
from realtime.protocol import Position

# Beyond any offset: to read the head alone.
END = 2**53


class Batch(NamedTuple):
    """Messages of one group message; ``first`` is ``None`` if they are not in the log."""

    first: Position | None
    messages: list[Message]
    # Only where tracing is on.
    origin: TraceOrigin | None = None


class Lost(NamedTuple):
    """Offsets that are not delivered; ``last`` is ``None`` if nobody knows the last.

    Both are for messages that are in no log.
    """

    first: int | None
    last: int | None
    reason: str

    def how_many(self) -> int:
        """Return how many are known to be lost."""
        return 1 if self.first is None or self.last is None else self.last - self.first + 1


class Range(NamedTuple):
    """Consecutive messages of the log from the offset ``first``, whose newest is ``head``."""

    epoch: str
    head: int
    first: int
    messages: list[Message]


Deliver = Callable[[str, list[Message], list[TraceOrigin]], Awaitable[None]]
HandOn = Callable[[list[Message]], Awaitable[None]]
Tell = Callable[[str, Lost], None]
# Counts messages of a type that a group should have brought and the log did.
Count = Callable[[str, int], None]


class Feed:
    """What of a type has been delivered here, and what comes next."""

    def __init__(
        self, kind: str, log: Log, deliver: Deliver, tell: Tell, count: Count = lambda *_: None
    ) -> None:
        self.kind = kind
        # Up to here everything has been delivered to all who were active.
        self.position = Position("", 0)
        # Held while messages are delivered: who holds it sees no half-done fan-out.
        self.lock = asyncio.Lock()
        self._log = log
        self._deliver = deliver
        self._tell = tell
        self._count = count
        self._sequence = Sequence(self.position)
        self._recent = Recent()
        self._delivering = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Begin at the end of the log, with what is recent at hand. Raises ``Unavailable``."""
        newest = await self._log.read(self.kind, END)
        start = max(0, newest.head - RECENT_MESSAGES)
        self._sequence = Sequence(Position(newest.epoch, start))
        self._recent.restart(start + 1)
        await self._catch_up(self._remember)

    async def close(self) -> None:
        """Deliver nothing and tell nothing any more; return when nothing is being delivered.

        A look at the log may still be under way, and those who subscribe meanwhile are another
        feed's.
        """
        self._closed = True
        async with self._delivering:
            pass

    def is_missing(self, head: Position, since: int) -> bool:
        """Tell whether the log has what has not been delivered; see :class:`Sequence`."""
        return self._sequence.is_missing(head, since)

    @property
    def next(self) -> int:
        """The offset that is to come next."""
        return self._sequence.next

    async def take(self, batches: list[Batch]) -> None:
        """Deliver what a group has brought, in order, and what it should have brought before.

        Raises:
            Unavailable: something is missing and cannot be read now. It and what comes after
                it are left to :meth:`catch_up`, but for what is not in the log.
        """
        async with self.lock:
            ready: list[Message] = []
            origins: list[TraceOrigin] = []
            complete = True
            for batch in batches:
                if batch.first is None:
                    ready += batch.messages
                elif complete:
                    new = self._sequence.take(batch.first, batch.messages)
                    complete = new is not None
                    ready += new or ()
                    if new and batch.origin is not None:
                        origins.append(batch.origin)
            await self._hand_on(ready, origins)
            if not complete:  # all that a group brings is in the log before
                await self._catch_up(self._hand_on)

    async def catch_up(self) -> None:
        """Deliver what is in the log and has not been delivered. Raises ``Unavailable``."""
        async with self.lock:
            await self._catch_up(self._hand_on)

    async def _catch_up(self, hand_on: HandOn) -> None:
        while not self._closed and not await self._advance(hand_on):
            pass

    async def _advance(self, hand_on: HandOn) -> bool:
        """Read once from where delivery stands; tell whether that was all."""
        found = await self._read_log(self.next - 1)
        if self._closed:
            return True
        if found.epoch != self._sequence.epoch:
            self._skip(Lost(self.next, None, "epoch_changed"), Position(found.epoch, 1))
        elif found.head < self.next - 1:
            await self._log.renew(self.kind, self._sequence.position)
            return False
        else:
            if found.first > self.next:
                lost = Lost(self.next, found.first - 1, "trimmed")
                self._skip(lost, Position(found.epoch, found.first))
            self._sequence.take(Position(found.epoch, found.first), found.messages)
            if found.messages and hand_on == self._hand_on:
                self._count(self.kind, len(found.messages))
            await hand_on(found.messages)
        return self.next > found.head

    def _skip(self, lost: Lost, to: Position) -> None:
        """Say what is lost, and go on at another position."""
        self._sequence = Sequence(Position(to.epoch, to.offset - 1))
        self._recent.restart(to.offset)
        self.position = self._sequence.position
        self._tell(self.kind, lost)

    async def _hand_on(
        self, messages: list[Message], origins: list[TraceOrigin] | None = None
    ) -> None:
        try:
            async with self._delivering:
                if messages and not self._closed:
                    await self._deliver(self.kind, messages, origins or [])
        finally:
            await self._remember(messages)

    async def _remember(self, messages: list[Message]) -> None:
        """Keep at hand what has been delivered."""
        numbered = [message for message in messages if message.offset]
        if numbered:
            self._recent.extend(numbered)
        self.position = self._sequence.position

    async def read(self, after: int) -> Range:
        """Return messages after an offset, or as many as one read gives.

        Raises:
            Unavailable: they are not at hand, and the log does not answer.
        """
        at_hand = self.read_at_hand(after)
        return at_hand if at_hand is not None else await self._read_log(after)

    def read_at_hand(self, after: int) -> Range | None:
        """Return all delivered messages after an offset, if they are in memory."""
        config = get_streaming_config().websocket
        oldest = time.time() - config.history_ttl
        messages = self._recent.after(after, oldest, config.history_size)
        if messages is None:
            return None
        return Range(self.position.epoch, self.position.offset, after + 1, messages)

    async def _read_log(self, after: int) -> Range:
        chunk = await self._log.read(self.kind, after)
        return Range(chunk.epoch, chunk.head, chunk.first, self._messages(chunk))

    def _messages(self, chunk: Chunk) -> list[Message]:
        return [
            Message(self.kind, entry.body, entry.timestamp, Position(chunk.epoch, offset))
            for offset, entry in enumerate(chunk.entries, chunk.first)
        ]
