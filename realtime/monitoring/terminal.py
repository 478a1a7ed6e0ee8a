"""The figures of all processes as tables, for a terminal of whatever size.

Knows figures and what is dispensable where there is no room; nothing of where they are from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from realtime.monitoring.snapshot import Figures, whole
from realtime.protocol import SUBSCRIPTION_TYPES

# Between columns, and at the two ends of a line.
GAP = 2
# The least width of a process's name, of which the end tells most.
NAME_WIDTH = 16
# Lines besides those of processes, and how many processes are shown however low a terminal is.
OTHER_LINES = 16
FEWEST_PROCESSES = 1


class Column(NamedTuple):
    """A column of numbers: its head, and when it gives way, those of the highest rank first."""

    head: str
    rank: int = 0


OF_PROCESSES = (
    Column("conns"),
    Column("subs", 1),
    Column("in/s"),
    Column("out/s"),
    Column("lag ms"),
    Column("buffered"),
    Column("refused"),
    Column("loop ms", 2),
    Column("memory", 3),
    Column("repaired", 5),
    Column("lost", 4),
)
OF_TYPES = (
    Column("subs"),
    Column("published"),
    Column("delivered"),
    Column("in log", 1),
    Column("lost", 2),
    Column("repaired", 3),
)


class Overview:
    """What there is, by type and by process; processes that there is no room for are counted."""

    def __init__(self, processes: Sequence[Figures], note: str = "") -> None:
        self._processes = processes
        self._total = whole(processes)
        self._note = note

    def noting(self, note: str) -> Overview:
        """Return the same with a note, on why it is not newer."""
        return Overview(self._processes, note)

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Yield the title and the tables."""
        count = self._total["processes"]
        title = f"{count} process{'' if count == 1 else 'es'}, hosts: {self._total['hosts']}"
        yield Text.assemble(" ", title, (f"  {self._note}" if self._note else "", "bold red"))
        yield _table("type", OF_TYPES, list(self._rows_of_types()), options.max_width)
        yield _table(
            "process",
            OF_PROCESSES,
            list(self._rows_of_processes(options.height)),
            options.max_width,
        )

    def _rows_of_types(self) -> Iterator[list[str]]:
        for kind in SUBSCRIPTION_TYPES:
            published, delivered, lost, repaired = (
                [one.by_type.get(name, {}).get(kind, 0) for one in self._processes]
                for name in ("published", "delivered", "lost", "repaired")
            )
            log = self._total["log"].get(kind)
            yield [
                kind,
                _count(self._total["subscriptions"].get(kind, 0)),
                _count(max(published, default=0)),  # each process takes what is published
                _count(sum(delivered)),
                "-" if log is None else _count(log),
                _count(sum(lost)),
                _count(sum(repaired)),
            ]

    def _rows_of_processes(self, height: int | None) -> Iterator[list[str]]:
        """Yield the row of all, then those of processes, as far as they fit into a height."""
        room = len(self._processes)
        if height is not None and room > height - OTHER_LINES:
            room = max(FEWEST_PROCESSES, height - OTHER_LINES - 1)
        total = self._total
        yield [
            "all",
            _count(total["connections"]),
            _count(sum(total["subscriptions"].values())),
            _count(total["published_per_second"]),
            _count(total["delivered_per_second"]),
            _milliseconds(total["lag"]),
            _size(total["buffered"]),
            _count(total.get("refused_connections", 0)),
            _milliseconds(total["loop_lag"]),
            _size(sum(one.resident for one in self._processes)),
            _count(self._sum("repaired")),
            _count(self._sum("lost")),
        ]
        for one in self._processes[:room]:
            yield _row(one)
        if room < len(self._processes):
            yield [f"and {len(self._processes) - room} more", *[""] * len(OF_PROCESSES)]

    def _sum(self, name: str) -> int:
        return sum(sum(one.by_type.get(name, {}).values()) for one in self._processes)


def _row(one: Figures) -> list[str]:
    return [
        f"{one.process} (draining)" if one.draining else one.process,
        _count(one.connections),
        _count(sum(one.subscriptions.values())),
        _count(one.published_per_second),
        _count(one.delivered_per_second),
        _milliseconds(one.lag),
        _size(one.buffered),
        _count(one.counters.get("refused_connections", 0)),
        _milliseconds(one.loop_lag),
        _size(one.resident),
        _count(sum(one.by_type.get("repaired", {}).values())),
        _count(sum(one.by_type.get("lost", {}).values())),
    ]


def _table(
    first: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> Table:
    """Return a table of names and numbers that fits into a width, if need be with fewer columns."""
    heads = [first, *(column.head for column in columns)]
    widths = [max(map(len, cells)) for cells in zip(heads, *rows, strict=True)]
    kept = sorted(range(len(columns)), key=lambda number: columns[number].rank)
    shortest = min(widths[0], NAME_WIDTH)
    while len(kept) > 1 and shortest + sum(widths[n + 1] + GAP for n in kept) > width - GAP:
        kept.pop()
    kept.sort()
    room = max(NAME_WIDTH, width - GAP - sum(widths[n + 1] + GAP for n in kept))
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for number in kept:
        table.add_column(columns[number].head, justify="right", no_wrap=True)
    for name, *cells in rows:
        table.add_row(_end_of(name, room), *(cells[number] for number in kept))
    return table


def _end_of(name: str, room: int) -> str:
    """Return a name, or as much of its end as there is room for."""
    return name if len(name) <= room else f"…{name[1 - room :]}"


def _count(count: float) -> str:
    if 0 < count < 10 and isinstance(count, float):
        return f"{count:.1f}"
    return f"{count:,.0f}" if count < 999_999.5 else _scaled(count, ("", "k", "M", "G", "T"))


def _size(count: float) -> str:
    return _scaled(count, ("B", "KB", "MB", "GB", "TB"))


def _scaled(count: float, units: Sequence[str]) -> str:
    unit = 0
    while count >= 999.5 and unit < len(units) - 1:
        count /= 1000
        unit += 1
    digits = 1 if unit > 1 and count < 99.95 else 0
    return f"{count:,.{digits}f} {units[unit]}".rstrip()


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:,.1f}" if seconds < 10 else f"{seconds * 1000:,.0f}"
