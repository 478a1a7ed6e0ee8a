"""Delays as alerts and as figures per airport; knows the flights it was given, and no clock."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from realtime.demo.messages import Message, flight_fields, iso, mean
from realtime.demo.records import Arrival, Cancellation, Departure, FlightEvent, Record, Weather

WINDOW = timedelta(minutes=60)
PUBLISH_EVERY = timedelta(minutes=10)
# The Bureau of Transportation Statistics counts a flight as late from 15 minutes on.
LATE_MINUTES = 15
# Most severe first: (minutes, severity).
LONG_DELAYS = ((120, "critical"), (60, "warning"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def long_delay_alert(event: Departure | Arrival) -> list[Message]:
    """Return an alert for a long delay; at arrival only if it is graver than at departure."""
    flight = event.payload
    minutes, severity = _grade(flight.delay_minutes)
    if isinstance(event, Arrival) and minutes <= _grade(event.payload.departure_delay_minutes)[0]:
        return []
    if not severity:
        return []
    left = isinstance(event, Departure)
    payload = {
        "alert_id": f"{event.event_id}_delay",
        "name": "long_delay",
        "severity": severity,
        "event_id": event.event_id,
        "phase": "departure" if left else "arrival",
        **flight_fields(flight),
        "delay_minutes": flight.delay_minutes,
        "threshold_minutes": minutes,
        "timestamp": iso(event.timestamp),
        "message": f"{flight.carrier} {flight.flight} {flight.origin}-{flight.dest} "
        f"{'left' if left else 'arrived'} {flight.delay_minutes} minutes late",
    }
    return [Message("alerts", payload)]


def _grade(delay: int) -> tuple[int, str]:
    """Return the threshold that a delay reaches and its severity; ``(0, "")`` for none."""
    return next((grade for grade in LONG_DELAYS if delay >= grade[0]), (0, ""))


@dataclass
class Tally:
    """Counts of flights: those that left and arrived, with their delays, and the cancelled."""

    departures: int = 0
    departure_delays: int = 0
    max_departure_delay: int | None = None
    late_departures: int = 0
    arrivals: int = 0
    arrival_delays: int = 0
    max_arrival_delay: int | None = None
    cancellations: int = 0

    def add(self, event: FlightEvent) -> None:
        """Count one event."""
        match event:
            case Departure(payload=flight):
                delay = flight.delay_minutes
                self.departures += 1
                self.departure_delays += delay
                self.max_departure_delay = _larger(self.max_departure_delay, delay)
                self.late_departures += delay >= LATE_MINUTES
            case Arrival(payload=flight):
                delay = flight.delay_minutes
                self.arrivals += 1
                self.arrival_delays += delay
                self.max_arrival_delay = _larger(self.max_arrival_delay, delay)
            case Cancellation():
                self.cancellations += 1

    def summary(self) -> dict[str, Any]:
        """Return the figures; a mean or maximum of no flights is None."""
        return {
            "departures": self.departures,
            "mean_departure_delay_minutes": mean(self.departure_delays, self.departures),
            "max_departure_delay_minutes": self.max_departure_delay,
            "late_departures": self.late_departures,
            "late_share": mean(self.late_departures, self.departures, digits=4),
            "arrivals": self.arrivals,
            "mean_arrival_delay_minutes": mean(self.arrival_delays, self.arrivals),
            "max_arrival_delay_minutes": self.max_arrival_delay,
            "cancellations": self.cancellations,
        }


@dataclass
class Airport:
    """What is known of one airport: all its flights so far, and the recent ones one by one."""

    since_start: Tally = field(default_factory=Tally)
    recent: list[FlightEvent] = field(default_factory=list)

    def window(self, start: datetime) -> Tally:
        """Count the events from ``start`` on and forget the earlier ones."""
        self.recent = [event for event in self.recent if event.timestamp >= start]
        tally = Tally()
        for event in self.recent:
            tally.add(event)
        return tally


class AirportDelays:
    """Delay figures per airport over a sliding window of event time, and since the start."""

    def __init__(self, start: datetime, round_number: int) -> None:
        self._start = start
        self._round = round_number
        self._airports: dict[str, Airport] = defaultdict(Airport)
        # When the next window ends: at full steps of PUBLISH_EVERY, whatever the start.
        self.next_end = start - (start - EPOCH) % PUBLISH_EVERY + PUBLISH_EVERY

    def add(self, record: Record) -> None:
        """Count a record. Weather makes its airport known, so that it shows with 0 flights."""
        airport = self._airports[record.airport]
        if not isinstance(record.item, Weather):
            airport.since_start.add(record.item)
            airport.recent.append(record.item)

    def advance(self, time: datetime) -> list[Message]:
        """Return the figures of the windows that end up to ``time``."""
        messages = []
        while self.next_end <= time:
            end, self.next_end = self.next_end, self.next_end + PUBLISH_EVERY
            messages += [self._message(name, end) for name in sorted(self._airports)]
        return messages

    def _message(self, name: str, end: datetime) -> Message:
        airport, start = self._airports[name], max(end - WINDOW, self._start)
        payload = {
            "name": "airport_delays",
            "airport": name,
            "round": self._round,
            "window_start": iso(start),
            "window_end": iso(end),
            **airport.window(start).summary(),
            "since_start": airport.since_start.summary(),
            "timestamp": iso(end),
        }
        return Message("aggregations", payload)


def _larger(known: int | None, value: int) -> int:
    return value if known is None else max(known, value)
