"""The demo's figures against the same figures computed the slow and obvious way."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.demo.figures import Figures
from realtime.demo.messages import Message
from realtime.demo.records import BadRecord, Departure, Record, Weather, parse
from realtime.demo.replay import DATA, FIRST_FLIGHTS, read_week

START = FIRST_FLIGHTS
Event = dict[str, Any]


def flight(kind: str, minute: float, number: int = 1, **payload: Any) -> Event:
    """Build a flight event as the files have it, ``minute`` minutes after the start."""
    time = START + timedelta(minutes=minute)
    details = {"carrier": "UA", "flight": number, "origin": "EWR", "dest": "IAH"} | payload
    return {
        "event_id": f"flt_{number}_{kind[0]}",
        "event_type": kind,
        "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "payload": details,
    }


def departure(minute: float, delay: int, number: int = 1, **payload: Any) -> Event:
    return flight("departure", minute, number, delay_minutes=delay, distance_miles=9, **payload)


def arrival(minute: float, left: int, delay: int, number: int = 1, **payload: Any) -> Event:
    delays = {"departure_delay_minutes": left, "delay_minutes": delay}
    return flight("arrival", minute, number, **delays, **payload)


def record(event: Event) -> Record:
    return parse(json.dumps(event))


def play(*events: Event) -> list[Message]:
    figures = Figures(START)
    messages = [message for event in events for message in figures.add(record(event))]
    return messages + figures.finish()


def payloads(messages: list[Message], type_: str) -> list[Event]:
    return [message.payload for message in messages if message.type == type_]


@cache
def week() -> tuple[Message, ...]:
    """Everything that one round through the week publishes."""
    figures = Figures(START)
    messages = [message for item in read_week() for message in figures.add(item)]
    return (*messages, *figures.finish())


@cache
def raw_lines(name: str) -> tuple[Event, ...]:
    """The lines of a file from the start on, read without the code under test."""
    with gzip.open(DATA / f"{name}-2013-week1.ndjson.gz", "rt") as lines:
        events = (json.loads(line) for line in lines)
        return tuple(event for event in events if event["timestamp"] >= "2013-01-01T10:00")


def minutes(timestamp: str) -> float:
    """Minutes from the start to a timestamp."""
    return (datetime.fromisoformat(timestamp) - START).total_seconds() / 60


def naive_summary(airport: str, start: str, end: str) -> Event:
    """Compute an airport's figures from the raw lines; timestamps compare as text."""
    events = [
        event
        for event in raw_lines("flights")
        if event["payload"]["origin"] == airport and start <= event["timestamp"] < end
    ]
    delays: dict[str, list[int]] = {"departure": [], "arrival": [], "cancellation": []}
    for event in events:
        delays[event["event_type"]].append(event["payload"].get("delay_minutes", 0))
    left, arrived = delays["departure"], delays["arrival"]
    late = [delay for delay in left if delay >= 15]
    return {
        "departures": len(left),
        "mean_departure_delay_minutes": round(fmean(left), 2) if left else None,
        "max_departure_delay_minutes": max(left) if left else None,
        "late_departures": len(late),
        "late_share": round(len(late) / len(left), 4) if left else None,
        "arrivals": len(arrived),
        "mean_arrival_delay_minutes": round(fmean(arrived), 2) if arrived else None,
        "max_arrival_delay_minutes": max(arrived) if arrived else None,
        "cancellations": len(delays["cancellation"]),
    }


def contains(whole: Event, part: Event) -> bool:
    return part.items() <= whole.items()


# -- the week, against the raw files ---------------------------------------------------------


def test_events_and_metrics_are_the_files_own_objects() -> None:
    assert payloads(list(week()), "events") == list(raw_lines("flights"))
    assert payloads(list(week()), "metrics") == list(raw_lines("weather"))


def test_aggregations_of_the_week_equal_a_naive_count() -> None:
    aggregations = payloads(list(week()), "aggregations")
    # 10:10 on the first to 24:00 on the seventh, each ten minutes, three airports.
    assert len(aggregations) == (6 * 24 + 14) * 6 * 3
    for figures in aggregations[:60] + aggregations[60:-30:97] + aggregations[-30:]:
        airport, end = figures["airport"], figures["window_end"]
        assert contains(figures, naive_summary(airport, figures["window_start"], end))
        assert figures["since_start"] == naive_summary(airport, "2013-01-01T10:00", end)


def test_windows_end_each_ten_minutes_and_span_an_hour() -> None:
    ends = [minutes(figures["window_end"]) for figures in payloads(list(week()), "aggregations")]
    assert ends == sorted(ends)
    assert set(Counter(ends).values()) == {3}
    for figures in payloads(list(week()), "aggregations"):
        start, end = minutes(figures["window_start"]), minutes(figures["window_end"])
        assert start == max(end - 60, 0)


def test_alerts_of_the_week_equal_a_naive_selection() -> None:
    expected = []
    for event in raw_lines("flights"):
        delay = event["payload"].get("delay_minutes", 0)
        before = event["payload"].get("departure_delay_minutes", -1000)
        if delay >= 120 > before:
            expected.append((event["event_id"], "critical", 120, delay))
        elif delay >= 60 > before:
            expected.append((event["event_id"], "warning", 60, delay))
    found = [
        (alert["event_id"], alert["severity"], alert["threshold_minutes"], alert["delay_minutes"])
        for alert in payloads(list(week()), "alerts")
    ]
    assert found == expected
    assert len(found) > 300


def test_a_departure_comes_before_its_alert() -> None:
    seen = set()
    for message in week():
        if message.type == "events":
            seen.add(message.payload["event_id"])
        elif message.type == "alerts":
            assert message.payload["event_id"] in seen


def test_payloads_are_strict_json_below_the_smallest_message_size() -> None:
    for message in week():
        assert len(json.dumps(message.payload, allow_nan=False)) < 1024


# -- any input --------------------------------------------------------------------------------

airports = st.sampled_from(["EWR", "JFK", "LGA"])
delays = st.integers(-60, 600)


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    times = sorted(draw(st.lists(st.integers(0, 300), max_size=30)))
    events = []
    for number, minute in enumerate(times):
        place = {"origin": draw(airports), "dest": draw(st.sampled_from(["IAH", "MIA"]))}
        match draw(st.sampled_from(["departure", "arrival", "cancellation"])):
            case "departure":
                events.append(departure(minute, draw(delays), number, **place))
            case "arrival":
                events.append(arrival(minute, draw(delays), draw(delays), number, **place))
            case _:
                events.append(flight("cancellation", minute, number, **place))
    return events


@given(event_lists(), st.lists(st.integers(0, 400), max_size=20))
def test_messages_do_not_depend_on_when_the_time_is_advanced(
    events: list[Event], ticks: list[int]
) -> None:
    ticking = sorted(ticks)
    figures, messages = Figures(START), []
    for event in events:
        while ticking and ticking[0] <= minutes(event["timestamp"]):
            messages += figures.advance(START + timedelta(minutes=ticking.pop(0)))
        messages += figures.add(record(event))
    assert messages + figures.finish() == play(*events)


@given(event_lists())
def test_windows_count_each_event_in_its_hour(events: list[Event]) -> None:
    for figures in payloads(play(*events), "aggregations"):
        start, end = minutes(figures["window_start"]), minutes(figures["window_end"])
        inside = [
            event
            for event in events
            if event["payload"]["origin"] == figures["airport"]
            and start <= minutes(event["timestamp"]) < end
        ]
        counts = Counter(event["event_type"] for event in inside)
        assert figures["departures"] == counts["departure"]
        assert figures["arrivals"] == counts["arrival"]
        assert figures["cancellations"] == counts["cancellation"]
        share = figures["late_share"]
        assert share is None if not counts["departure"] else 0 <= share <= 1


# -- single cases -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "severity"),
    [(59, None), (60, "warning"), (119, "warning"), (120, "critical"), (1300, "critical")],
)
def test_alert_severity_at_departure(delay: int, severity: str | None) -> None:
    alerts = payloads(play(departure(20, delay, 1545)), "alerts")
    assert [alert["severity"] for alert in alerts] == ([severity] if severity else [])
    for alert in alerts:
        assert contains(alert, {"airport": "EWR", "flight": 1545, "delay_minutes": delay})
        assert alert["message"] == f"UA 1545 EWR-IAH left {delay} minutes late"


@pytest.mark.parametrize(
    ("left", "delay", "severity"),
    [(10, 70, "warning"), (70, 80, None), (70, 130, "critical"), (150, 130, None), (0, 0, None)],
)
def test_an_arrival_alerts_only_if_it_got_worse(left: int, delay: int, severity: str) -> None:
    alerts = payloads(play(arrival(90, left, delay)), "alerts")
    assert [alert["severity"] for alert in alerts] == ([severity] if severity else [])


def test_an_airport_without_flights_shows_no_figures_rather_than_zero_delay() -> None:
    weather = {"name": "weather", "airport": "LGA", "timestamp": "2013-01-01T10:00:00.000Z"}
    (figures,) = payloads(play(weather), "aggregations")
    assert contains(figures, {"airport": "LGA", "departures": 0, "late_share": None})
    assert figures["mean_departure_delay_minutes"] is None


def test_a_later_start_still_ends_windows_at_full_ten_minutes() -> None:
    figures = Figures(START + timedelta(minutes=3), round_number=2)
    messages = figures.add(record(departure(3, 0))) + figures.finish()
    (window,) = payloads(messages, "aggregations")
    assert window["window_start"] == "2013-01-01T10:03:00.000Z"
    assert window["window_end"] == "2013-01-01T10:10:00.000Z"
    assert window["round"] == 2


# -- reading lines ----------------------------------------------------------------------------


def test_parse_reads_both_kinds_of_line() -> None:
    event = departure(17, 2)
    assert isinstance(record(event).item, Departure)
    assert record(event).raw == event
    assert record(event).time == datetime(2013, 1, 1, 10, 17, tzinfo=UTC)
    line = b'{"name":"weather","airport":"JFK","timestamp":"2013-01-01T06:00:00.000Z","x":null}'
    assert isinstance(parse(line).item, Weather)
    assert parse(line).airport == "JFK"


@pytest.mark.parametrize("key", ["event_id", "event_type", "timestamp", "payload"])
def test_a_missing_field_is_a_bad_record(key: str) -> None:
    event = departure(17, 2)
    del event[key]
    with pytest.raises(BadRecord):
        record(event)


@pytest.mark.parametrize(
    "key", ["carrier", "flight", "origin", "dest", "delay_minutes", "distance_miles"]
)
def test_a_missing_detail_is_a_bad_record(key: str) -> None:
    event = departure(17, 2)
    del event["payload"][key]
    with pytest.raises(BadRecord, match=key):
        record(event)


@given(st.one_of(st.text(), st.binary(), st.recursive(st.none(), st.lists).map(json.dumps)))
def test_any_line_is_a_record_or_a_bad_record(line: str | bytes) -> None:
    with pytest.raises(BadRecord):
        parse(line)


def test_a_time_without_a_zone_is_a_bad_record() -> None:
    event = departure(17, 2) | {"timestamp": "2013-01-01T10:17:00"}
    with pytest.raises(BadRecord):
        record(event)
