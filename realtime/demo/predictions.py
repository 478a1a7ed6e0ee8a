"""The expected arrival delay of a flight that leaves; knows only what arrived before, no clock."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from realtime.demo.messages import Message, flight_fields, iso, mean
from realtime.demo.records import Arrival, Departure, Flight

# A mean over fewer flights says less than the mean of a broader group.
MIN_SAMPLES = 5


@dataclass
class Mean:
    """A running mean."""

    total: float = 0
    count: int = 0

    def add(self, value: float) -> None:
        """Count one value."""
        self.total += value
        self.count += 1

    def value(self) -> float | None:
        """Return the mean, None without values."""
        return mean(self.total, self.count)


class Predictor:
    """Expects a flight to arrive with its departure delay less what such flights make up.

    "Such flights" are the narrowest group with enough arrivals so far: same route and carrier,
    same route, same carrier, all. Nothing is known of a flight's own arrival when it leaves.
    """

    def __init__(self, round_number: int) -> None:
        self._round = round_number
        # Group (see _groups) → minutes made up in the air by its arrivals so far.
        self._made_up: dict[tuple[str, ...], Mean] = defaultdict(Mean)
        # Flight → expected arrival delay, for flights in the air.
        self._open: dict[str, float] = {}
        self._error = Mean()
        # The error of simply expecting the departure delay: what the model has to beat.
        self._naive_error = Mean()

    def forecast(self, departure: Departure) -> Message:
        """Return what to expect of a flight that has just left."""
        flight = departure.payload
        basis, made_up = self._best_group(flight)
        expected = round(flight.delay_minutes - (made_up.value() or 0.0), 1) + 0.0
        self._open[_flight_id(departure)] = expected
        payload = {
            **self._head("forecast", departure),
            "departure_delay_minutes": flight.delay_minutes,
            "expected_arrival_delay_minutes": expected,
            "basis": basis,
            "basis_flights": made_up.count,
            "mean_made_up_minutes": made_up.value(),
        }
        return Message("predictions", payload | self._score())

    def learn(self, arrival: Arrival) -> list[Message]:
        """Learn from an arrival; return the score of its forecast, if there was one."""
        flight = arrival.payload
        for _, group in _groups(flight):
            self._made_up[group].add(flight.departure_delay_minutes - flight.delay_minutes)
        expected = self._open.pop(_flight_id(arrival), None)
        if expected is None:
            return []
        error = round(abs(flight.delay_minutes - expected), 1)
        self._error.add(error)
        self._naive_error.add(abs(flight.delay_minutes - flight.departure_delay_minutes))
        payload = {
            **self._head("outcome", arrival),
            "expected_arrival_delay_minutes": expected,
            "arrival_delay_minutes": flight.delay_minutes,
            "absolute_error_minutes": error,
        }
        return [Message("predictions", payload | self._score())]

    def _best_group(self, flight: Flight) -> tuple[str, Mean]:
        for basis, group in _groups(flight):
            if group in self._made_up and self._made_up[group].count >= MIN_SAMPLES:
                return basis, self._made_up[group]
        return "none", Mean()

    def _head(self, kind: str, event: Departure | Arrival) -> dict[str, Any]:
        return {
            "prediction_id": f"{_flight_id(event)}_p",
            "name": "arrival_delay",
            "kind": kind,
            "round": self._round,
            "event_id": event.event_id,
            **flight_fields(event.payload),
            "timestamp": iso(event.timestamp),
        }

    def _score(self) -> dict[str, Any]:
        return {
            "scored_flights": self._error.count,
            "mean_absolute_error_minutes": self._error.value(),
            "naive_mean_absolute_error_minutes": self._naive_error.value(),
        }


def _groups(flight: Flight) -> list[tuple[str, tuple[str, ...]]]:
    """Return the groups that a flight belongs to, narrowest first: (name, key)."""
    route = (flight.origin, flight.dest)
    return [
        ("route_and_carrier", ("route_and_carrier", *route, flight.carrier)),
        ("route", ("route", *route)),
        ("carrier", ("carrier", flight.carrier)),
        ("all", ("all",)),
    ]


def _flight_id(event: Departure | Arrival) -> str:
    """Return what a flight's departure ``flt_1_d`` and arrival ``flt_1_a`` share: ``flt_1``."""
    return event.event_id.rpartition("_")[0]
