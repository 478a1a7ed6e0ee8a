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
from datetime import datetime, timedelta
from typing import Any

import msgspec

from realtime import predictor
from realtime.demo.replay import Arrival, Departure, iso

HAS_RIVER = importlib.util.find_spec("river") is not None
# Raise the number when what is pickled changes; another release of river may pickle otherwise, too.
VERSION = f"2, river {importlib.metadata.version('river')}" if HAS_RIVER else "2, similar flights"
# A flight that has not arrived after this time was diverted.
LONGEST_FLIGHT = timedelta(hours=24)


def river_model() -> Any:
    """Return a linear regression with features scaled as they are seen."""
    from river import compose, linear_model, optim, preprocessing

    numbers = compose.Select("delay_minutes", "distance_miles", "hour")
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
        """Learn how much time a flight has lost."""
        for group in self._groups(x):
            total, count = self._seen.get(group, (0.0, 0))
            self._seen[group] = (total + y, count + 1)

    def predict_one(self, x: dict[str, Any]) -> float:
        """Return how much time a flight will lose, 0 if no group is large enough."""
        for group in self._groups(x):
            total, count = self._seen.get(group, (0.0, 0))
            if count >= self.ENOUGH:
                return total / count
        return 0.0

    def _groups(self, x: dict[str, Any]) -> list[tuple[str, ...]]:
        return [(*names, *(x[name] for name in names)) for names in self.GROUPS]


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
        self._begin(None)

    def _begin(self, round_number: int | None) -> None:
        self.round = round_number
        self.model = river_model() if HAS_RIVER else SimilarFlights()
        self.scored_flights = 0
        # Minutes of error in all: the model's, and that of expecting the delay at the departure.
        self.error = self.naive_error = 0.0
        # Flight -> when it left, its features, the delay that is expected. The oldest is first.
        self.in_the_air: dict[str, tuple[datetime, dict[str, Any], float]] = {}

    def save(self) -> bytes:
        """Return all that has been learnt."""
        return pickle.dumps(vars(self))

    def restore(self, data: bytes) -> None:
        """Go on from there."""
        # It comes out of `save`: the runner has checked that.
        vars(self).update(pickle.loads(data))  # noqa: S301

    def predict(self, payloads: list[dict[str, Any]]) -> list[dict[str, Any] | None]:
        """Return a forecast for each departure and the outcome of it for each arrival."""
        return [self._predict(payload) for payload in payloads]

    def _predict(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        try:
            event = msgspec.convert(payload, Departure | Arrival)
        except msgspec.ValidationError:
            return None  # not a flight of the demo
        if payload.get("round") != self.round:
            # The same flights again: the model must not know them.
            self._begin(payload.get("round"))
        # The departure flt_1_d and the arrival flt_1_a are of the flight flt_1.
        flight, flight_id = event.payload, event.event_id.rpartition("_")[0]
        if isinstance(event, Departure):
            kind, details = "forecast", self._forecast(flight_id, event)
        elif flight_id in self.in_the_air:
            kind, details = "outcome", self._learn(flight_id, event)
        else:
            return None  # it departed before this began
        return {
            "prediction_id": f"{flight_id}_p",
            "name": "arrival_delay",
            "kind": kind,
            "event_id": event.event_id,
            "airport": flight.origin,
            "dest": flight.dest,
            "carrier": flight.carrier,
            "flight": flight.flight,
            "timestamp": iso(event.timestamp),
            **details,
            "scored_flights": self.scored_flights,
            "mean_absolute_error_minutes": self._mean(self.error),
            "naive_mean_absolute_error_minutes": self._mean(self.naive_error),
        }

    def _mean(self, total: float) -> float | None:
        return round(total / self.scored_flights, 2) if self.scored_flights else None

    def _forecast(self, flight_id: str, departure: Departure) -> dict[str, Any]:
        features = msgspec.structs.asdict(departure.payload) | {"hour": departure.timestamp.hour}
        delay = departure.payload.delay_minutes
        expected = delay + self.model.predict_one(features)
        self.in_the_air[flight_id] = (departure.timestamp, features, expected)
        return {
            "departure_delay_minutes": delay,
            # Adding 0.0 turns a rounded -0.0 into 0.0.
            "expected_arrival_delay_minutes": round(expected, 1) + 0.0,
        }

    def _learn(self, flight_id: str, arrival: Arrival) -> dict[str, Any]:
        """Score the forecast of a flight that has arrived, then learn from the flight."""
        _, features, expected = self.in_the_air.pop(flight_id)
        while self.in_the_air:
            oldest, (left, *_) = next(iter(self.in_the_air.items()))
            if arrival.timestamp - left <= LONGEST_FLIGHT:
                break
            del self.in_the_air[oldest]
        delay = arrival.payload.delay_minutes
        lost = delay - features["delay_minutes"]
        self.scored_flights += 1
        self.error += abs(delay - expected)
        self.naive_error += abs(lost)
        self.model.learn_one(features, lost)
        return {
            "expected_arrival_delay_minutes": round(expected, 1) + 0.0,
            "arrival_delay_minutes": delay,
            "absolute_error_minutes": round(abs(delay - expected), 1),
        }
