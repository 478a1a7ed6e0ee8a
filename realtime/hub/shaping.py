"""Less is more: what a subscription's options ask for, and what they hold back until when. Pure.

Knows the options' rules (docs/protocol.md) and time as an argument; nothing of clients or timers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from realtime.filters import Path, lookup_key
from realtime.protocol.options import Options

# Values that one group holds back; with more it sends what it has.
MAX_VALUES = 10_000

# The steps of wanted paths as a tree; None is all that is there.
Tree = dict[str, Any]


# Fields

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def tree_of(paths: Iterable[Path]) -> Tree:
    """Return paths as a tree: whoever wants an object and a part of it wants the object."""
    tree: Tree = {}
    for path in sorted(paths, key=len):
        here: Any = tree
        for step in path[:-1]:
            here = here.setdefault(step, {})
            if here is None:
                break
        else:
            here[path[-1]] = None
    return tree


def project(payload: bytes, tree: Tree) -> bytes:
    """Return the wanted parts of a payload (JSON text), their values as they were written."""
    try:
        return msgspec.json.encode(_project(payload, tree))
    except (RecursionError, ValueError):
        return b"{}"  # nothing is found in what cannot be read here, as by filters


def _project(payload: bytes | msgspec.Raw, tree: Tree) -> dict[str, Any]:
    found = _object.decode(payload)
    parts: dict[str, Any] = {}
    for step, below in tree.items():
        value = found.get(step)
        if value is None:
            continue
        if below is None:
            parts[step] = value
        elif bytes(value).startswith(b"{") and (part := _project(value, below)):
            parts[step] = part
    return parts


# What is held back


class Holdable(Protocol):
    """A published message, as far as it matters here."""

    head: bytes
    offset: int

    @property
    def decoded(self) -> Any:
        """The payload as Python objects."""


M = TypeVar("M", bound=Holdable)


class Held(NamedTuple, Generic[M]):
    """A message and its number among those that its group has taken: 1, 2, 3, …"""

    number: int
    message: M


class Shaper(Generic[M]):
    """What a fan-out group holds back, first for its rate and then for a batch. Order is kept.

    Times are monotonic seconds.
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
        # How many messages were taken, so the number of the newest.
        self.taken = 0
        # Value at the conflated path -> its newest message, in the order of the messages.
        self._waiting: dict[Any, Held[M]] = {}
        self._waiting_bytes = 0
        # From when on what waits may go on.
        self._next = float("-inf")
        # What waits for others to leave with, until then.
        self._batch: list[Held[M]] = []
        self._batch_bytes = 0
        self._batch_due = 0.0
        # What has been released and not yet been written to all.
        self._sending: Sequence[Held[M]] = ()

    def take(self, message: M) -> None:
        """Take a message, which may supersede another."""
        self.taken += 1
        key = self._key(message)
        superseded = self._waiting.pop(key, None)
        if superseded is not None:
            self._waiting_bytes -= len(superseded.message.head)
        self._waiting[key] = Held(self.taken, message)
        self._waiting_bytes += len(message.head)

    def _key(self, message: M) -> Any:
        options = self._options
        if options.conflate is not None:
            return lookup_key(message.decoded, options.conflate)
        return None if options.supersedes else self.taken

    def release(self, now: float, room: int) -> list[Held[M]]:
        """Return what is to be sent now; :meth:`sent` says that it has been.

        More than :data:`MAX_VALUES` values or *room* bytes do not wait.
        """
        if self._waiting and (now >= self._next or self._is_crowded(room)):
            self._move(now)
        if self._batch and (now >= self._batch_due or self._batch_bytes > room):
            return self._hand_out()
        return []

    def _is_crowded(self, room: int) -> bool:
        # One value's newest message waits, however large, or the rate would not hold.
        values = len(self._waiting)
        return values > MAX_VALUES or (values > 1 and self._waiting_bytes > room)

    def flush(self, now: float) -> list[Held[M]]:
        """Return all that is held, however early."""
        if self._waiting:
            self._move(now)
        return self._hand_out()

    def _move(self, now: float) -> None:
        options = self._options
        if not self._batch:
            self._batch_due = now + (options.batch_ms or 0) / 1000
        self._batch += self._waiting.values()
        self._batch_bytes += self._waiting_bytes
        self._waiting = {}
        self._waiting_bytes = 0
        if options.max_rate is not None:
            self._next = now + 1 / options.max_rate

    def _hand_out(self) -> list[Held[M]]:
        released, self._batch, self._batch_bytes = self._batch, [], 0
        self._sending = released
        return released

    def sent(self) -> None:
        """Note that what was released has been written to all."""
        self._sending = ()

    @property
    def due(self) -> float | None:
        """When :meth:`release` has something next, if anything is held."""
        if self._waiting:
            return min(self._next, self._batch_due) if self._batch else self._next
        return self._batch_due if self._batch else None

    def held(self, since: int) -> list[M]:
        """Return what waits of the messages after a number."""
        waiting = (*self._batch, *self._waiting.values())
        return [message for number, message in waiting if number > since]

    def oldest(self, since: int) -> int | None:
        """Return the offset of the oldest message after a number that is not sent, if any."""
        for some in (self._sending, self._batch, self._waiting.values()):
            for number, message in some:
                if number > since and message.offset:
                    return message.offset
        return None


class Survivors:
    """The offsets of those of a row of messages that no newer one supersedes."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._newest: dict[Any, int] = {}
        self._kept: set[int] = set()

    def add(self, messages: Iterable[Holdable]) -> None:
        """Take the next messages of the row."""
        path = self._options.conflate
        for message in messages:
            key = None if path is None else lookup_key(message.decoded, path)
            self._newest[key] = message.offset
            if len(self._newest) > MAX_VALUES:
                self._keep()

    def _keep(self) -> None:
        self._kept.update(self._newest.values())
        self._newest = {}

    def offsets(self) -> set[int]:
        """Return the offsets of those that are left."""
        self._keep()
        return self._kept
