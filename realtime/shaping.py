"""Less is more: what a subscription's options ask for, and what they hold back until when. Pure.

Knows the options' rules (docs/protocol.md) and time as an argument; nothing of clients or timers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from realtime.filters import MAX_PATH_CHARACTERS, MAX_STEPS, Path, lookup_key

# Messages per second.
MIN_RATE, MAX_RATE = 0.001, 1000
# Of `conflate` alone: how often per second the newest values leave.
CONFLATE_RATE = 1.0
MAX_BATCH_MS = 10_000
MAX_FIELDS = 64
# Values that one group holds back; with more it sends what it has.
MAX_VALUES = 10_000

# The steps of wanted paths as a tree; None is all that is there.
Tree = dict[str, Any]


class Options(NamedTuple):
    """The options of a subscription in one form: equal options are equal tuples."""

    max_rate: float | None = None
    conflate: Path | None = None
    batch_ms: int | None = None
    fields: tuple[Path, ...] | None = None
    drops: bool = False

    @property
    def supersedes(self) -> bool:
        """Whether a newer message may take the place of an older one."""
        return self.max_rate is not None

    def describe(self) -> dict[str, Any]:
        """Return them as a client gives them."""
        said = {
            "max_rate": self.max_rate,
            "conflate": None if self.conflate is None else ".".join(self.conflate),
            "batch_ms": self.batch_ms,
            "fields": None if self.fields is None else [".".join(path) for path in self.fields],
            "on_overflow": "drop" if self.drops else None,
        }
        return {name: value for name, value in said.items() if value is not None}


PLAIN = Options()


def read_options(data: Mapping[str, Any]) -> Options | None:
    """Read the options in the ``data`` of ``subscribe``; ``None`` for none. Raises ``ValueError``.

    null is as good as absent.
    """
    given = {name: data[name] for name in _READERS if data.get(name) is not None}
    if not given:
        return None
    read = {name: _READERS[name](value) for name, value in given.items()}
    if "conflate" in read:
        read.setdefault("max_rate", CONFLATE_RATE)
    drops = read.pop("on_overflow", False)
    options = Options(**read, drops=drops)
    return None if options == PLAIN else options


def _read_rate(value: Any) -> float:
    if type(value) not in (int, float) or not MIN_RATE <= value <= MAX_RATE:
        raise ValueError(f"max_rate: expected a number from {MIN_RATE} to {MAX_RATE}")
    return float(value)


def _read_batch(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_BATCH_MS:
        raise ValueError(f"batch_ms: expected an integer from 1 to {MAX_BATCH_MS}")
    return value


def _read_fields(value: Any) -> tuple[Path, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_FIELDS:
        raise ValueError(f"fields: expected an array of 1 to {MAX_FIELDS} paths")
    return tuple(sorted({_read_path("fields", path) for path in value}))


def _read_overflow(value: Any) -> bool:
    if value not in ("close", "drop"):
        raise ValueError('on_overflow: expected "close" or "drop"')
    return bool(value == "drop")


def _read_path(name: str, text: Any) -> Path:
    if not isinstance(text, str):
        raise ValueError(f"{name}: a path is not a string")
    if len(text) > MAX_PATH_CHARACTERS:
        raise ValueError(
            f"{name}: the path {text[:32]!r}... has more than {MAX_PATH_CHARACTERS} characters"
        )
    steps = tuple(text.split("."))
    if len(steps) > MAX_STEPS:
        raise ValueError(f"{name}: the path {text!r} has more than {MAX_STEPS} steps")
    if "" in steps:
        raise ValueError(f"{name}: the path {text!r} has an empty step")
    return steps


_READERS: dict[str, Callable[[Any], Any]] = {
    "max_rate": _read_rate,
    "conflate": lambda value: _read_path("conflate", value),
    "batch_ms": _read_batch,
    "fields": _read_fields,
    "on_overflow": _read_overflow,
}


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
