"""The order of one type's messages: what has been handed on, what comes next, what is recent. Pure.

The channel layer may lose, repeat and reorder what it carries; offsets tell. Times are seconds
since 1970.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Items
from itertools import islice
from typing import TYPE_CHECKING

from realtime.protocol import Position

if TYPE_CHECKING:
    from realtime.hub.message import Message

# Bounds of what is kept at hand, so that a client that comes back need not read the log.
RECENT_MESSAGES = 1000
RECENT_BYTES = 512 * 1024


class Sequence:
    """Hands on each message of a log once and in the order of offsets."""

    def __init__(self, head: Position) -> None:
        self.epoch = head.epoch
        # The offset that comes next.
        self.next = head.offset + 1

    @property
    def position(self) -> Position:
        """The last message handed on."""
        return Position(self.epoch, self.next - 1)

    def take(self, first: Position, messages: Items[Message]) -> Items[Message] | None:
        """Return those of consecutive messages that are next; ``None`` if some before are missing.

        *first* is the position of the first. Those that were handed on before are left out.
        """
        if first.epoch != self.epoch or first.offset > self.next:
            return None
        new = messages[self.next - first.offset :]
        self.next += len(new)
        return new

    def is_missing(self, head: Position, since: int) -> bool:
        """Tell whether a log with this newest message has something else than was handed on.

        *since* is what :attr:`next` was when the log was asked.
        """
        return head.epoch != self.epoch or head.offset >= self.next or head.offset < since - 1


class Recent:
    """The newest messages of a log, without a gap, as far as they are kept at hand."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._bytes = 0
        # The offset after the last message.
        self._end = 1

    def extend(self, messages: Items[Message]) -> None:
        """Add consecutive messages."""
        self._end = messages[-1].offset + 1
        for message in messages:
            message.release()
            self._messages.append(message)
            self._bytes += len(message.head)
        while self._bytes > RECENT_BYTES or len(self._messages) > RECENT_MESSAGES:
            self._bytes -= len(self._messages.popleft().head)

    def restart(self, end: int) -> None:
        """Forget all; the offset *end* comes next."""
        self._messages.clear()
        self._bytes = 0
        self._end = end

    def after(self, offset: int, oldest: float, at_most: int) -> list[Message] | None:
        """Return the messages after *offset*; ``None`` if not all of them are at hand.

        Those published before *oldest* or beyond the newest *at_most* are retained no more.
        """
        wanted = self._end - 1 - offset
        if wanted > min(len(self._messages), at_most) or wanted < 0:
            return None
        start = len(self._messages) - wanted
        if wanted and self._messages[start].timestamp < oldest:
            return None
        return list(islice(self._messages, start, None))
