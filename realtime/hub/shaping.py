"""Rate limiting, conflation and batching of one group of subscriptions. A state machine. Pure.

The rules are in docs/protocol.md; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from realtime.filters import lookup_key
from realtime.hub.message import Message
from realtime.protocol.subscribe import Options

# Values of the conflated path that one group holds back; with more it sends what it has.
MAX_VALUES = 10_000


class Held(NamedTuple):
    """A message and its number among those that its group has taken: 1, 2, 3, …"""

    number: int
    message: Message


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
        "taken",
    )

    def __init__(self, options: Options) -> None:
        self._options = options
        # How many messages were taken, which is the number of the newest.
        self.taken = 0
        # Value at the conflated path -> its newest message, in the order of the messages.
        self._waiting: dict[Any, Held] = {}
        self._waiting_bytes = 0
        # From when on the rate allows more.
        self._next = float("-inf")
        # The batch, its size, and when it is complete.
        self._batch: list[Held] = []
        self._batch_bytes = 0
        self._batch_due = 0.0
        # Released, and not yet written to all members.
        self._sending: list[Held] = []

    def take(self, message: Message) -> None:
        """Take a message, which may supersede another."""
        self.taken += 1
        key = self._key(message)
        superseded = self._waiting.pop(key, None)
        if superseded is not None:
            self._waiting_bytes -= len(superseded.message.head)
        self._waiting[key] = Held(self.taken, message)
        self._waiting_bytes += len(message.head)

    def _key(self, message: Message) -> Any:
        """Return what is equal for messages of which only the newest matters."""
        options = self._options
        if options.conflate is not None:
            return lookup_key(message.decoded, options.conflate)
        return None if options.supersedes else self.taken

    def release(self, now: float, room: int) -> list[Held]:
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

    def flush(self, now: float) -> list[Held]:
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

    def _empty_batch(self) -> list[Held]:
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

    def held(self, after: int) -> list[Message]:
        """Return the messages after a number that are held back."""
        held = (*self._batch, *self._waiting.values())
        return [message for number, message in held if number > after]

    def oldest(self, after: int) -> int | None:
        """Return the offset of the oldest message after a number that is not sent, if any."""
        for stage in (self._sending, self._batch, self._waiting.values()):
            for number, message in stage:
                if number > after and message.offset:
                    return message.offset
        return None


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
