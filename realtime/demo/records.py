"""A line of the demo's files: its fields, checked. Knows nothing of where lines come from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec

# A timestamp without a zone could not be compared with the others.
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class BadRecord(ValueError):
    """A line is not a record: it is not JSON, or a field is missing or of the wrong type."""


class Flight(msgspec.Struct, frozen=True):
    """What all flight events say. Delays are in minutes; negative is early."""

    carrier: str
    flight: int
    origin: str
    dest: str


class DepartedFlight(Flight, frozen=True):
    """A flight that has left."""

    delay_minutes: int
    distance_miles: int


class ArrivedFlight(Flight, frozen=True):
    """A flight that has arrived. Both delays are against the schedule."""

    delay_minutes: int
    departure_delay_minutes: int


class Departure(msgspec.Struct, frozen=True, tag_field="event_type", tag="departure"):
    """A flight leaves one of the three airports."""

    event_id: str
    timestamp: Time
    payload: DepartedFlight


class Arrival(msgspec.Struct, frozen=True, tag_field="event_type", tag="arrival"):
    """A flight from one of the three airports arrives at its destination."""

    event_id: str
    timestamp: Time
    payload: ArrivedFlight


class Cancellation(msgspec.Struct, frozen=True, tag_field="event_type", tag="cancellation"):
    """A flight is cancelled. The time is its scheduled departure."""

    event_id: str
    timestamp: Time
    payload: Flight


class Weather(msgspec.Struct, frozen=True):
    """The weather at one airport in one hour."""

    name: str
    airport: str
    timestamp: Time


FlightEvent = Departure | Arrival | Cancellation


@dataclass(frozen=True, slots=True)
class Record:
    """One line: ``item`` for computing, ``raw`` (the file's own object) for publishing."""

    item: FlightEvent | Weather
    raw: dict[str, Any]

    @property
    def time(self) -> datetime:
        """When it happened."""
        return self.item.timestamp


def parse(line: bytes | str) -> Record:
    """Read one line of the flights or of the weather. Raises :class:`BadRecord`."""
    try:
        raw = msgspec.json.decode(line, type=dict[str, Any])
        if "event_type" in raw:
            return Record(msgspec.convert(raw, FlightEvent), raw)
        return Record(msgspec.convert(raw, Weather), raw)
    except (ValueError, RecursionError) as error:
        raise BadRecord(str(error)) from None
