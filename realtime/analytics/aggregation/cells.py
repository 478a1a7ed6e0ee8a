"""What the open windows of a rule hold: a cell for each group in each slide; stored. Pure.

A state may be too large to be saved at once. It is saved in parts then, and the last part has how
far the rule has read. Should the process end before that, some cells are ahead of the others: they
hold messages that are read again. So these cells say up to which offset they hold messages::

    saved before     read up to 80     a: 3   b: 5   c: 4
    one part         at offset 120     a: 7, holds what is up to 120
    read again       81 to 120         a: 7   b: 6   c: 9      of these messages a takes none

Knows nothing of which windows there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from realtime.analytics.aggregation.columns import GroupValues
from realtime.analytics.aggregation.functions import Need

# Bounds: groups of one slide, and groups of all slides.
MAX_GROUPS = 10_000
MAX_CELLS = 100_000
# Bytes that are stored at a time, about.
PART_BYTES = 4 * 1024 * 1024
# The field with the epoch and the offset up to which some cells may be ahead.
AHEAD = "ahead"

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Cell:
    """The accumulators of one group in one slide."""

    # The group as JSON, by which it is stored and sorted.
    text: str
    accumulators: list[Any]
    is_stored: bool = False
    # The offset up to which it holds messages, if it was ahead of others when it was restored.
    upto: int = 0


@dataclass(slots=True)
class Slide:
    """The cells of one slide, by group; those of the groups in ``changed`` are to be stored."""

    cells: dict[GroupValues, Cell] = field(default_factory=dict)
    changed: set[GroupValues] = field(default_factory=set)


class Cells:
    """The cells of one rule."""

    def __init__(self, needs: Sequence[Need]) -> None:
        self._needs = needs
        # By number, counted from 1970.
        self.slides: defaultdict[int, Slide] = defaultdict(Slide)
        self._count = 0
        self._removed: list[str] = []
        # Epoch and offset up to which messages may be read again that some cells hold.
        self._ahead: tuple[str, int] | None = None

    def cell(self, number: int, group: GroupValues) -> Cell | None:
        """Return the cell of a group in a slide, to be changed; ``None`` if there are too many."""
        slide = self.slides[number]
        cell = slide.cells.get(group)
        if cell is None:
            if len(slide.cells) >= MAX_GROUPS or self._count >= MAX_CELLS:
                return None
            text = _encode(group).decode()
            cell = slide.cells[group] = Cell(text, self._new_accumulators())
            self._count += 1
        slide.changed.add(group)
        return cell

    def _new_accumulators(self) -> list[Any]:
        return [need.accumulator() for need in self._needs]

    def remove(self, numbers: Iterable[int]) -> None:
        """Forget these slides."""
        for number in numbers:
            slide = self.slides.pop(number)
            self._count -= len(slide.cells)
            self._removed += (
                f"{number}:{cell.text}" for cell in slide.cells.values() if cell.is_stored
            )

    def merged(self, numbers: Iterable[int]) -> list[tuple[GroupValues, list[Any]]]:
        """Return the accumulators of each group in these slides, in the order of their texts."""
        cells: dict[GroupValues, list[Cell]] = {}
        for number in numbers:
            if number in self.slides:
                for group, cell in self.slides[number].cells.items():
                    cells.setdefault(group, []).append(cell)
        ordered = sorted(cells.items(), key=lambda item: item[1][0].text)
        return [(group, self._merge(parts)) for group, parts in ordered]

    def _merge(self, parts: Sequence[Cell]) -> list[Any]:
        if len(parts) == 1:
            return parts[0].accumulators
        merged = self._new_accumulators()
        for part in parts:
            for accumulator, other in zip(merged, part.accumulators, strict=True):
                accumulator.merge(other)
        return merged

    def is_replaced(self, epoch: str) -> bool:
        """Tell whether messages that cells hold may be others in this epoch, when read again."""
        if self._ahead is None or self._ahead[0] == epoch:
            return False
        self._ahead = epoch, self._ahead[1]
        return True

    def forget_ahead(self) -> None:
        """Take note that all messages that come next are new to all cells."""
        self._ahead = None
        for slide in self.slides.values():
            for cell in slide.cells.values():
                cell.upto = 0

    def store(self, epoch: str, taken: int) -> tuple[list[str], Iterator[dict[str, bytes]]]:
        """Return the names of fields to remove, and parts of fields that have changed.

        All cells hold the messages up to offset *taken*. Call only when all parts of the last call
        have been taken.
        """
        if self._ahead is not None and taken >= self._ahead[1]:
            self.forget_ahead()
        removed, self._removed = self._removed, []
        return removed if self._ahead else [*removed, AHEAD], self._parts(epoch, taken)

    def _parts(self, epoch: str, taken: int) -> Iterator[dict[str, bytes]]:
        part: dict[str, tuple[bytes, int]] = {}
        size = 0
        for number, slide in self.slides.items():
            for group in slide.changed:
                if size > PART_BYTES:
                    ahead = max(taken, self._ahead[1] if self._ahead else 0)
                    yield {AHEAD: _encode((epoch, ahead))} | _fields(part, taken)
                    part, size = {}, 0
                cell = slide.cells[group]
                cell.is_stored = True
                contents = _encode([accumulator.dump() for accumulator in cell.accumulators])
                part[f"{number}:{cell.text}"] = contents, cell.upto
                size += len(contents) + len(cell.text)
            slide.changed.clear()
        yield _fields(part, 0)

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on from what was stored."""
        if AHEAD in fields:
            self._ahead = msgspec.json.decode(fields[AHEAD], type=tuple[str, int])
        for name in fields.keys() - {AHEAD}:
            number, _, text = name.partition(":")
            contents = msgspec.json.decode(fields[name])
            upto = contents.pop() if len(contents) > len(self._needs) else 0
            accumulators = [
                need.accumulator.load(data)
                for need, data in zip(self._needs, contents, strict=True)
            ]
            slide = self.slides[int(number)]
            group = (tuple(v) if type(v) is list else v for v in msgspec.json.decode(text))
            cell = Cell(text, accumulators, is_stored=True, upto=upto if self._ahead else 0)
            slide.cells[tuple(group)] = cell
            self._count += 1


def _fields(part: dict[str, tuple[bytes, int]], taken: int) -> dict[str, bytes]:
    """Return cells as they are stored: what they hold and, if it is not 0, up to which offset."""
    return {
        name: contents[:-1] + b",%d]" % upto if (upto := max(taken, before)) else contents
        for name, (contents, before) in part.items()
    }
