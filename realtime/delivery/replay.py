"""What one subscription receives before it is live: the messages since it was away, in order.

Knows one subscription, its type's feed and its connection's buffer. Waits for that client and for
the log, and nobody waits for it: live delivery goes on meanwhile, and the subscription joins it
when it has come up to it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator

from realtime.delivery.feed import Feed, Lost, Range
from realtime.delivery.transport import Transport
from realtime.delivery.writer import Writer
from realtime.hub.groups import Subscription
from realtime.hub.message import Message, cut
from realtime.hub.shaping import Survivors
from realtime.log import READ_ENTRIES, LogUnavailable
from realtime.protocol import Position
from realtime.protocol.subscribe import StartFrom

logger = logging.getLogger(__name__)

# Bytes in one write, and of messages that are kept between counting and sending them.
PIECE_BYTES = 64 * 1024
HELD_BYTES = 256 * 1024
# Seconds a client may take to read enough for the next piece.
PATIENCE = 10.0
BUFFER_LOOK_INTERVAL = 0.02
RETRY_INTERVAL = 1.0


class Replay:
    """One subscription's way from a position in the log to live delivery."""

    def __init__(
        self,
        subscription: Subscription,
        outlet: Transport,
        feed: Feed,
        writer: Writer,
    ) -> None:
        self.subscription = subscription
        # Where replay ends and live delivery begins, as the client is told.
        self.live_from = feed.position
        # Up to here everything that matches has been sent.
        self.position = feed.position
        # Whether nothing is missing between the position asked for and the replayed messages.
        self.recovered = False
        self.replayed = 0
        self._outlet = outlet
        self._feed = feed
        self._writer = writer
        # The first messages to send, up to an offset; more is read when they have been sent.
        self._held: list[Message] = []
        self._held_until = self.position.offset
        # Of these filters' messages up to where live delivery begins, the offsets of those that no
        # newer one supersedes; None if all are sent.
        self._fan_out = subscription.fan_out
        self._surviving: set[int] | None = None

    # Before the client is told

    async def plan(self, start_from: StartFrom) -> None:
        """Find out what is to be replayed. Raises ``LogUnavailable``.

        A resume is what a subscription would have been sent, so without what has been superseded; a
        rewind is history, in which only a newer message of the same value supersedes.
        """
        options = self.subscription.options
        if start_from.resume is not None:
            start = await self._find_resumed(start_from.resume)
            await self._count(start, Survivors(options) if options and options.supersedes else None)
        if start_from.rewind and not self.recovered:
            start = await self._find_rewound(start_from.rewind)
            await self._count(start, Survivors(options) if options and options.conflate else None)

    async def _find_resumed(self, resume: Position) -> int:
        """Return the offset after which to replay."""
        if resume.epoch != self.live_from.epoch or resume.offset > self.live_from.offset:
            # The client may have been ahead of what has come to this process.
            await self._feed.catch_up()
            self.live_from = self._feed.position
        if resume.epoch != self.live_from.epoch:
            return 0
        self.recovered = resume.offset <= self.live_from.offset
        return min(resume.offset, self.live_from.offset)

    async def _find_rewound(self, wanted: int) -> int:
        """Return the offset after which so many retained messages match, or all that do."""
        high = self.live_from.offset
        while high > 0:
            low = max(0, high - READ_ENTRIES)
            matching: list[int] = []
            oldest = None
            async for found in self._ranges(low, high):
                matching += (m.offset for m in self.subscription.select(found.messages))
                oldest = oldest or found.first
            if len(matching) >= wanted:
                return matching[-wanted] - 1
            if oldest != low + 1:  # nothing before it is retained
                return low
            wanted -= len(matching)
            high = low
        return 0

    async def _count(self, start: int, survivors: Survivors | None) -> None:
        """Count the messages to replay after an offset, and hold the first of them.

        Which are superseded is known at the end only: then none are held.
        """
        self.position = Position(self.live_from.epoch, start)
        self._held, self._held_until, self.replayed = [], start, 0
        room = HELD_BYTES
        after = start
        async for found in self._ranges(start, self.live_from.offset):
            if found.first > after + 1:
                self.recovered = False
            after = found.first + len(found.messages) - 1
            matching = self.subscription.select(found.messages)
            self.replayed += len(matching)
            if survivors is not None:
                survivors.add(matching)
            elif room > 0:
                room -= _size(matching)
                self._held += matching
                self._held_until = after
        self._surviving = None if survivors is None else survivors.offsets()
        if self._surviving is not None:
            self.replayed = len(self._surviving)

    def _select(self, messages: list[Message]) -> list[Message]:
        """Return those of delivered messages that are to be sent."""
        found = self.subscription.select(messages)
        if self._surviving is None or self.subscription.fan_out is not self._fan_out:
            return found
        live_from, surviving = self.live_from.offset, self._surviving
        return [one for one in found if one.offset > live_from or one.offset in surviving]

    async def _ranges(self, after: int, until: int) -> AsyncIterator[Range]:
        """Yield what is retained after one offset and until another; at last an empty range if
        there is nothing up to the end."""
        while after < until:
            found = await self._feed.read(after)
            if found.epoch != self.live_from.epoch:
                raise LogUnavailable("another log has begun")
            messages = _until(found.messages, until)
            first = messages[0].offset if messages else until + 1
            yield Range(found.epoch, found.head, first, messages)
            after = messages[-1].offset if messages else until
            await asyncio.sleep(0)

    # After the client has been told

    async def run(self) -> None:
        """Send what is to be replayed and all that comes meanwhile, until it is live."""
        while True:
            async with self._feed.lock:
                if self.go_live():
                    return
            try:
                if not await self._send_next():
                    self._outlet.overflow()
                    return
            except LogUnavailable as error:
                logger.warning("replaying %s: %s", self.subscription.type, error)
                await asyncio.sleep(RETRY_INTERVAL)

    def is_quick(self) -> bool:
        """Tell whether :meth:`go_live` need not wait for a fan-out."""
        return not self._feed.lock.locked()

    def go_live(self) -> bool:
        """Send the rest and go live, if the rest is at hand and the client can take it.

        Needs the feed's lock, or that nobody has it.
        """
        found = self._feed.read_at_hand(self._held_until)
        if found is None or found.epoch != self.position.epoch:
            return False
        rest = self._held + self._select(found.messages)
        if rest and _size(rest) > self._room():
            return False
        self._write(rest)
        self.subscription.activate()
        return True

    async def _send_next(self) -> bool:
        """Send some of what comes next; tell whether the client has read enough for that."""
        if not self._held:
            await self._read_next()
        for piece in cut(self._held, min(PIECE_BYTES, self._writer.buffer_limit() // 4)):
            if not await self._wait_for_client(_size(piece)):
                return False
            self._write(piece)
            self.position = self.position._replace(offset=piece[-1].offset)
        self.position = self.position._replace(offset=self._held_until)
        self._held = []
        return True

    async def _read_next(self) -> None:
        """Hold what comes next, of what has been delivered to those who are live."""
        until = self._feed.position
        after = self._held_until
        found = await self._feed.read(after)
        if found.epoch != self.position.epoch:
            await self._follow(found.epoch)
            return
        messages = _until(found.messages, until.offset)
        first = messages[0].offset if messages else until.offset + 1
        if first > after + 1:
            self._writer.tell(self.subscription, Lost(after + 1, first - 1, "trimmed"))
        self._held = self._select(messages)
        self._held_until = messages[-1].offset if messages else max(after, until.offset)

    async def _follow(self, epoch: str) -> None:
        """Go on with another log, once the feed has found it too."""
        if self._feed.position.epoch != epoch:
            await self._feed.catch_up()
        self._writer.tell(self.subscription, Lost(self._held_until + 1, None, "epoch_changed"))
        self.position = Position(self._feed.position.epoch, 0)
        self._held_until = 0
        self._surviving = None

    def _room(self) -> int:
        """Return how many bytes the client's buffer takes, half of it left for live messages."""
        waiting = self._outlet.buffered_bytes()
        return max(self._writer.buffer_limit() // 2 - waiting, 1 if not waiting else 0)

    async def _wait_for_client(self, size: int) -> bool:
        """Wait until there is room for so many bytes; tell whether there was, in good time."""
        deadline = time.monotonic() + PATIENCE
        while self._outlet.buffered_bytes() and size > self._room():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(BUFFER_LOOK_INTERVAL)
        return True

    def _write(self, messages: list[Message]) -> None:
        if messages:
            frames = self.subscription.frames(messages)
            self._outlet.write(frames)
            self._writer.count_replayed(self.subscription.type, len(messages), len(frames))


def _size(messages: list[Message]) -> int:
    return sum(len(message.head) for message in messages)


def _until(messages: list[Message], offset: int) -> list[Message]:
    """Return the messages up to an offset."""
    if not messages or messages[-1].offset <= offset:
        return messages
    return messages[: max(0, offset - messages[0].offset + 1)]
