"""What was in a log: its messages from the first to the last, through epochs and losses. Pure.

A log that is emptied begins a new *chapter*. A failover that loses messages leaves the chapter and
cuts its end off; the epoch that lost them goes on nowhere::

    chapter 0   epoch a  1 2 3 4 5 6 7        6 and 7 were lost in a failover: a ends with 5
                epoch b            6 7 8 9
    chapter 1   epoch c  1 2 3                the store was emptied

Epochs, and whole chapters, may begin between the moment when a replica is promoted and that when
its primary dies: they are lost as a whole (:meth:`History.lose`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from realtime.protocol import Position

Payload = dict[str, Any]

LOST = -1


class Entry(NamedTuple):
    """A message; ``time`` in seconds since 1970, by the log's clock."""

    time: float
    payload: Payload


@dataclass
class Chapter:
    """A log from its beginning until it was emptied, or until now. The first entry has offset 1.

    ``ends`` are the last positions of its epochs, the oldest first.
    """

    ends: list[Position]
    entries: list[Entry]
    # How often the store had been emptied when it began; LOST if a failover has lost all of it.
    number: int = 0

    @property
    def head(self) -> int:
        return len(self.entries)


class Place(NamedTuple):
    """Where a position is; ``is_lost`` if a failover has lost the message there."""

    chapter: int
    offset: int
    is_lost: bool


@dataclass
class History:
    """All of a type's log. ``broken`` are the epochs that lost their last messages."""

    chapters: list[Chapter] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    # An epoch that was lost as a whole -> the epoch that it went on from.
    branches: dict[str, str] = field(default_factory=dict)

    def lose(self, old: Chapter, new: Chapter | None) -> None:
        """Take note that the log goes on as *new*, without the last messages of *old*."""
        shared = {end.epoch for end in new.ends} if new else set()
        lost = [end.epoch for end in old.ends if end.epoch not in shared]
        self.broken.update(lost)
        if new and old.ends[-1] != new.ends[-1]:
            self.broken.add(old.ends[-1].epoch)
        if len(lost) == len(old.ends):
            self.chapters.append(replace(old, number=LOST))
        elif lost:
            chain = [old.ends[-len(lost) - 1].epoch, *lost]
            self.branches |= {epoch: before for before, epoch in pairwise(chain)}

    def add(self, chapter: Chapter) -> None:
        """Add the newest chapter, with the epochs of it that were lost as a whole."""
        ends: list[Position] = []
        for end in chapter.ends:
            ends.append(end)
            same = {end.epoch}
            for epoch, before in self.branches.items():
                if before in same:
                    same.add(epoch)
                    ends.append(Position(epoch, end.offset))
        self.chapters.append(replace(chapter, ends=ends))

    def find(self, position: Position) -> Place | None:
        """Return where a position is; ``None`` if the log never had its epoch."""
        for number, chapter in enumerate(self.chapters):
            for end in chapter.ends:
                if end.epoch == position.epoch:
                    return Place(number, position.offset, position.offset > end.offset)
        return None

    def end(self, epoch: str) -> int:
        """Return the last offset of an epoch."""
        [offset] = [
            end.offset for chapter in self.chapters for end in chapter.ends if end.epoch == epoch
        ]
        return offset

    def age(self, position: Position) -> tuple[int, int, int]:
        """Return what sorts positions as a client meets them."""
        for number, chapter in enumerate(self.chapters):
            for epoch, end in enumerate(chapter.ends):
                if end.epoch == position.epoch:
                    return number, epoch, position.offset
        return len(self.chapters), 0, position.offset


def matches(payload: Mapping[str, Any], filters: Mapping[str, Any]) -> bool:
    """Tell whether a payload has the values of plain filters."""
    return all(payload.get(name) == value for name, value in filters.items())


def matching(
    entries: Sequence[Entry], filters: Mapping[str, Any], offsets: Iterable[int]
) -> list[int]:
    """Return those of the offsets whose messages match."""
    return [offset for offset in offsets if matches(entries[offset - 1].payload, filters)]
