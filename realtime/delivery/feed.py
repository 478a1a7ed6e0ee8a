"""One type's messages in order: as the channel layer brings them, from the log where it does not.

A message comes late rather than never, and never twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from realtime.config import get_streaming_config
from realtime.hub.message import Message
from realtime.hub.ordering import RECENT_MESSAGES, RecentMessages, Sequencer
from realtime.log import Log
from realtime.log.contract import shared
from realtime.monitoring.tracing import TraceOrigin
from realtime.protocol import Position

# Beyond any offset: to read the head alone.
END = 2**53


class ReceivedBatch(NamedTuple):
    """Messages of one group message; ``first`` is ``None`` if they are not in the log."""

    first: Position | None
    messages: list[Message]
    # Only where tracing is on.
    origin: TraceOrigin | None = None


class Lost(NamedTuple):
    """Offsets that are not delivered: ``last`` is ``None`` if unknown, both if in no log."""

    first: int | None
    last: int | None
    reason: str

    def how_many(self) -> int:
        return 1 if self.first is None or self.last is None else self.last - self.first + 1


class Range(NamedTuple):
    """Consecutive messages from the offset ``first`` on, of a log whose newest is ``head``.

    ``earlier`` is as in :class:`~realtime.log.contract.Chunk`.
    """

    epoch: str
    head: int
    first: int
    messages: list[Message]
    earlier: Sequence[Position] = ()


class FeedHandler(Protocol):
    """What receives the messages of feeds. Each method gets the subscription type first."""

    async def deliver(self, kind: str, messages: list[Message], origins: list[TraceOrigin]) -> None:
        """Deliver the next messages, of which there is at least one, to all who are live."""

    def tell_lost(self, kind: str, lost: Lost) -> None:
        """Tell all who are live which messages will not be delivered."""

    def count_repaired(self, kind: str, count: int) -> None:
        """Count messages that the group should have brought and that the log had."""


class Feed:
    """Which messages of a type have been delivered here, and which come next::

        offsets  ... 40 | 41 .... 50 | 51 ...... 52 | 53      | 54 ......... 60
                        | in memory  | in delivery  | missing | from the group, or in the log only
                                     ^              ^                         ^
                              position = 50     next = 53            head of the log = 60

    Messages behind a hole are not kept: they are read from the log together with the missing ones.
    """

    def __init__(self, kind: str, log: Log, handler: FeedHandler) -> None:
        self.kind = kind
        # Up to here everything has been delivered to all who were live.
        self.position = Position("", 0)
        # Held while messages are delivered: who holds it sees no half-done fan-out.
        self.lock = asyncio.Lock()
        self._log = log
        self._handler = handler
        self._sequencer = Sequencer(self.position)
        # Where the epochs before this one ended, and how far the log's clock is ahead of the
        # monotonic one of this process.
        self._earlier: Sequence[Position] = ()
        self._clock_lead = 0.0
        self._recent = RecentMessages()
        self._delivering = asyncio.Lock()
        self._is_closed = False

    async def start(self) -> None:
        """Begin at the end of the log, its recent messages in memory. Raises ``Unavailable``."""
        newest = await self._log.read(self.kind, END)
        self._go_to(Position(newest.epoch, max(0, newest.head - RECENT_MESSAGES)))
        while True:
            part = await self._read_log(self.next - 1)
            if part.epoch != self._sequencer.epoch or part.first > self.next:
                self._go_to(Position(part.epoch, part.first - 1))
            self._earlier = part.earlier
            self._remember(self._sequencer.take(Position(part.epoch, part.first), part.messages))
            if self.next > part.head:
                return

    async def close(self) -> None:
        """Deliver and tell nothing any more; return when nothing is being delivered."""
        self._is_closed = True
        async with self._delivering:
            pass

    def is_missing(self, head: Position, since: int) -> bool:
        return self._sequencer.is_missing(head, since)

    @property
    def next(self) -> int:
        return self._sequencer.next

    async def take(self, batches: list[ReceivedBatch]) -> None:
        """Deliver what a group has brought, in order, and what it should have brought before.

        Raises ``Unavailable`` if missing messages cannot be read now: they, and those after them,
        are left to :meth:`catch_up`; messages that are not in the log are delivered.
        """
        async with self.lock:
            ready: list[Message] = []
            origins: list[TraceOrigin] = []
            is_complete = True
            for batch in batches:
                if batch.first is None:
                    ready += batch.messages
                elif is_complete:
                    new = self._sequencer.take(batch.first, batch.messages)
                    is_complete = new is not None
                    ready += new or ()
                    if new and batch.origin is not None:
                        origins.append(batch.origin)
            await self._deliver(ready, origins)
            if not is_complete:
                await self._catch_up()

    async def catch_up(self) -> None:
        """Deliver what is in the log and has not been delivered. Raises ``Unavailable``."""
        async with self.lock:
            await self._catch_up()

    async def _catch_up(self) -> None:
        """Call with ``lock`` held."""
        while not self._is_closed and not await self._advance():
            pass

    async def _advance(self) -> bool:
        """Read the log once from where delivery stands; tell whether that was its end."""
        part = await self._read_log(self.next - 1)
        if self._is_closed:
            return True
        if part.epoch != self._sequencer.epoch:
            self._follow(part)
            return False
        if part.head < self.next - 1:  # the log has lost its newest messages
            await self._log.renew(self.kind, self._sequencer.position)
            return False
        if part.first > self.next:
            last = part.first - 1
            self._skip(Lost(self.next, last, "trimmed"), Position(part.epoch, last))
        self._sequencer.take(Position(part.epoch, part.first), part.messages)
        if part.messages:
            self._handler.count_repaired(self.kind, len(part.messages))
        await self._deliver(part.messages)
        return self.next > part.head

    def _follow(self, part: Range) -> None:
        """Go on with another epoch, from where it has other messages than have been delivered."""
        self._earlier = part.earlier
        position = self._sequencer.position
        offset = shared(position, Position(part.epoch, part.head), part.earlier)
        if offset == position.offset:
            self._sequencer = Sequencer(Position(part.epoch, offset))
            self.position = self._sequencer.position
        else:
            self._skip(Lost(self.next, None, "epoch_changed"), Position(part.epoch, offset or 0))

    def shared(self, position: Position) -> int | None:
        """Return the offset up to which this log has what a reader at *position* has read."""
        return shared(position, self.position, self._earlier)

    def _skip(self, lost: Lost, position: Position) -> None:
        self._go_to(position)
        self._handler.tell_lost(self.kind, lost)

    def _go_to(self, position: Position) -> None:
        self._sequencer = Sequencer(position)
        self._recent.restart(position.offset + 1)
        self.position = position

    async def _deliver(
        self, messages: list[Message], origins: list[TraceOrigin] | None = None
    ) -> None:
        """Deliver messages. If that fails they count as delivered, so that others go on."""
        try:
            async with self._delivering:
                if messages and not self._is_closed:
                    await self._handler.deliver(self.kind, messages, origins or [])
        finally:
            self._remember(messages)

    def _remember(self, messages: Sequence[Message] | None) -> None:
        numbered = [message for message in messages or () if message.offset]
        if numbered:
            self._recent.extend(numbered)
        self.position = self._sequencer.position

    async def read(self, after: int) -> Range:
        """Return messages after an offset, or as many of them as one read gives.

        Raises ``Unavailable``: they are not in memory, and the log does not answer.
        """
        recent = self.read_recent(after)
        return recent if recent is not None else await self._read_log(after)

    def read_recent(self, after: int) -> Range | None:
        """Return all delivered messages after an offset, if they are in memory."""
        config = get_streaming_config().websocket
        oldest = time.monotonic() + self._clock_lead - config.history_ttl
        messages = self._recent.after(after, oldest, config.history_size)
        if messages is None:
            return None
        return Range(self.position.epoch, self.position.offset, after + 1, messages)

    async def _read_log(self, after: int) -> Range:
        chunk = await self._log.read(self.kind, after)
        self._clock_lead = chunk.time - time.monotonic()
        messages = [
            Message(self.kind, entry.body, entry.timestamp, Position(chunk.epoch, offset))
            for offset, entry in enumerate(chunk.entries, chunk.first)
        ]
        return Range(chunk.epoch, chunk.head, chunk.first, messages, chunk.earlier)
