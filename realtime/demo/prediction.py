"""An example of online learning: predicts the delay of a flight's arrival when it departs.

Run by ``manage.py run_predictors --module realtime.demo.prediction``. When a flight arrives, its
prediction is scored first, and then the model learns from the flight; so nothing is known in
advance. With `river <https://riverml.xyz>`_ the model is a linear regression, without it a mean of
similar flights.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import pickle
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from realtime import predictor
from realtime.demo.messages import iso
from realtime.demo.records import Arrival, Departure

HAS_RIVER = importlib.util.find_spec("river") is not None
# Another release may be unable to read what this one has pickled.
VERSION = f"river {importlib.metadata.version('river')}" if HAS_RIVER else "similar flights"
# A flight that has not arrived after this time was diverted.
LONGEST_FLIGHT = timedelta(hours=24)


def river_model() -> Any:
    """Return a linear regression with features scaled as they are seen."""
    from river import compose, linear_model, optim, preprocessing

    numbers = compose.Select("departure_delay", "distance", "hour")
    words = compose.Select("origin", "dest", "carrier")
    features = (numbers | preprocessing.StandardScaler()) + (words | preprocessing.OneHotEncoder())
    # Huber's loss: one flight that is hours late should not change everything.
    regression = linear_model.LinearRegression(optim.Adam(0.1), optim.losses.Huber(10.0))
    return features | regression


class SimilarFlights:
    """Predicts the mean of the narrowest group of similar flights that has at least five.

    Has the methods of river's regressors.
    """

    GROUPS = (("origin", "dest", "carrier"), ("origin", "dest"), ("carrier",), ())
    ENOUGH = 5

    def __init__(self) -> None:
        # Group -> sum and number of its flights so far.
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}

    def learn_one(self, x: dict[str, Any], y: float) -> None:
        """Learn from one flight."""
        for group in self._groups(x):
            total, count = self._seen.get(group, (0.0, 0))
            self._seen[group] = (total + y, count + 1)

    def predict_one(self, x: dict[str, Any]) -> float:
        """Predict of one flight."""
        for group in self._groups(x):
            total, count = self._seen.get(group, (0.0, 0))
            if count >= self.ENOUGH:
                return total / count
        return 0.0

    def _groups(self, x: dict[str, Any]) -> list[tuple[str, ...]]:
        return [(*names, *(x[name] for name in names)) for names in self.GROUPS]


@dataclass
class Score:
    """Errors so far: the model's, and that of expecting the departure's delay at arrival."""

    flights: int = 0
    error: float = 0.0
    naive_error: float = 0.0

    def fields(self) -> dict[str, Any]:
        """Return what each prediction says of it."""
        return {
            "scored_flights": self.flights,
            "mean_absolute_error_minutes": self._mean(self.error),
            "naive_mean_absolute_error_minutes": self._mean(self.naive_error),
        }

    def _mean(self, total: float) -> float | None:
        # Adding 0.0 turns a rounded -0.0 into 0.0.
        return round(total / self.flights, 2) + 0.0 if self.flights else None


@predictor(
    "events",
    filters={"event_type": ["departure", "arrival"]},
    name="arrival_delay",
    version=VERSION,
    from_start=True,
)
class ArrivalDelay:
    """Predicts a delay when a flight departs, and scores the prediction when the flight arrives.

    The model predicts how much time a flight loses on its way, so a new model expects the delay of
    the departure at the arrival.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.model = river_model() if HAS_RIVER else SimilarFlights()
        self.score = Score()
        # Flight -> when it left, its features, the delay that is expected.
        self.in_the_air: dict[str, tuple[datetime, dict[str, Any], float]] = {}
        self.round: int | None = None

    def predict(self, payloads: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """Return a forecast for each departure and the outcome of it for each arrival."""
        return [self._predict(payload) for payload in payloads]

    def save(self) -> bytes:
        """Return all that has been learnt."""
        return pickle.dumps((self.model, self.score, self.in_the_air, self.round))

    def restore(self, data: bytes) -> None:
        """Go on from there."""
        # It comes out of `save`: the runner has checked that.
        self.model, self.score, self.in_the_air, self.round = pickle.loads(data)  # noqa: S301

    def _predict(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        try:
            event = msgspec.convert(payload, Departure | Arrival)
        except msgspec.ValidationError:
            return None  # not a flight of the demo
        if payload.get("round") != self.round:
            # The same flights again: the model must not know them.
            self._begin()
            self.round = payload.get("round")
        if isinstance(event, Departure):
            return self._forecast(event)
        return self._learn(event)

    def _forecast(self, departure: Departure) -> dict[str, Any]:
        delay = departure.payload.delay_minutes
        features = _features(departure)
        expected = delay + self.model.predict_one(features)
        self.in_the_air[_flight_id(departure)] = (departure.timestamp, features, expected)
        return {
            **_head("forecast", departure),
            "departure_delay_minutes": delay,
            "expected_arrival_delay_minutes": round(expected, 1) + 0.0,
            **self.score.fields(),
        }

    def _learn(self, arrival: Arrival) -> dict[str, Any] | None:
        """Score the forecast of a flight that has arrived, then learn from the flight."""
        _, features, expected = self.in_the_air.pop(_flight_id(arrival), (None, None, 0.0))
        if features is None:
            return None  # it departed before this began
        self._forget_diverted(arrival.timestamp)
        delay, left = arrival.payload.delay_minutes, features["departure_delay"]
        self.score.flights += 1
        self.score.error += abs(delay - expected)
        self.score.naive_error += abs(delay - left)
        self.model.learn_one(features, delay - left)
        return {
            **_head("outcome", arrival),
            "expected_arrival_delay_minutes": round(expected, 1) + 0.0,
            "arrival_delay_minutes": delay,
            "absolute_error_minutes": round(abs(delay - expected), 1),
            **self.score.fields(),
        }

    def _forget_diverted(self, now: datetime) -> None:
        # The oldest are first.
        while self.in_the_air:
            flight, (left, *_) = next(iter(self.in_the_air.items()))
            if now - left <= LONGEST_FLIGHT:
                return
            del self.in_the_air[flight]


def _features(departure: Departure) -> dict[str, Any]:
    flight = departure.payload
    return {
        "departure_delay": flight.delay_minutes,
        "distance": flight.distance_miles,
        "hour": departure.timestamp.hour,
        "origin": flight.origin,
        "dest": flight.dest,
        "carrier": flight.carrier,
    }


def _head(label: str, event: Departure | Arrival) -> dict[str, Any]:
    flight = event.payload
    return {
        "prediction_id": f"{_flight_id(event)}_p",
        "name": "arrival_delay",
        "kind": label,
        "event_id": event.event_id,
        "airport": flight.origin,
        "dest": flight.dest,
        "carrier": flight.carrier,
        "flight": flight.flight,
        "timestamp": iso(event.timestamp),
    }


def _flight_id(event: Departure | Arrival) -> str:
    """Return what a flight's departure ``flt_1_d`` and arrival ``flt_1_a`` share: ``flt_1``."""
    return event.event_id.rpartition("_")[0]
