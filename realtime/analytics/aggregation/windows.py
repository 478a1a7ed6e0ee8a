"""Which windows of a rule are open, what they hold, and the results of those that are over. Pure.

A window is as many slides as its rule says, counted from 1970; what is kept is kept by slide and
group, and put together when a window is over: when the watermark has passed its end. A message
counts in all windows that hold its time or, once the first of them is over, in none. So a slide
that is over changes no more, and results do not depend on when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import msgspec

from realtime.analytics.aggregation.columns import Group
from realtime.analytics.aggregation.functions import Need, need, reader
from realtime.analytics.aggregation.rule import Rule, path_text
from realtime.protocol import format_timestamp

# Bounds of what is kept: groups of one slide, and slides times groups.
MAX_GROUPS = 10_000
MAX_CELLS = 100_000
# About so many results are made at a time: whole windows, one at least.
MAX_RESULTS = 2000


class Cell:
    """What is kept of one group in one slide."""

    __slots__ = ("is_stored", "kept", "text")

    def __init__(self, text: str, kept: list[Any], is_stored: bool = False) -> None:
        # The group as JSON: what it is stored and sorted by.
        self.text = text
        self.kept = kept
        self.is_stored = is_stored


@dataclass(slots=True)
class Slide:
    """What is kept of one slide; ``changed`` are the groups that are to be stored."""

    cells: dict[Group, Cell] = field(default_factory=dict)
    changed: set[Group] = field(default_factory=set)


@dataclass(slots=True)
class Progress:
    """How far a rule is, and what it did not count; stored beside what it keeps.

    Times are in seconds since 1970; slides are counted from then.
    """

    # Messages from before it are late. -1: none has come yet.
    watermark: float = -1.0
    # Windows that end with this slide or before have been published.
    published: int = 0
    # Messages that were left out: too late, without a time, without a group, in too many groups.
    late: int = 0
    untimed: int = 0
    ungrouped: int = 0
    crowded: int = 0
    # Messages of these slides may have been lost; -1: none. While ``is_torn`` nobody knows yet of
    # which slide the last was.
    torn_from: int = -1
    torn_to: int = -1
    is_torn: bool = False


class Stored(NamedTuple):
    """What has changed of what is kept: names and values, and names that are gone."""

    fields: dict[str, bytes]
    removed: list[str]


class Windows:
    """The open windows of one rule."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.progress = Progress()
        self.needs: list[Need] = list(dict.fromkeys(map(need, rule.functions)))
        self._readers = [
            (function.name, self.needs.index(need(function)), reader(function, rule.size))
            for function in rule.functions
        ]
        self._group_names = [path_text(path) for path in rule.group_by]
        # By number, counted from 1970.
        self._slides: dict[int, Slide] = {}
        self._cells = 0
        self._removed: list[str] = []

    # What comes in

    def cell(self, number: int, group: Group) -> Cell | None:
        """Return what is kept of a group in a slide, to be changed; ``None`` if it is too much."""
        slide = self._slides.get(number)
        if slide is None:
            slide = self._slides[number] = Slide()
        slide.changed.add(group)
        found = slide.cells.get(group)
        if found is None:
            if len(slide.cells) >= MAX_GROUPS or self._cells >= MAX_CELLS:
                slide.changed.discard(group)
                return None
            found = slide.cells[group] = Cell(_text(group), self._nothing())
            self._cells += 1
        return found

    def _nothing(self) -> list[Any]:
        return [one.kind() for one in self.needs]

    def advance(self, watermark: float) -> None:
        """Raise the watermark."""
        self.progress.watermark = max(self.progress.watermark, watermark)

    # Messages that were lost

    def tear(self) -> None:
        """Take note that messages were lost before those that come."""
        progress = self.progress
        if progress.torn_from < 0:
            progress.torn_from = max(0, self._over())
        progress.is_torn = True

    def mend(self, time: float) -> None:
        """Take note that nothing was lost from this time on."""
        self.progress.torn_to = max(self.progress.torn_to, int(time // self.rule.slide))
        self.progress.is_torn = False

    def _is_incomplete(self, end: int) -> bool:
        progress = self.progress
        return 0 <= progress.torn_from < end and (
            progress.is_torn or end - self.rule.slides <= progress.torn_to
        )

    # Windows that are over

    def _over(self) -> int:
        """Return how many slides since 1970 are over."""
        return int(self.progress.watermark // self.rule.slide)

    @property
    def is_due(self) -> bool:
        """Whether there are results to publish."""
        return self._next_end() is not None

    def _next_end(self) -> int | None:
        """Return the end of the oldest window that is over and not published, if it holds any."""
        over, published = self._over(), self.progress.published
        ends = (
            end
            for number in self._slides
            if (end := max(number, published) + 1) <= min(number + self.rule.slides, over)
        )
        return min(ends, default=None)

    def close(self) -> list[bytes]:
        """Return the results of windows that are over, the oldest first, and forget these."""
        results: list[bytes] = []
        while (end := self._next_end()) is not None and len(results) < MAX_RESULTS:
            results += self._results(end)
            self._forget(end)
        if end is None:
            self._forget(self._over())
        return results

    def _forget(self, published: int) -> None:
        progress = self.progress
        progress.published = max(progress.published, published)
        unused = progress.published - self.rule.slides
        for number in [number for number in self._slides if number <= unused]:
            slide = self._slides.pop(number)
            self._cells -= len(slide.cells)
            self._removed += (
                f"{number}:{cell.text}" for cell in slide.cells.values() if cell.is_stored
            )
        if not progress.is_torn and unused >= progress.torn_to:
            progress.torn_from = progress.torn_to = -1

    def _results(self, end: int) -> Iterator[bytes]:
        """Yield a window's results in the order of their groups' texts."""
        slide = self.rule.slide
        until = format_timestamp(end * slide)
        window = {"start": format_timestamp((end - self.rule.slides) * slide), "end": until}
        more = {"incomplete": True} if self._is_incomplete(end) else {}
        for group, kept in self._merged(end):
            values = {name: read(kept[index]) for name, index, read in self._readers}
            result = {"rule": self.rule.name, "group": self._named(group), "window": window}
            yield _encoder.encode(result | {"values": values, "timestamp": until} | more)

    def _merged(self, end: int) -> list[tuple[Group, list[Any]]]:
        """Return what a window holds of each group."""
        numbers = [n for n in range(end - self.rule.slides, end) if n in self._slides]
        cells: dict[Group, list[Cell]] = {}
        for number in numbers:
            for group, cell in self._slides[number].cells.items():
                cells.setdefault(group, []).append(cell)
        found = sorted(cells.items(), key=lambda item: item[1][0].text)
        return [(group, self._merge(parts)) for group, parts in found]

    def _merge(self, parts: Sequence[Cell]) -> list[Any]:
        if len(parts) == 1:
            return parts[0].kept
        merged = self._nothing()
        for part in parts:
            for one, other in zip(merged, part.kept, strict=True):
                one.merge(other)
        return merged

    def _named(self, group: Group) -> dict[str, Any]:
        values = (value[0] if type(value) is tuple else value for value in group)
        return dict(zip(self._group_names, values, strict=True))

    # What is stored

    def store(self) -> Stored:
        """Return what has changed since this was called last."""
        fields: dict[str, bytes] = {"progress": _encoder.encode(asdict(self.progress))}
        for number, slide in self._slides.items():
            for group in slide.changed:
                cell = slide.cells[group]
                cell.is_stored = True
                fields[f"{number}:{cell.text}"] = _encoder.encode([one.dump() for one in cell.kept])
            slide.changed.clear()
        removed, self._removed = self._removed, []
        return Stored(fields, removed)

    def restore(self, fields: Iterable[tuple[str, bytes]]) -> None:
        """Go on from what was stored."""
        for name, value in fields:
            if name == "progress":
                self.progress = msgspec.json.decode(value, type=Progress)
                continue
            number, _, text = name.partition(":")
            kept = [
                one.kind.load(data)
                for one, data in zip(self.needs, msgspec.json.decode(value), strict=True)
            ]
            slide = self._slides.setdefault(int(number), Slide())
            slide.cells[_group(text)] = Cell(text, kept, is_stored=True)
            self._cells += 1


_encoder = msgspec.json.Encoder()


def _text(group: Group) -> str:
    return _encoder.encode(group).decode()


def _group(text: str) -> Group:
    return tuple(
        tuple(value) if isinstance(value, list) else value for value in msgspec.json.decode(text)
    )
