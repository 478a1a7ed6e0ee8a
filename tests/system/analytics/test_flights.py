"""A week of real flights through aggregation rules: equal to what DuckDB makes of the same file."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from realtime.analytics.aggregation.rule import AggregationSpec, make_spec
from realtime.protocol import format_timestamp
from tests.support import ROOT
from tests.support.rule_reader import Reader
from tests.system.analytics.flights import FUNCTIONS

WEEK = ROOT / "realtime/demo/data/flights-2013-week1.ndjson.gz"
LATENESS = 900
QUERY = """
    SELECT {group}, start, count(*), sum(delay), avg(delay), min(delay), max(delay),
        quantile_disc(delay, 0.50), quantile_disc(delay, 0.95), quantile_disc(delay, 0.99),
        count(DISTINCT tailnum)
    FROM flights, (SELECT unnest(range(?, ?, ?)) AS start)
    WHERE kind = ? AND seconds >= start AND seconds < start + ?
    GROUP BY {group}, start
"""


@pytest.fixture(scope="module")
def flights() -> list[dict[str, Any]]:
    """The events of the week, up to so many seconds out of order."""
    chance = random.Random(2013)
    with gzip.open(WEEK, "rt") as lines:
        events = [json.loads(line) for line in lines]
    return sorted(events, key=lambda event: time_of(event) + chance.random() * LATENESS)


@pytest.fixture(scope="module")
def database(flights: list[dict[str, Any]]) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE flights "
            "(kind TEXT, seconds BIGINT, origin TEXT, carrier TEXT, tailnum TEXT, delay BIGINT)"
        )
        rows = [
            [
                event["event_type"],
                time_of(event),
                *(event["payload"].get(name) for name in ("origin", "carrier", "tailnum")),
                event["payload"].get("delay_minutes"),
            ]
            for event in flights
        ]
        connection.executemany("INSERT INTO flights VALUES (?, ?, ?, ?, ?, ?)", rows)
        yield connection


def time_of(event: dict[str, Any]) -> int:
    return int(datetime.fromisoformat(event["timestamp"]).timestamp())


@pytest.mark.parametrize("kind", ["departure", "arrival", "cancellation"])
@pytest.mark.parametrize(("size", "slide"), [(3600, 3600), (10_800, 1800), (86_400, 86_400)])
@pytest.mark.parametrize("group", ["origin", "carrier"])
def test_results_are_those_of_duckdb_to_the_digit(
    flights: list[dict[str, Any]],
    database: duckdb.DuckDBPyConnection,
    kind: str,
    size: int,
    slide: int,
    group: str,
) -> None:
    rule = make_spec(
        "flights",
        filters={"event_type": kind},
        group_by=[f"payload.{group}"],
        size=size,
        slide=slide,
        allowed_lateness=LATENESS,
        time_path="timestamp",
        functions=FUNCTIONS,
    )
    actual = results(rule, flights, kind)
    first = datetime(2012, 12, 31, tzinfo=UTC).timestamp()
    last = datetime(2013, 1, 9, tzinfo=UTC).timestamp()
    rows = database.execute(
        QUERY.format(group=group), [int(first), int(last), slide, kind, size]
    ).fetchall()
    expected = {(value, format_timestamp(start)): figures for value, start, *figures in rows}
    assert len(actual) > (0 if kind == "cancellation" else 20)
    assert actual == expected


def results(
    rule: AggregationSpec, flights: list[dict[str, Any]], kind: str
) -> dict[Any, list[Any]]:
    """Work a rule out in parts of any size, with a restart now and then."""
    chance = random.Random(1)
    reader = Reader(rule)
    at = 0
    while at < len(flights):
        count = chance.randrange(1, 2000)
        reader.take(*flights[at : at + count])
        at += count
        if chance.random() < 0.5:
            reader.save()
            reader.restart()
    # So late that all windows are over.
    reader.take({"event_type": kind, "timestamp": "2013-01-12T00:00:00Z", "payload": {}})
    assert reader.processor.windows.progress.late == 0
    actual = {}
    for row in reader.results:
        [value] = row["group"].values()
        assert (value, row["window"]["start"]) not in actual
        actual[value, row["window"]["start"]] = list(row["values"].values())
    return actual
