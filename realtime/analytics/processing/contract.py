"""A processor: takes messages in, has a state, and publishes messages. Pure.

A :class:`Processor` never waits and asks no clock; one whose work takes time is a
:class:`WaitingProcessor`. How far it has read, its state and what it publishes are saved in one
step, so each message counts once, whatever is killed and when.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from realtime.filters import Path, decode_or_none, lookup

if TYPE_CHECKING:
    from realtime.log.contract import Entry


class Records:
    """Consecutive messages of a type, decoded once for all processors that read them.

    ``first`` is the first message's offset, ``timestamps`` are when they were published, in seconds
    since 1970, ``epoch`` is the log's. A payload that cannot be decoded is ``None``.
    """

    __slots__ = ("_columns", "computed", "epoch", "first", "payloads", "timestamps")

    def __init__(
        self, first: int, payloads: list[Any], timestamps: list[float], epoch: str = ""
    ) -> None:
        self.first = first
        self.payloads = payloads
        self.timestamps = timestamps
        self.epoch = epoch
        self._columns: dict[Path, list[Any]] = {}
        # What processors have made of the messages, for others that need the same.
        self.computed: dict[Any, Any] = {}

    @classmethod
    def decode(cls, first: int, entries: Sequence[Entry], epoch: str = "") -> Records:
        """Decode the entries of a log."""
        payloads = [decode_or_none(entry.body) for entry in entries]
        return cls(first, payloads, [entry.timestamp for entry in entries], epoch)

    def __len__(self) -> int:
        return len(self.payloads)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.payloads)

    @property
    def last(self) -> int:
        """The offset of the last message; ``first - 1`` if there is none."""
        return self.first + len(self.payloads) - 1

    def after(self, offset: int) -> Records:
        """Return the messages after an offset."""
        count = offset - self.first + 1
        if count <= 0:
            return self
        payloads, timestamps = self.payloads[count:], self.timestamps[count:]
        return Records(self.first + count, payloads, timestamps, self.epoch)

    def column(self, path: Path) -> list[Any]:
        """Return each message's value at a path; :data:`~realtime.filters.MISSING` for none."""
        column = self._columns.get(path)
        if column is None:
            column = self._columns[path] = [lookup(payload, path) for payload in self.payloads]
        return column


class Changes(NamedTuple):
    """What is to be saved together: fields of the state to set and remove, payloads to publish.

    ``upto`` is the offset after which to read when this state is restored; ``None`` if that is the
    last message that was taken in.
    """

    fields: Mapping[str, bytes] = {}
    removed: Iterable[str] = ()
    outputs: Sequence[bytes] = ()
    upto: int | None = None


class BaseProcessor(Protocol):
    """Reads the type ``source`` and publishes to the type ``target``, or to none.

    ``name`` is unique among the processors of a runner. When the ``definition`` of a name changes,
    its state begins anew at the position that it had; a processor with a true attribute
    ``keeps_state`` is given the old state. An attribute ``left_out`` says how many messages did not
    count, by reason; it is reported. ``from_start`` says whether a new processor first reads
    the oldest retained message, or the next one that is published.
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
        """Continue from the saved fields; there are none the first time. Called once, first."""

    def skip(self, first: int, last: int | None) -> None:
        """Note that messages were lost before they were read, from offset *first* to *last*.

        If *last* is ``None`` the whole log was lost, and nobody knows how many messages it had.
        """

    @property
    def urgent(self) -> bool:
        """Whether there is something to publish."""

    def save(self) -> Changes:
        """Return what has changed since the last call. Save it, or never use this one again."""


class Processor(BaseProcessor, Protocol):
    """A processor that does its work at once."""

    def take(self, records: Records) -> None:
        """Take in the next messages."""

    def tick(self, now: float) -> str | None:
        """Take note of the time when everything has been read; return what is to be logged."""


@runtime_checkable
class WaitingProcessor(BaseProcessor, Protocol):
    """A processor whose work takes time: the runner and the other processors go on meanwhile.

    While it works it gets no other messages and is not saved. If it is given up, the messages that
    it works on count as not taken in.
    """

    async def work(self, records: Records) -> int:
        """Take in some of the next messages, from the first on; return the offset of the last.

        Called with no messages, again and again, when everything has been read.
        """

    def close(self) -> None:
        """Release everything that it holds; no method is called after this."""


AnyProcessor = Processor | WaitingProcessor
