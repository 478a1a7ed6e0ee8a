"""What a processor is: messages in, state and messages out. Pure.

A processor never waits and asks no clock; one that runs code of others is a
:class:`WaitingProcessor`. What it has read up to, what it keeps and what it publishes are saved in
one step, so each message counts once, whatever is killed when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from realtime.filters import MISSING, Path

if TYPE_CHECKING:
    from realtime.log import Entry

T = TypeVar("T")


class Records:
    """Consecutive messages of a type, decoded once for all who read them.

    ``first`` is the offset of the first, ``timestamps`` are when they were published, in seconds
    since 1970, ``epoch`` is the log's. A payload that cannot be decoded here is ``None``.
    """

    __slots__ = ("_columns", "_known", "epoch", "first", "payloads", "timestamps")

    def __init__(
        self, first: int, payloads: list[Any], timestamps: list[float], epoch: str = ""
    ) -> None:
        self.first = first
        self.payloads = payloads
        self.timestamps = timestamps
        self.epoch = epoch
        self._columns: dict[Path, list[Any]] = {}
        self._known: dict[Any, Any] = {}

    @classmethod
    def decode(cls, first: int, entries: Sequence[Entry], epoch: str = "") -> Records:
        """Decode what a log returned."""
        payloads = [_decode(entry.body) for entry in entries]
        return cls(first, payloads, [entry.timestamp for entry in entries], epoch)

    def __len__(self) -> int:
        return len(self.payloads)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.payloads)

    @property
    def last(self) -> int:
        """The offset of the last message; that before ``first`` if there is none."""
        return self.first + len(self.payloads) - 1

    def after(self, offset: int) -> Records:
        """Return those after an offset."""
        count = offset - self.first + 1
        if count <= 0:
            return self
        payloads, timestamps = self.payloads[count:], self.timestamps[count:]
        return Records(self.first + count, payloads, timestamps, self.epoch)

    def column(self, path: Path) -> list[Any]:
        """Return each message's value at a path; :data:`~realtime.filters.MISSING` for none."""
        found = self._columns.get(path)
        if found is None:
            found = self._columns[path] = [_value(payload, path) for payload in self.payloads]
        return found

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """Return what *compute* returns, which is asked once for each *key*."""
        if key not in self._known:
            self._known[key] = compute()
        found: T = self._known[key]
        return found


def _value(payload: Any, path: Path) -> Any:
    for step in path:
        if not isinstance(payload, dict):
            return MISSING
        payload = payload.get(step, MISSING)
    return payload


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (RecursionError, ValueError):
        return None


class Changes(NamedTuple):
    """What is to be saved together: state fields that changed or went, payloads to publish.

    ``upto`` is the offset after which to read when the state is restored, if that is before what
    has been taken in.
    """

    fields: Mapping[str, bytes] = {}
    removed: Iterable[str] = ()
    outputs: Sequence[bytes] = ()
    upto: int | None = None


class BaseProcessor(Protocol):
    """What reads one type and publishes to another, or to none.

    ``name`` is unique among those of a runner and stays the same when the ``definition`` changes;
    then the state is begun anew, at the position it had, but for a processor whose attribute
    ``keeps_state`` is true: it is given the state of the other definition. ``from_start`` says
    whether the first messages to read are the oldest retained, or those that come from then on.
    """

    @property
    def name(self) -> str: ...
    @property
    def definition(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str | None: ...
    @property
    def from_start(self) -> bool: ...

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on from what was saved; nothing, the first time. Called once, first."""

    def skip(self, first: int, last: int | None) -> None:
        """Take note that messages were lost before they were read; all, if nobody knows which."""

    @property
    def urgent(self) -> bool:
        """Whether there is something to publish."""

    def save(self) -> Changes:
        """Return what has changed since this was called last, or since the start.

        What was returned is saved, or this object is not used again.
        """


class Processor(BaseProcessor, Protocol):
    """One that does its work at once."""

    def take(self, records: Records) -> None:
        """Take the next messages in."""

    def tick(self, now: float) -> str | None:
        """Take note of the time, in seconds since 1970, when everything has been read.

        Returns what the runner is to log, if anything.
        """


@runtime_checkable
class WaitingProcessor(BaseProcessor, Protocol):
    """One whose work takes time.

    While it works it is given nothing else and nothing of it is saved; the runner and the others
    go on. If it is given up meanwhile, what it works on counts as not taken in.
    """

    async def work(self, records: Records) -> int:
        """Take in the first of the next messages, or all; return the offset of the last.

        Called without any again and again when everything has been read.
        """

    def close(self) -> None:
        """Let go of everything; nothing is called after this."""


AnyProcessor = Processor | WaitingProcessor
