"""What one subscription receives before it is live: the messages since it was away, in order.

Waits for its client and for the log; live delivery to others goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from realtime.cluster.clients import Unavailable
from realtime.delivery.dispatcher import Dispatcher
from realtime.delivery.feed import Feed, Lost, Range
from realtime.delivery.transport import Transport
from realtime.hub.groups import Subscription
from realtime.hub.message import Message, cut
from realtime.hub.shaping import Survivors
from realtime.log.contract import READ_ENTRIES
from realtime.protocol import Position
from realtime.protocol.subscribe import StartFrom

logger = logging.getLogger(__name__)

# Bytes in one write, and of messages that are kept between counting and sending them.
PIECE_BYTES = 64 * 1024
KEPT_BYTES = 256 * 1024
# Seconds a client may take to read enough for the next piece.
PATIENCE = 10.0
BUFFER_LOOK_INTERVAL = 0.02
RETRY_INTERVAL = 1.0


class Replay:
    """One subscription's way from a position in the log to live delivery.

    First :meth:`plan`; then the client is told ``live_from``, ``recovered`` and ``replayed``; then
    :meth:`finish_at_once`, or if that is not possible :meth:`run`::

        offsets  10 ... 20 | 21 ... 30 | 31 ... 40 | 41 ... 55 |
                 sent      | _unsent   | not read  | published since: others have them
                           ^           ^           ^           ^
                   position = 20       |     live_from = 40    feed.position = 55
                                _read_until = 30

    ``live_from`` stays, the others move to the right. When ``position`` has come to
    ``feed.position`` the subscription is live. What is superseded is left out up to ``live_from``
    only.
    """

    def __init__(
        self, subscription: Subscription, outlet: Transport, feed: Feed, dispatcher: Dispatcher
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
        self._dispatcher = dispatcher
        # Messages that were read, and are to be sent next.
        self._unsent: list[Message] = []
        self._read_until = self.position.offset
        # Up to live_from, the offsets of the messages that no newer one supersedes; None if all are
        # to be sent. They hold for the filters of this group.
        self._survivors: set[int] | None = None
        self._group = subscription.group

    async def plan(self, start_from: StartFrom) -> None:
        """Find out what is to be replayed. Raises ``Unavailable``.

        A resume leaves out messages that newer ones superseded. A rewind gives history: with
        ``conflate`` the newest message of each value, else all messages, whatever the rate.
        """
        options = self.subscription.options
        if start_from.resume is not None:
            start = await self._find_resumed(start_from.resume)
            await self._count(start, Survivors(options) if options and options.supersedes else None)
        if start_from.rewind and not self.recovered:
            # "Newest" counts what is published by now, whether or not it has come to this process.
            with contextlib.suppress(Unavailable):
                await self._feed.catch_up()
            self.live_from = self._feed.position
            start = await self._find_rewound(start_from.rewind)
            await self._count(start, Survivors(options) if options and options.conflate else None)

    async def _find_resumed(self, resume: Position) -> int:
        if self._feed.shared(resume) != resume.offset:
            # The client may have been ahead of what has come to this process.
            await self._feed.catch_up()
            self.live_from = self._feed.position
        offset = self._feed.shared(resume)
        self.recovered = offset == resume.offset
        return offset or 0

    async def _find_rewound(self, count: int) -> int:
        """Return the offset after which *count* retained messages match, or all that do."""
        high = self.live_from.offset
        while high > 0:
            low = max(0, high - READ_ENTRIES)
            matching: list[int] = []
            oldest = None
            async for part in self._ranges(low, high):
                matching += (m.offset for m in self.subscription.select(part.messages))
                oldest = oldest or part.first
            if len(matching) >= count:
                return matching[-count] - 1
            if oldest != low + 1:  # nothing before it is retained
                return low
            count -= len(matching)
            high = low
        return 0

    async def _count(self, start: int, survivors: Survivors | None) -> None:
        """Count the messages to replay after an offset, and keep the first of them for sending.

        With *survivors* none are kept: only at the end it is certain which are superseded.
        """
        self.position = Position(self.live_from.epoch, start)
        self._unsent, self._read_until, self.replayed = [], start, 0
        room = KEPT_BYTES
        after = start
        async for part in self._ranges(start, self.live_from.offset):
            if part.first > after + 1:
                self.recovered = False
            after = part.first + len(part.messages) - 1
            matching = self.subscription.select(part.messages)
            self.replayed += len(matching)
            if survivors is not None:
                survivors.add(matching)
            elif room > 0:
                room -= _size(matching)
                self._unsent += matching
                self._read_until = after
        if survivors is not None:
            self._survivors = survivors.offsets()
            self.replayed = len(self._survivors)
        if not self.replayed:  # the client may take live_from for its position
            self.position, self._read_until = self.live_from, self.live_from.offset

    def _select(self, messages: list[Message]) -> list[Message]:
        matching = self.subscription.select(messages)
        live_from, survivors = self.live_from.offset, self._survivors
        if survivors is None or self.subscription.group is not self._group:
            return matching
        return [m for m in matching if m.offset > live_from or m.offset in survivors]

    async def _ranges(self, after: int, until: int) -> AsyncIterator[Range]:
        """Yield what is retained after one offset and until another; the last may be empty."""
        while after < until:
            part = await self._feed.read(after)
            if part.epoch != self.live_from.epoch:
                raise Unavailable("another log has begun")
            messages = _until(part.messages, until)
            first = messages[0].offset if messages else until + 1
            yield Range(part.epoch, part.head, first, messages)
            after = messages[-1].offset if messages else until
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Send all, until the client is live; one that does not read is closed."""
        while True:
            async with self._feed.lock:
                if self._finish():
                    return
            try:
                if not await self._send_next():
                    self._outlet.overflow()
                    return
            except Unavailable as error:
                logger.warning("replaying %s: %s", self.subscription.type, error)
                await asyncio.sleep(RETRY_INTERVAL)

    def finish_at_once(self) -> bool:
        """Send everything and go live, if that needs no waiting; tell whether it has."""
        return not self._feed.lock.locked() and self._finish()

    def _finish(self) -> bool:
        """Send what is left and go live, if it is in memory and the client has room for it.

        Call with the feed's lock held, or while nobody holds it. If False, nothing has changed.
        """
        recent = self._feed.read_recent(self._read_until)
        if recent is None or recent.epoch != self.position.epoch:
            return False
        messages = self._unsent + self._select(recent.messages)
        if messages and _size(messages) > self._room():
            return False
        self._write(messages)
        self._dispatcher.activate(self.subscription)
        return True

    def select_again(self) -> None:
        """Leave out of what is to be sent what the filters, which have changed, do not let pass."""
        self._unsent = self._select(self._unsent)

    async def _send_next(self) -> bool:
        """Send some of what comes next; tell whether the client has read enough."""
        if not self._unsent:
            await self._read_next()
        deadline = time.monotonic() + PATIENCE
        while self._unsent:
            # Anew after each pause, in which the filters may have changed.
            piece = next(cut(self._unsent, min(PIECE_BYTES, self._dispatcher.buffer_limit() // 4)))
            if not self._outlet.buffered_bytes() or _size(piece) <= self._room():
                self._write(piece)
                self.position = self.position._replace(offset=piece[-1].offset)
                del self._unsent[: len(piece)]
                deadline = time.monotonic() + PATIENCE
            elif time.monotonic() > deadline:
                return False
            else:
                await asyncio.sleep(BUFFER_LOOK_INTERVAL)
        self.position = self.position._replace(offset=self._read_until)
        return True

    async def _read_next(self) -> None:
        """Read what comes next, as far as it has been delivered to those who are live."""
        until = self._feed.position
        after = self._read_until
        part = await self._feed.read(after)
        if part.epoch != self.position.epoch:
            await self._follow(part.epoch)
            return
        messages = _until(part.messages, until.offset)
        first = messages[0].offset if messages else until.offset + 1
        if first > after + 1:
            self._dispatcher.tell(self.subscription, Lost(after + 1, first - 1, "trimmed"))
        self._unsent = self._select(messages)
        self._read_until = messages[-1].offset if messages else max(after, until.offset)

    async def _follow(self, epoch: str) -> None:
        """Go on with another epoch of the log, when the feed has come to it too."""
        if self._feed.position.epoch != epoch:
            await self._feed.catch_up()
        read = self.position._replace(offset=self._read_until)
        offset = self._feed.shared(read)
        if offset != read.offset:
            lost = Lost(self._read_until + 1, None, "epoch_changed")
            self._dispatcher.tell(self.subscription, lost)
            self._survivors = None
        self._read_until = offset or 0
        self.position = Position(self._feed.position.epoch, self._read_until)

    def _room(self) -> int:
        """Return how many bytes fit into half of the client's buffer; half is for live messages.

        An empty buffer takes one piece, however large.
        """
        waiting = self._outlet.buffered_bytes()
        return max(self._dispatcher.buffer_limit() // 2 - waiting, 1 if not waiting else 0)

    def _write(self, messages: list[Message]) -> None:
        if messages:
            frames = self.subscription.frames(messages)
            self._outlet.write(frames)
            self._dispatcher.count_replayed(self.subscription.type, len(messages), len(frames))


def _size(messages: list[Message]) -> int:
    return sum(len(message.head) for message in messages)


def _until(messages: list[Message], offset: int) -> list[Message]:
    if not messages or messages[-1].offset <= offset:
        return messages
    return messages[: max(0, offset - messages[0].offset + 1)]
