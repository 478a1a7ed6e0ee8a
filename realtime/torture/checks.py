"""Compares what publishers were told and what clients received with the log. Pure.

Each check returns complaints: lines of text, none if all promises were kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from realtime.protocol import Position
from realtime.torture.history import History, Payload, Place, matching


class Confirmation(NamedTuple):
    """What a publisher was told: the messages *first*, *first* + 1 and so on are from here on."""

    first: int
    messages: int
    position: Position


class Received(NamedTuple):
    """A message as a client got it."""

    position: Position
    payload: Payload


class Told(NamedTuple):
    """A client had everything up to a position when it was told that messages are missing."""

    position: Position
    reason: str


@dataclass
class Record:
    """What a client of one subscription saw, from its first position to its last.

    It must get what matches ``filters``; it may get more where its rights change.
    """

    name: str
    kind: str
    filters: dict[str, Any]
    start: Position | None = None
    end: Position | None = None
    received: list[Received] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)


def check_publisher(
    name: str, confirmations: Sequence[Confirmation], history: History
) -> Iterator[str]:
    """Yield what is wrong with what a publisher was told, and with its messages in the log."""
    for first, count, (epoch, offset) in confirmations:
        for number in range(count):
            position = Position(epoch, offset + number)
            place = history.find(position)
            if place is None:
                yield f"{name}: {first + number} was confirmed in an unknown epoch, {epoch}"
            elif place.is_lost:
                if epoch not in history.broken:
                    yield f"{name}: {first + number} was confirmed at {position} and is lost"
            else:
                payload = history.chapters[place.chapter].entries[place.offset - 1].payload
                if (payload.get("publisher"), payload.get("n")) != (name, first + number):
                    yield f"{name}: {first + number} was confirmed at {position}: {payload}"
    for chapter in history.chapters:
        newest = 0
        for offset, entry in enumerate(chapter.entries, 1):
            if entry.payload.get("publisher") == name:
                if entry.payload["n"] <= newest:
                    yield f"{name}: {entry.payload['n']} follows {newest} in the log, at {offset}"
                newest = max(newest, entry.payload["n"])


def check_record(record: Record, history: History) -> list[str]:
    """Return what a client missed, got twice, out of order or wrongly, or was not told."""
    if record.start is None or record.end is None:
        return [f"{record.name}: it never subscribed"]
    reader = _Reader(record, history)
    told = list(record.told)
    for received in record.received:
        while told and history.age(told[0].position) < history.age(received.position):
            reader.hear(told.pop(0))
        reader.take(received)
    for each in told:
        reader.hear(each)
    reader.finish(record.end)
    return [f"{record.name}: {complaint}" for complaint in reader.complaints]


class _Reader:
    """Goes through what a client saw, as it saw it."""

    def __init__(self, record: Record, history: History) -> None:
        assert record.start is not None
        self.complaints: list[str] = []
        self._filters = record.filters
        self._history = history
        start = self._find(record.start) or Place(0, 0, False)
        self._chapter = start.chapter
        # Everything that matches before this offset of the chapter has come.
        at = self._history.end(record.start.epoch) if start.is_lost else start.offset
        self._next = at + 1
        # The last position it had that a failover has lost, until it is back in the log.
        self._lost: Position | None = None
        # The last time it was told, until it gets a message.
        self._told: Told | None = None
        if start.is_lost:
            self._lose(record.start, start)

    def take(self, received: Received) -> None:
        """A message must be the next that matches, and the one that the log has there."""
        position, payload = received
        place = self._find(position)
        if place is None:
            return
        if place.is_lost:
            self._take_lost(position, place)
            return
        self._arrive(position, place)
        if place.offset < self._next:
            self.complaints.append(f"{position} came again, or after a later one: {payload}")
            return
        entry = self._history.chapters[place.chapter].entries[place.offset - 1]
        if payload != entry.payload:
            self.complaints.append(f"at {position} came {payload}, not {entry.payload}")
        self._go_to(place.offset)
        self._next = place.offset + 1

    def _take_lost(self, position: Position, place: Place) -> None:
        lost = self._lost
        if lost is not None and lost.epoch == position.epoch and lost.offset >= place.offset:
            self.complaints.append(f"{position} came again, or after a later one")
        self._lose(position, place)

    def _lose(self, position: Position, place: Place) -> None:
        """It had what a failover has lost: it must have the part of the epoch that is not lost."""
        if position.epoch not in self._history.broken:
            self.complaints.append(f"{position} is in no log")
        if self._lost is None and place.chapter == self._chapter:
            self._go_to(self._history.end(position.epoch) + 1)
        self._lost = position

    def _arrive(self, position: Position, place: Place) -> None:
        """Being at a place, the client must have been told of a loss before it, and of no other."""
        is_loss = self._lost is not None or place.chapter != self._chapter
        if is_loss and self._told is None:
            self.complaints.append(f"at {position} it was not told what was lost before")
        if self._told and not is_loss and self._told.position.epoch not in self._history.broken:
            self.complaints.append(f"{self._told} though nothing was lost")
        if place.chapter != self._chapter:
            self._chapter, self._next = place.chapter, 1
        self._lost = self._told = None

    def hear(self, told: Told) -> None:
        """Take note that it was told; what comes next shows whether it was right."""
        if self._told is not None and told.position == self._told.position:
            return  # the connection broke before anything else came
        place = self._find(told.position)
        if place is None:
            return
        if place.is_lost:
            self._lose(told.position, place)
        elif place.chapter == self._chapter:
            self._go_to(place.offset + 1)
        self._told = told

    def finish(self, end: Position) -> None:
        """At its end it must have everything."""
        place = self._find(end)
        if place is None:
            return
        if place.is_lost or place.chapter + 1 < len(self._history.chapters):
            self.complaints.append(f"it ends at {end}")
            return
        self._arrive(end, place)
        self._go_to(place.offset + 1)

    def _go_to(self, offset: int) -> None:
        """All that matches before an offset must have come."""
        entries = self._history.chapters[self._chapter].entries
        offset = min(offset, len(entries) + 1)
        missing = matching(entries, self._filters, range(self._next, offset))
        if missing:
            some = [entries[at - 1].payload for at in missing[:3]]
            self.complaints.append(
                f"chapter {self._chapter}: {len(missing)} never came, at {missing[:5]}: {some}"
            )
        self._next = max(self._next, offset)

    def _find(self, position: Position) -> Place | None:
        place = self._history.find(position)
        if place is None:
            self.complaints.append(f"{position} is of an unknown epoch")
        return place
