"""The demo's pace on a clock of the tests' own, its publisher under failure, and the host."""

from __future__ import annotations

import gzip
import json
import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from realtime.demo.figures import Figures
from realtime.demo.replay import (
    FILES,
    FIRST_FLIGHTS,
    SPEED,
    TICK,
    GaveUp,
    NothingToReplay,
    Pace,
    PatientPublisher,
    Replay,
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
    say: Callable[[str], object] = lambda message: None,
) -> Recorder:
    recorder = Recorder(clock := HandClock(seconds))
    records = partial(read_week, start=start)
    replay = Replay(
        recorder,
        clock.pace(speed),
        records=records,
        start=start,
        say=say,
    )
    replay.run()
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
    assert first.airport == "EWR"


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


def test_a_round_publishes_exactly_the_figures_of_the_week() -> None:
    recorder = play(30 * 60)
    expected = Figures(FIRST_FLIGHTS)
    messages = [message for record in read_week() for message in expected.add(record)]
    messages += expected.finish()
    for kind in ("events", "metrics", "alerts", "aggregations"):
        whole = [message.payload for message in messages if message.type == kind]
        assert recorder.of(kind)[: len(whole)] == whole


@pytest.mark.parametrize("speed", [SPEED, 20_000.0])
def test_a_departure_is_published_before_its_alert(speed: float) -> None:
    seen = set()
    for _, kind, batch in play(20, speed).batches:
        ids = [payload.get("event_id") for payload in batch]
        if kind == "events":
            seen.update(ids)
        elif kind == "alerts":
            assert set(ids) <= seen


def test_batches_stay_bounded_at_any_speed() -> None:
    batches = play(5, 100_000.0).batches
    assert 100 < max(len(batch) for _, _, batch in batches) <= 520


def test_the_default_speed_shows_something_a_few_times_a_second() -> None:
    recorder, seconds = play(27 * 60), 27 * 60
    assert 5 < len(recorder.of("events")) / seconds < 15
    assert 1 < len(recorder.of("aggregations")) / seconds < 3
    seconds_with_something = {int(time) for time, _, _ in recorder.batches}
    assert len(seconds_with_something) > 0.6 * seconds


def test_windows_are_published_in_time_while_no_flight_moves() -> None:
    night = datetime(2013, 1, 2, 8, tzinfo=UTC)
    recorder = play(10, start=night)
    ends = Counter(figures["window_end"] for figures in recorder.of("aggregations"))
    assert len(ends) >= 5
    for time, kind, batch in recorder.batches:
        now = night + timedelta(seconds=(time - 1000) * SPEED)
        for figures in batch if kind == "aggregations" else []:
            late = now - datetime.fromisoformat(figures["window_end"])
            assert timedelta() <= late < timedelta(seconds=TICK * SPEED)


def test_after_a_long_pause_the_week_goes_on_where_it_was() -> None:
    recorder = Recorder(clock := HandClock(60, overslept=10))
    Replay(recorder, clock.pace()).run()
    # Six ticks of ten seconds each, of which one second counts.
    last = recorder.of("events")[-1]["timestamp"]
    assert datetime.fromisoformat(last) <= FIRST_FLIGHTS + timedelta(seconds=6 * SPEED)


# -- rounds -----------------------------------------------------------------------------------


def test_the_week_starts_over_with_clean_figures_and_says_so() -> None:
    said: list[str] = []
    recorder = play(25, start=LAST_HOUR, say=said.append)
    rounds = [status["round"] for status in recorder.of("system_status")]
    assert rounds == [1, 2, 3]
    assert said == [
        f"the week is over; it starts over with clean figures (round {number})" for number in (2, 3)
    ]
    first, second = (
        [
            payload | {"round": 0}
            for payload in recorder.of("aggregations")
            if payload["round"] == number
        ]
        for number in (1, 2)
    )
    assert first == second


def test_the_last_window_of_a_round_is_published() -> None:
    first_round = [f for f in play(12, start=LAST_HOUR).of("aggregations") if f["round"] == 1]
    assert first_round[-1]["window_end"] == "2013-01-08T00:00:00.000Z"


def test_a_start_after_the_week_says_that_there_is_nothing() -> None:
    with pytest.raises(NothingToReplay):
        play(10, start=LAST_HOUR + timedelta(hours=1))


def test_stopping_ends_the_run_within_a_tick() -> None:
    clock = HandClock(1)
    Replay(Recorder(clock), clock.pace()).run()
    assert clock.now <= clock.end + TICK


# -- failing layer ----------------------------------------------------------------------------


class LayerDown(Exception):
    """Stands for the error of a channel layer that does not answer."""


def failing(times: int, then: Callable[[str, list[Payload]], None]) -> Any:
    """Return a publish function that fails the first ``times`` calls."""
    left = [times]

    def publish(kind: str, payloads: list[Payload]) -> None:
        if left[0]:
            left[0] -= 1
            raise LayerDown("no\nanswer")
        then(kind, payloads)

    return publish


def test_publishing_is_tried_again_with_growing_pauses() -> None:
    said: list[str] = []
    recorder = Recorder(clock := HandClock(100))
    patient = PatientPublisher(recorder, clock.pace(), retry_on=LayerDown, say=said.append)
    patient("events", [{"a": 1}])
    patient._publish = failing(4, recorder)
    patient("events", [{"a": 2}])
    assert recorder.of("events") == [{"a": 1}, {"a": 2}]
    assert clock.sleeps == [0.25, 0.5, 1.0, 2.0]
    assert said == ["publishing failed, trying again: no answer", "publishing works again"]


def test_a_layer_that_was_never_there_is_given_up_soon_and_in_one_line() -> None:
    said: list[str] = []
    clock = HandClock(1000)
    publish = failing(1000, Recorder(clock))
    patient = PatientPublisher(publish, clock.pace(), retry_on=LayerDown, say=said.append)
    with pytest.raises(GaveUp, match=r"^publishing has failed for \d+ s: no answer$"):
        patient("events", [{}])
    assert 5 <= clock.now - 1000 < 10
    assert said == []


def test_a_layer_that_went_away_is_waited_for() -> None:
    recorder = Recorder(clock := HandClock(1000))
    patient = PatientPublisher(recorder, clock.pace(), retry_on=LayerDown, say=lambda _: None)
    patient("events", [{}])
    patient._publish = failing(10_000, recorder)
    with pytest.raises(GaveUp):
        patient("events", [{}])
    assert 300 <= clock.now - 1000 < 320
    assert max(clock.sleeps) == 10


def test_stopping_ends_the_waiting() -> None:
    clock = HandClock(3)
    publish = failing(1000, Recorder(clock))
    PatientPublisher(publish, clock.pace(), retry_on=LayerDown, say=lambda _: None)("events", [{}])
    assert clock.now < clock.end + 4


def test_an_outage_loses_and_reorders_nothing() -> None:
    recorder = Recorder(clock := HandClock(60))
    calls = [0]

    def every_third_fails(kind: str, payloads: list[Payload]) -> None:
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise LayerDown
        recorder(kind, payloads)

    pace = clock.pace()
    patient = PatientPublisher(every_third_fails, pace, retry_on=LayerDown, say=lambda _: None)
    Replay(patient, pace).run()
    whole = [record.raw for record in read_week() if "event_type" in record.raw]
    events = recorder.of("events")
    assert len(events) > 100
    assert events == whole[: len(events)]
