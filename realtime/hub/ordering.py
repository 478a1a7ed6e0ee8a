"""The order of one type's messages: what has been delivered, what is next, what is recent. Pure.

The channel layer may lose, repeat and reorder messages; their offsets show it. Offsets are dense:
each message of a log has the offset of the one before plus 1. So if messages 1 to 5 have been
delivered and 8 arrives, it is certain that 6 and 7 are missing and where in the log they are. If
4 arrives, it is certain that it has been delivered.

Offsets count within one epoch. A log that begins anew, because a server has lost its data, numbers
from 1 again but has a new random epoch: message 6 of epoch "a" and message 6 of epoch "b" are two
messages, and who has had everything up to the first has had nothing of the other log.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from realtime.protocol import Position

if TYPE_CHECKING:
    from realtime.hub.message import Message

# Bounds of what is kept in memory, so that the log need not be read for a client that comes back.
RECENT_MESSAGES = 1000
RECENT_BYTES = 512 * 1024


class Sequencer:
    """Lets each message of a log pass once, in the order of offsets."""

    def __init__(self, head: Position) -> None:
        self.epoch = head.epoch
        # The offset that comes next.
        self.next = head.offset + 1

    @property
    def position(self) -> Position:
        """The last message that has passed."""
        return Position(self.epoch, self.next - 1)

    def take(self, first: Position, messages: Sequence[Message]) -> Sequence[Message] | None:
        """Return those of consecutive messages that have not passed before; now they have.

        *first* is the position of the first of *messages*. ``None`` if some before are missing, or
        if it is another epoch.
        """
        if first.epoch != self.epoch or first.offset > self.next:
            return None
        new = messages[self.next - first.offset :]
        self.next += len(new)
        return new

    def is_missing(self, head: Position, since: int) -> bool:
        """Tell whether a log whose newest message is *head* has other messages than have passed.

        *since* is the value of :attr:`next` when the log was asked: what has passed since then
        the answer need not have.
        """
        return head.epoch != self.epoch or head.offset >= self.next or head.offset < since - 1


class RecentMessages:
    """The newest messages of a log, without a gap, as far as they are kept in memory."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._bytes = 0
        # The offset after the last message.
        self._end = 1

    def extend(self, messages: Sequence[Message]) -> None:
        """Add consecutive messages."""
        self._end = messages[-1].offset + 1
        for message in messages:
            message.release()
            self._messages.append(message)
            self._bytes += len(message.head)
        while self._bytes > RECENT_BYTES or len(self._messages) > RECENT_MESSAGES:
            self._bytes -= len(self._messages.popleft().head)

    def restart(self, end: int) -> None:
        """Forget all messages; the offset *end* comes next."""
        self._messages.clear()
        self._bytes = 0
        self._end = end

    def after(self, offset: int, oldest: float, at_most: int) -> list[Message] | None:
        """Return the messages after *offset*; ``None`` if not all of them are in memory.

        Also ``None`` if some were published before *oldest* (seconds since 1970) or are not among
        the newest *at_most*: the log retains these no more.
        """
        count = self._end - 1 - offset
        if count > min(len(self._messages), at_most) or count < 0:
            return None
        start = len(self._messages) - count
        if count and self._messages[start].timestamp < oldest:
            return None
        return list(islice(self._messages, start, None))
