"""The demo's replay on a clock of the tests' own, and the lines that it reads."""

from __future__ import annotations

import gzip
import json
import logging
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.demo.replay import (
    FILES,
    FIRST_FLIGHTS,
    SPEED,
    TICK,
    Pace,
    Record,
    WeekReplay,
    iso,
    parse,
    read_file,
    read_week,
)

Payload = dict[str, Any]
LAST_HOUR = datetime(2013, 1, 7, 23, tzinfo=UTC)


class HandClock:
    """A clock that only sleeping moves, and that says stop at its end."""

    def __init__(self, end: float, overslept: float = 0.0) -> None:
        self.now = 1000.0
        self.end = self.now + end
        self.overslept = overslept
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds + self.overslept

    def pace(self, speed: float = SPEED) -> Pace:
        return Pace(lambda: self.now, self.sleep, lambda: self.now >= self.end, speed)


class Recorder:
    """Keeps what was published, and when."""

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.batches: list[tuple[float, str, list[Payload]]] = []

    def __call__(self, kind: str, payloads: list[Payload]) -> None:
        self.batches.append((self.clock.now, kind, payloads))

    def of(self, kind: str) -> list[Payload]:
        return [payload for _, type_, batch in self.batches for payload in batch if type_ == kind]


def play(
    seconds: float,
    speed: float = SPEED,
    start: datetime = FIRST_FLIGHTS,
) -> Recorder:
    recorder = Recorder(clock := HandClock(seconds))
    WeekReplay(recorder, clock.pace(speed), rounds=count(1), start=start).run()
    return recorder


# -- reading ----------------------------------------------------------------------------------


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    return path


def test_a_bad_line_is_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = gzip.decompress(FILES[1].read_bytes()).splitlines()[:2]
    missing = json.loads(good[0])
    del missing["payload"]["origin"]
    bad = [b"", b"{", b"[]", b"\xff", json.dumps(missing).encode()]
    path = write(tmp_path / "flights.ndjson.gz", good[0], *bad, good[1])
    with caplog.at_level(logging.WARNING):
        records = list(read_file(path))
    assert [record.raw for record in records] == [json.loads(line) for line in good]
    messages = [entry.getMessage() for entry in caplog.records]
    assert [message.split(":")[0] for message in messages] == [
        f"flights.ndjson.gz line {number} skipped" for number in range(2, 7)
    ]
    assert "origin" in messages[-1]


def test_the_week_is_merged_by_time_and_read_lazily() -> None:
    times = [record.time for record in read_week(start=datetime.min.replace(tzinfo=UTC))]
    assert times == sorted(times)
    assert len(times) == 11_704 + 483
    first = next(read_week())
    assert first.time == FIRST_FLIGHTS
    assert first.raw["airport"] == "EWR"


def test_no_line_of_the_week_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    list(read_week())
    assert not caplog.records


# -- pace -------------------------------------------------------------------------------------


def test_an_event_is_published_when_its_time_has_come() -> None:
    recorder = play(60)
    published = 0
    for time, kind, batch in recorder.batches:
        due = FIRST_FLIGHTS + timedelta(seconds=(time - 1000) * SPEED)
        for payload in batch if kind in {"events", "metrics"} else []:
            happened = datetime.fromisoformat(payload["timestamp"])
            assert timedelta() <= due - happened < timedelta(seconds=TICK * SPEED)
            published += 1
    assert published > 300


def test_the_first_round_publishes_the_files_own_objects() -> None:
    recorder = play(30 * 60)
    records = list(read_week())
    for kind in ("events", "metrics"):
        whole = [record.raw | {"round": 1} for record in records if record.type == kind]
        assert recorder.of(kind)[: len(whole)] == whole


def test_batches_stay_bounded_at_any_speed() -> None:
    batches = play(5, 100_000.0).batches
    assert 100 < max(len(batch) for _, _, batch in batches) <= 520


def test_the_default_speed_shows_something_a_few_times_a_second() -> None:
    recorder, seconds = play(27 * 60), 27 * 60
    assert 5 < len(recorder.of("events")) / seconds < 15
    seconds_with_something = {int(time) for time, _, _ in recorder.batches}
    assert len(seconds_with_something) > 0.6 * seconds


def test_after_a_long_pause_the_week_goes_on_where_it_was() -> None:
    recorder = Recorder(clock := HandClock(60, overslept=10))
    WeekReplay(recorder, clock.pace(), rounds=count(1)).run()
    # Six ticks of ten seconds each, of which one second counts.
    last = recorder.of("events")[-1]["timestamp"]
    assert datetime.fromisoformat(last) <= FIRST_FLIGHTS + timedelta(seconds=6 * SPEED)


# -- rounds -----------------------------------------------------------------------------------


def test_each_round_is_a_week_later_and_says_so() -> None:
    recorder = play(25, start=LAST_HOUR)
    assert [status["round"] for status in recorder.of("system_status")] == [1, 2, 3]
    assert [status["message"] for status in recorder.of("system_status")] == [
        f"round {number} of the replay starts at {start}"
        for number, start in enumerate(
            ("2013-01-07T23:00:00.000Z", "2013-01-14T23:00:00.000Z", "2013-01-21T23:00:00.000Z"), 1
        )
    ]
    first, second = (
        [payload for payload in recorder.of("events") if payload["round"] == number]
        for number in (1, 2)
    )
    assert len(first) == len(second) > 10

    def as_first(payload: Payload) -> Payload:
        flight = payload["payload"]
        if "scheduled" in flight:
            flight = flight | {"scheduled": a_week_before(flight["scheduled"])}
        shifted = {"timestamp": a_week_before(payload["timestamp"]), "payload": flight, "round": 1}
        return payload | shifted

    assert [as_first(payload) for payload in second] == first
    times = [payload["timestamp"] for payload in recorder.of("events")]
    assert times == sorted(times)


def a_week_before(timestamp: str) -> str:
    return iso(datetime.fromisoformat(timestamp) - timedelta(weeks=1))


def test_stopping_ends_the_run_within_a_tick() -> None:
    clock = HandClock(1)
    WeekReplay(Recorder(clock), clock.pace(), rounds=count(1)).run()
    assert clock.now <= clock.end + TICK


# -- lines ----------------------------------------------------------------------------


def departure() -> Payload:
    """Return a flight event as the files have it."""
    details = {"carrier": "UA", "flight": 1, "origin": "EWR", "dest": "IAH"}
    return {
        "event_id": "flt_1_d",
        "event_type": "departure",
        "timestamp": "2013-01-01T10:17:00.000Z",
        "payload": details | {"delay_minutes": 2, "distance_miles": 9},
    }


def record(event: Payload) -> Record:
    return parse(json.dumps(event))


def test_parse_reads_both_kinds_of_line() -> None:
    event = departure()
    assert record(event) == ("events", datetime(2013, 1, 1, 10, 17, tzinfo=UTC), event)
    line = b'{"name":"weather","airport":"JFK","timestamp":"2013-01-01T06:00:00.000Z","x":null}'
    assert parse(line).type == "metrics"
    assert parse(line).raw["airport"] == "JFK"


@pytest.mark.parametrize("key", ["event_id", "event_type", "timestamp", "payload"])
def test_a_missing_field_is_a_bad_record(key: str) -> None:
    event = departure()
    del event[key]
    with pytest.raises(ValueError):
        record(event)


@pytest.mark.parametrize(
    "key", ["carrier", "flight", "origin", "dest", "delay_minutes", "distance_miles"]
)
def test_a_missing_detail_is_a_bad_record(key: str) -> None:
    event = departure()
    del event["payload"][key]
    with pytest.raises(ValueError, match=key):
        record(event)


@given(st.one_of(st.text(), st.binary(), st.recursive(st.none(), st.lists).map(json.dumps)))
def test_any_line_is_a_record_or_a_bad_record(line: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse(line)


def test_a_time_without_a_zone_is_a_bad_record() -> None:
    event = departure() | {"timestamp": "2013-01-01T10:17:00"}
    with pytest.raises(ValueError):
        record(event)
