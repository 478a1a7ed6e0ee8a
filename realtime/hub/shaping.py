"""Rate limiting, conflation and batching of one group of subscriptions. A state machine. Pure.

The rules are in docs/protocol.md; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from realtime.filters import lookup_key
from realtime.hub.message import Message
from realtime.protocol.subscribe import Options

# Values of the conflated path that one group holds back; with more it sends what it has.
MAX_VALUES = 10_000


class Shaper:
    """Messages that a group holds back, in order, first for its rate and then for a batch::

        take() -> waiting (until the rate allows) -> batch (until batch_ms) -> sending -> sent()

    A waiting message may be superseded by a newer one; after that, none is left out. Times are
    monotonic seconds.
    """

    __slots__ = (
        "_batch",
        "_batch_bytes",
        "_batch_due",
        "_next",
        "_options",
        "_sending",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(self, options: Options) -> None:
        self._options = options
        # Value at the conflated path -> its newest message, in the order of the messages.
        self._waiting: dict[Any, Message] = {}
        self._waiting_bytes = 0
        # From when on the rate allows more.
        self._next = float("-inf")
        # The batch, its size, and when it is complete.
        self._batch: list[Message] = []
        self._batch_bytes = 0
        self._batch_due = 0.0
        # Released, and not yet written to all members.
        self._sending: list[Message] = []

    def take(self, message: Message) -> None:
        """Take a message, which may supersede another."""
        key = self._key(message)
        superseded = self._waiting.pop(key, None)
        if superseded is not None:
            self._waiting_bytes -= len(superseded.head)
        self._waiting[key] = message
        self._waiting_bytes += len(message.head)

    def _key(self, message: Message) -> Any:
        """Return what is equal for messages of which only the newest matters."""
        options = self._options
        if options.conflate is not None:
            return lookup_key(message.decoded, options.conflate)
        return None if options.supersedes else message.number

    def release(self, now: float, room: int) -> list[Message]:
        """Return the messages to be sent now; the caller owes :meth:`sent`, even if writing fails.

        More than :data:`MAX_VALUES` values, or than *room* bytes, are not held back.
        """
        # The newest message of a single value waits, however large, or the rate would not hold.
        values = len(self._waiting)
        is_crowded = values > MAX_VALUES or (values > 1 and self._waiting_bytes > room)
        if self._waiting and (now >= self._next or is_crowded):
            self._move_to_batch(now)
        if self._batch and (now >= self._batch_due or self._batch_bytes > room):
            return self._empty_batch()
        return []

    def flush(self, now: float) -> list[Message]:
        """Return all that is held, however early. The caller owes :meth:`sent`."""
        if self._waiting:
            self._move_to_batch(now)
        return self._empty_batch()

    def _move_to_batch(self, now: float) -> None:
        options = self._options
        if not self._batch:
            self._batch_due = now + (options.batch_ms or 0) / 1000
        self._batch += self._waiting.values()
        self._batch_bytes += self._waiting_bytes
        self._waiting = {}
        self._waiting_bytes = 0
        if options.max_rate is not None:
            self._next = now + 1 / options.max_rate

    def _empty_batch(self) -> list[Message]:
        self._sending, self._batch, self._batch_bytes = self._batch, [], 0
        return self._sending

    def sent(self) -> None:
        """Note that what was released last has been written."""
        self._sending = []

    @property
    def due(self) -> float | None:
        """The time at which :meth:`release` returns something next; ``None`` if nothing is held."""
        if self._waiting:
            return min(self._next, self._batch_due) if self._batch else self._next
        return self._batch_due if self._batch else None

    def held(self, after: int) -> Iterator[Message]:
        """Yield the messages after a number that are not written to all members, in order."""
        for message in (*self._sending, *self._batch, *self._waiting.values()):
            if message.number > after:
                yield message

    def oldest(self, after: int) -> int | None:
        """Return the offset of the oldest of these that is in the log, if any."""
        return next((message.offset for message in self.held(after) if message.offset), None)


class Survivors:
    """The offsets of those messages of a series that no newer one supersedes."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._newest: dict[Any, int] = {}
        self._offsets: set[int] = set()

    def add(self, messages: Iterable[Message]) -> None:
        """Take the next messages of the series."""
        path = self._options.conflate
        for message in messages:
            key = None if path is None else lookup_key(message.decoded, path)
            self._newest[key] = message.offset
            if len(self._newest) > MAX_VALUES:
                self._settle()

    def _settle(self) -> None:
        """Count the newest so far as surviving, as a group that holds too many does."""
        self._offsets.update(self._newest.values())
        self._newest = {}

    def offsets(self) -> set[int]:
        """Return the offsets of the messages that survive."""
        self._settle()
        return self._offsets
