"""The order of one type's messages: what has been delivered, what is next, what is recent. Pure.

The channel layer may lose, repeat and reorder messages; their offsets show it, since each is the
one before plus 1. If messages 1 to 5 have been delivered and 8 arrives, 6 and 7 are missing; if 4
arrives, it has been delivered. A log that begins anew, because a server has lost its data, numbers
from 1 again in a new random epoch, whose messages are others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from realtime.hub.message import Message
from realtime.protocol import Position

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
        """Let consecutive messages pass, from *first* on; return those that had not passed.

        ``None`` if some before are missing, or if it is another epoch.
        """
        if first.epoch != self.epoch or first.offset > self.next:
            return None
        new = messages[self.next - first.offset :]
        self.next += len(new)
        return new

    def is_missing(self, head: Position, since: int) -> bool:
        """Tell whether a log whose newest message is *head* has other messages than have passed.

        *since* is what :attr:`next` was when the log was asked.
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
        """Return the messages after *offset*; ``None`` if not all are in memory, or retained.

        Retained are the newest *at_most*, published since *oldest* (seconds since 1970).
        """
        count = self._end - 1 - offset
        if count > min(len(self._messages), at_most) or count < 0:
            return None
        start = len(self._messages) - count
        if count and self._messages[start].timestamp < oldest:
            return None
        return list(islice(self._messages, start, None))
