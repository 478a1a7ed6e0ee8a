"""100,000 events of real flights, out of order, and what DuckDB makes of them by itself.

Departures, arrivals and cancellations of January and February 2013 in New York; each comes up to
:data:`LATENESS` seconds of its own time later than one of before it.
"""

from __future__ import annotations

import lzma
import random
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from realtime.protocol import format_timestamp

FILE = Path(__file__).with_name("flights-2013-first-100000.ndjson.xz")
LATENESS = 1800
ALARMING, CALM = 30, 15
DELAY = "payload.delay_minutes"
FUNCTIONS = [
    {"name": "flights", "function": "count"},
    {"name": "sum", "function": "sum", "path": DELAY},
    {"name": "mean", "function": "avg", "path": DELAY},
    {"name": "low", "function": "min", "path": DELAY},
    {"name": "high", "function": "max", "path": DELAY},
    {"name": "p50", "function": "p50", "path": DELAY},
    {"name": "p95", "function": "p95", "path": DELAY},
    {"name": "p99", "function": "p99", "path": DELAY},
    {"name": "planes", "function": "distinct", "path": "payload.tailnum"},
]
# Name -> event type, what is grouped by, size and slide in seconds.
RULES = {
    "departures": ("departure", "origin", 3600, 3600),
    "arrivals": ("arrival", "carrier", 10_800, 1800),
    "cancellations": ("cancellation", "origin", 86_400, 86_400),
}


def rule_fields(name: str) -> dict[str, Any]:
    """Return an aggregation rule, as the admin has it."""
    kind, group, size, slide = RULES[name]
    return {
        "filters": {"event_type": kind},
        "group_by": [f"payload.{group}"],
        "size": size,
        "slide": slide,
        "allowed_lateness": LATENESS,
        "time_path": "timestamp",
        "functions": FUNCTIONS,
    }


def shuffled_lines() -> list[bytes]:
    """Return the events' lines, the same each time."""
    chance = random.Random(2013)
    with lzma.open(FILE, "rb") as file:
        lines = list(file)

    def comes(line: bytes) -> float:
        return _seconds(msgspec.json.decode(line)["timestamp"]) + chance.random() * LATENESS

    return sorted(lines, key=comes)


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


class Oracle:
    """DuckDB's own reading of a file of events."""

    def __init__(self, file: Path) -> None:
        self._database = duckdb.connect()
        self._database.execute(
            "CREATE TABLE events AS SELECT event_type AS kind,"
            " epoch(timestamp::TIMESTAMPTZ)::BIGINT AS seconds, payload.origin AS origin,"
            " payload.carrier AS carrier, payload.tailnum AS tailnum,"
            " payload.delay_minutes AS delay FROM read_json(?, format='newline_delimited')",
            [str(file)],
        )

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *error: object) -> None:
        self._database.close()

    def results(self, name: str) -> dict[tuple[str, str], list[Any]]:
        """Return a rule's figures by group and window, of the windows that are over at the end."""
        kind, group, size, slide = RULES[name]
        rows = self._database.execute(
            f"""
            WITH relevant AS (SELECT *, {group} AS place FROM events WHERE kind = $kind),
            bounds AS (
                SELECT min(seconds) AS first, max(seconds) - $lateness AS watermark FROM relevant
            ),
            windows AS (
                SELECT unnest(range(first // $slide * $slide - $size + $slide, watermark, $slide))
                    AS start, watermark FROM bounds
            )
            SELECT place, start, count(*), sum(delay), avg(delay), min(delay), max(delay),
                quantile_disc(delay, 0.50), quantile_disc(delay, 0.95), quantile_disc(delay, 0.99),
                count(DISTINCT tailnum)
            FROM relevant, windows
            WHERE seconds >= start AND seconds < start + $size AND start + $size <= watermark
            GROUP BY place, start
            """,
            {"kind": kind, "lateness": LATENESS, "size": size, "slide": slide},
        ).fetchall()
        return {(place, format_timestamp(start)): values for place, start, *values in rows}

    def alerts(self) -> list[tuple[str, str, str, float]]:
        """Return origin, time, state and value of each alert on departures' mean delays.

        In order of origin and time. The state is that of the last value beyond one of the bounds.
        """
        kind, group, size, slide = RULES["departures"]
        assert size == slide
        rows = self._database.execute(
            f"""
            WITH hours AS (
                SELECT {group} AS place, seconds // $size * $size + $size AS finish,
                    avg(delay) AS mean
                FROM events WHERE kind = $kind GROUP BY place, finish
                HAVING finish <= (
                    SELECT max(seconds) - $lateness FROM events WHERE kind = $kind
                )
            ),
            beyond AS (
                SELECT *, CASE WHEN mean > $alarming THEN 'firing'
                               WHEN mean <= $calm THEN 'resolved' END AS state FROM hours
            ),
            states AS (
                SELECT *, last_value(state IGNORE NULLS) OVER (
                    PARTITION BY place ORDER BY finish
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before FROM beyond
            )
            SELECT place, finish, state, mean FROM states
            WHERE state IS NOT NULL AND state <> coalesce(before, 'resolved')
            ORDER BY place, finish
            """,
            {
                "kind": kind,
                "size": size,
                "lateness": LATENESS,
                "alarming": ALARMING,
                "calm": CALM,
            },
        ).fetchall()
        return [(place, format_timestamp(at), state, mean) for place, at, state, mean in rows]
