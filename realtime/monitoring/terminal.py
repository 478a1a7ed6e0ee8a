"""The numbers of all processes as tables, for a terminal of any size.

Knows which columns there are and what is left out where there is no room; nothing of where the
snapshots come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from realtime.monitoring.snapshot import Snapshot, add_up
from realtime.protocol import SUBSCRIPTION_TYPES

# Between columns, and at the two ends of a line.
GAP = 2
# The least width of a process's name, of which the end tells most.
NAME_WIDTH = 16
# Lines besides those of processes.
OTHER_LINES = 16


def _count(count: float) -> str:
    if 0 < count < 10 and isinstance(count, float):
        return f"{count:.1f}"
    return f"{count:,.0f}" if count < 999_999.5 else _scale(count, ("", "k", "M", "G", "T"))


def _scale(count: float, units: Sequence[str] = ("B", "KB", "MB", "GB", "TB")) -> str:
    unit = 0
    while count >= 999.5 and unit < len(units) - 1:
        count /= 1000
        unit += 1
    digits = 1 if unit > 1 and count < 99.95 else 0
    return f"{count:,.{digits}f} {units[unit]}".rstrip()


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.1f}" if seconds < 10 else f"{seconds * 1000:,.0f}"


class Column(NamedTuple):
    """A column of numbers: its head, the field of its metric, and how a number is written."""

    head: str
    field: str
    write: Callable[[float], str] = _count

    def cell(self, numbers: Mapping[str, Any], kind: str | None = None) -> str:
        """Return one number of those of a process or of all: of a type, or of all types."""
        value = numbers.get(self.field)
        if isinstance(value, dict):
            value = sum(value.values()) if kind is None else value.get(kind)
        return "-" if value is None else self.write(value)


# Where there is no room for all columns, those at the end are left out.
OF_PROCESSES = (
    Column("conns", "connections"),
    Column("subs", "subscriptions"),
    Column("in/s", "published_per_second"),
    Column("out/s", "delivered_per_second"),
    Column("lag ms", "lag", _milliseconds),
    Column("buffered", "buffered", _scale),
    Column("refused", "refused_connections"),
    Column("loop ms", "loop_lag", _milliseconds),
    Column("memory", "resident", _scale),
    Column("lost", "lost"),
    Column("repaired", "repaired"),
)
OF_TYPES = (
    Column("subs", "subscriptions"),
    Column("published", "published"),
    Column("delivered", "delivered"),
    Column("in log", "log"),
    Column("lost", "lost"),
    Column("repaired", "repaired"),
)


class ClusterTables:
    """A table by type and one by process, which counts the processes that it has no room for."""

    def __init__(self, snapshots: Sequence[Snapshot], note: str = "") -> None:
        self._snapshots = snapshots
        self._totals = add_up(snapshots)
        self._note = note

    def with_note(self, note: str) -> ClusterTables:
        """Return the same tables with a note on why they are not newer."""
        return ClusterTables(self._snapshots, note)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the title and the tables."""
        count = self._totals["processes"]
        title = f"{count} process{'' if count == 1 else 'es'}, hosts: {self._totals['hosts']}"
        yield Text.assemble(" ", title, (f"  {self._note}" if self._note else "", "bold red"))
        types = [_row(kind, OF_TYPES, self._totals, kind) for kind in SUBSCRIPTION_TYPES]
        yield _table("type", OF_TYPES, types, options.max_width)
        # The row of all, then those of processes, as far as they fit into the height.
        room, height = len(self._snapshots), options.height
        if height is not None and room > height - OTHER_LINES:
            room = max(1, height - OTHER_LINES - 1)
        processes = [_row("all", OF_PROCESSES, self._totals)]
        for snapshot in self._snapshots[:room]:
            name = f"{snapshot.process} (draining)" if snapshot.draining else snapshot.process
            processes.append(_row(name, OF_PROCESSES, snapshot.numbers()))
        if room < len(self._snapshots):
            more = f"and {len(self._snapshots) - room} more"
            processes.append([more, *[""] * len(OF_PROCESSES)])
        yield _table("process", OF_PROCESSES, processes, options.max_width)


def _row(
    name: str, columns: Sequence[Column], numbers: Mapping[str, Any], kind: str | None = None
) -> list[str]:
    return [name, *(column.cell(numbers, kind) for column in columns)]


def _table(
    first: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> Table:
    """Return a table that fits: ``rich`` would cut numbers, here the last columns are left out."""
    heads = [first, *(column.head for column in columns)]
    widths = [max(map(len, cells)) + GAP for cells in zip(heads, *rows, strict=True)]
    shown = len(heads)
    shortest = min(widths[0], NAME_WIDTH + GAP)
    while shown > 2 and shortest + sum(widths[1:shown]) > width:
        shown -= 1
    room = max(NAME_WIDTH, width - GAP - sum(widths[1:shown]))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for head in heads[1:shown]:
        table.add_column(head, justify="right", no_wrap=True)
    for name, *cells in rows:
        end = name if len(name) <= room else f"…{name[1 - room :]}"
        table.add_row(end, *cells[: shown - 1])
    return table
