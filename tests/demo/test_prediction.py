"""The demo's predictor on the week's flights: its errors computed anew, and as a command."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import pytest

from realtime import publish_many
from realtime.demo import prediction
from realtime.demo.prediction import ArrivalDelay
from realtime.demo.replay import DATA
from realtime.log import get_log
from tests.support import ROOT, environment
from tests.support.layers import Configure, close_layer, running_valkey

Event = dict[str, Any]
# Model -> its mean error over the week, in minutes; that of the departure's delay is 12.97.
ERRORS = {"river": 10.64, "similar flights": 11.85}


@cache
def week() -> tuple[Event, ...]:
    """Departures and arrivals, in their order."""
    with gzip.open(DATA / "flights-2013-week1.ndjson.gz", "rt") as lines:
        events = map(json.loads, lines)
        return tuple(event for event in events if event["event_type"] != "cancellation")


@pytest.fixture(params=ERRORS)
def model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the models in turn."""
    name: str = request.param
    monkeypatch.setattr(prediction, "HAS_RIVER", name == "river")
    return name


def predict(events: list[Event], learner: ArrivalDelay | None = None) -> list[Event]:
    results = (learner or ArrivalDelay()).predict(events)
    return [item for item in results if item is not None]


def test_the_week_is_predicted_better_than_by_the_departures_delay(model: str) -> None:
    predicted = predict(list(week()))
    landed = {
        event["event_id"].removesuffix("_a"): event["payload"]
        for event in week()
        if event["event_type"] == "arrival"
    }
    errors, naive = [], []
    for item in predicted:
        flight = landed.get(item["event_id"].removesuffix("_d"))
        if item["kind"] == "forecast" and flight:
            errors.append(abs(flight["delay_minutes"] - item["expected_arrival_delay_minutes"]))
            naive.append(abs(flight["delay_minutes"] - item["departure_delay_minutes"]))
    last = predicted[-1]
    assert last["scored_flights"] == len(errors) == 5749
    assert last["naive_mean_absolute_error_minutes"] == round(fmean(naive), 2) == 12.97
    # Forecasts are rounded in messages.
    assert last["mean_absolute_error_minutes"] == pytest.approx(fmean(errors), abs=0.01)
    assert last["mean_absolute_error_minutes"] == pytest.approx(ERRORS[model], abs=0.05)


def test_each_outcome_scores_its_own_forecast(model: str) -> None:
    forecasts: dict[str, Event] = {}
    outcomes = 0
    for item in predict(list(week()[:3000])):
        if item["kind"] == "forecast":
            forecasts[item["prediction_id"]] = item
            continue
        outcomes += 1
        expected = forecasts.pop(item["prediction_id"])["expected_arrival_delay_minutes"]
        assert item["expected_arrival_delay_minutes"] == expected
        assert item["absolute_error_minutes"] == pytest.approx(
            abs(item["arrival_delay_minutes"] - expected), abs=0.11
        )
        assert item["scored_flights"] == outcomes
    assert outcomes > 1000


def test_neither_batches_nor_restarts_change_a_prediction(model: str) -> None:
    whole = predict(list(week()[:3000]))
    parts: list[Event] = []
    learner = ArrivalDelay()
    for first in range(0, 3000, 700):
        parts += predict(list(week()[first : first + 700][: 3000 - first]), learner)
        saved, learner = learner.save(), ArrivalDelay()
        learner.restore(saved)
    assert parts == whole


def test_a_new_round_begins_anew(model: str) -> None:
    learner = ArrivalDelay()
    begin = list(week()[:2000])
    first = predict(begin, learner)
    # Out of order by minutes is no new round: it goes on learning.
    late = predict(begin[-30:], learner)
    assert late[-1]["scored_flights"] >= first[-1]["scored_flights"] > 800
    again = [event | {"round": 2} for event in begin]
    assert predict(again, learner) == first
    # It is in what is saved, too.
    saved, learner = learner.save(), ArrivalDelay()
    learner.restore(saved)
    assert predict([event | {"round": 2} for event in begin[-30:]], learner)[-1]["scored_flights"]


def test_other_events_are_nobodys_flights(model: str) -> None:
    departure = week()[0]
    strange: list[Event] = [
        {"event_type": "departure"},
        {"event_type": "arrival", "event_id": 1, "payload": []},
        departure | {"timestamp": "yesterday"},
        departure | {"payload": departure["payload"] | {"delay_minutes": "late"}},
    ]
    assert ArrivalDelay().predict(strange) == [None] * 4


def test_an_arrival_of_which_nothing_was_expected_is_not_scored(model: str) -> None:
    arrival = next(event for event in week() if event["event_type"] == "arrival")
    assert ArrivalDelay().predict([arrival]) == [None]


def test_flights_that_never_arrive_are_forgotten(model: str) -> None:
    learner = ArrivalDelay()
    predict([event for event in week() if event["event_type"] == "departure"], learner)
    assert len(learner.in_the_air) == 5920
    learner = ArrivalDelay()
    predict(list(week()), learner)
    assert len(learner.in_the_air) < 200


@pytest.mark.processes
async def test_the_week_through_the_command_which_is_killed(
    data_dir: Path, configure: Configure
) -> None:
    configure(history_size="20000")
    whole = predict(list(week()))
    results: list[Event] = []
    with running_valkey(data_dir):
        for first, last in (0, 5000), (5000, len(week())):
            with start(data_dir) as process:
                await asyncio.to_thread(publish_many, "events", week()[first:last])
                # Killed somewhere on the way, but for the last time: then it is done.
                await take(results, 4000 if first == 0 else len(whole))
                process.kill()
        await close_layer()
    for item in results:
        assert item.pop("predictor") == "arrival_delay" and item.pop("source")
    assert results == whole


def start(data_dir: Path) -> subprocess.Popen[bytes]:
    command = ["manage.py", "run_predictors", "--module", "realtime.demo.prediction"]
    variables = environment(data_dir, history_size="20000")
    return subprocess.Popen([sys.executable, *command], env=variables, cwd=ROOT)


async def take(results: list[Event], count: int) -> None:
    """Take what is predicted until there are so many."""
    async with asyncio.timeout(60):
        while len(results) < count:
            chunk = await get_log().read("predictions", len(results))
            results += [msgspec.json.decode(entry.body) for entry in chunk.entries]
            if not chunk.entries:
                await asyncio.sleep(0.05)
