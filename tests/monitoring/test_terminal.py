"""The tables: whole numbers in any terminal, and what matters most in a narrow one."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from realtime.monitoring.metrics import Counters
from realtime.monitoring.snapshot import Snapshot
from realtime.monitoring.terminal import OF_PROCESSES, ClusterTables
from realtime.protocol import SUBSCRIPTION_TYPES
from tests.monitoring.test_snapshot import snapshot_of

# The least that an operator is to see in 80 columns.
NEEDED = ["process", "conns", "subs", "in/s", "out/s", "lag ms", "buffered", "refused"]


def process(number: int, **changes: Any) -> Snapshot:
    """Return the snapshot of a process with a long name and large numbers."""
    counters = Counters(active_clients=20_000, refused_connections=123_456)
    for kind in SUBSCRIPTION_TYPES:
        counters.subscriptions[kind] = 11_000
        counters.published[kind] = 5_000_000 + number
        counters.delivered[kind] = 70_000_000_000
    counters.log = {"events": 10_000}
    rates = {"published_per_second": 499.6, "delivered_per_second": 123_456.7, "lag": 0.0123}
    numbers: dict[str, Any] = rates | {"buffered": 1_234_567, "resident": 987_654_321} | changes
    return snapshot_of(
        f"streaming-host.example.org-{3000 + number}-ab{number:02}", counters, **numbers
    )


def lines(shown: ClusterTables, width: int, height: int | None = None) -> list[str]:
    """Return the lines of a terminal of a size."""
    console = Console(file=StringIO(), width=width, height=height or 100)
    options = console.options.update(height=height)
    return [
        "".join(segment.text for segment in line).rstrip()
        for line in console.render_lines(shown, options, pad=False)
    ]


def table(text: list[str], first: str) -> list[list[str]]:
    """Return the cells of the table whose first column is headed *first*, its head among them."""
    start = next(n for n, line in enumerate(text) if line.strip().startswith(first))
    end = next((n for n in range(start, len(text)) if not text[n]), len(text))
    return [text[n].split("  ") for n in range(start, end) if "──" not in text[n]]


def cells(row: list[str]) -> list[str]:
    """Return the cells that hold something."""
    return [cell.strip() for cell in row if cell.strip()]


@pytest.mark.parametrize("width", [40, 60, 79, 80, 81, 100, 120, 160, 250])
def test_numbers_are_whole_at_any_width(width: int) -> None:
    text = lines(ClusterTables([process(n) for n in range(3)]), width)
    assert max(map(len, text)) <= width
    head, all_of_them, *rows = map(cells, table(text, "process"))
    assert all_of_them[0] == "all" and len(rows) == 3
    whole = {
        "conns": "20,000",
        "subs": "66,000",
        "in/s": "500",
        "out/s": "123,457",
        "lag ms": "12.3",
        "buffered": "1.2 MB",
        "refused": "123,456",
        "memory": "988 MB",
    }
    for number, row in enumerate(rows):
        assert row[0].endswith(f"{3000 + number}-ab{number:02}")
        for name, value in zip(head[1:], row[1:], strict=True):
            assert value == whole.get(name, value) and "…" not in value
    assert "…" not in "".join("".join(row) for row in table(text, "type"))
    if width >= 80:
        assert head[: len(NEEDED)] == NEEDED
    if width >= 160:
        assert head == ["process", *(column.head for column in OF_PROCESSES)]


def test_the_row_of_all() -> None:
    text = lines(ClusterTables([process(n) for n in range(3)]), 120)
    all_of_them = cells(table(text, "process")[1])
    assert all_of_them[:8] == [
        "all",
        "60,000",
        "198,000",
        "500",  # each process takes what is published
        "370,370",
        "12.3",
        "3.7 MB",
        "370,368",
    ]


def test_by_type() -> None:
    rows = {
        row[0]: row for row in map(cells, table(lines(ClusterTables([process(0)]), 120), "type"))
    }
    assert list(rows) == ["type", *SUBSCRIPTION_TYPES]
    assert rows["events"] == ["events", "11,000", "5.0 M", "70.0 G", "10,000", "0", "0"]
    assert rows["alerts"][4] == "-"  # a log that does not answer


def test_one_that_drains_and_has_nothing_to_say() -> None:
    idle = process(1, draining=True, lag=None, published_per_second=0.4, delivered_per_second=0.0)
    text = lines(ClusterTables([idle]), 80)
    assert text[0].strip() == "1 process, hosts: 1"
    row = table(text, "process")[2]
    assert "(draining)" in row[0] and cells(row)[3:6] == ["0.4", "0", "-"]


@pytest.mark.parametrize("height", [18, 19, 24, 40])
def test_processes_without_room_are_counted(height: int) -> None:
    text = lines(ClusterTables([process(n) for n in range(100)]), 80, height)
    rows = [cells(row) for row in table(text, "process")][2:]
    [note] = rows[-1]
    assert note == f"and {100 - (len(rows) - 1)} more" and len(rows) >= 2
    assert len(text) <= height


def test_as_many_processes_as_there_is_room_for() -> None:
    text = lines(ClusterTables([process(n) for n in range(8)]), 80, 24)
    assert len(text) == 24 and "more" not in text[-2]


def test_a_terminal_of_one_line() -> None:
    assert len(lines(ClusterTables([process(n) for n in range(100)]), 1, 1)) == 1


def test_nobody() -> None:
    text = lines(ClusterTables([]), 80)
    assert text[0].strip() == "0 processes, hosts: 0"
    assert [cells(row)[0] for row in table(text, "process")] == ["process", "all"]


def test_a_note() -> None:
    shown = ClusterTables([process(1)]).with_note("the channel layer does not answer")
    assert lines(shown, 80)[0].strip() == "1 process, hosts: 1  the channel layer does not answer"
