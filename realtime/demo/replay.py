"""Replays the demo's week: reads the files line by line, and publishes at each tick what is due.

Knows files and an injected clock, sleep and publish function; no Django, no channel layer.
"""

from __future__ import annotations

import gzip
import heapq
import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec

from realtime.protocol import format_timestamp

logger = logging.getLogger(__name__)

DATA = Path(__file__).parent / "data"
# The weather comes first, so that it stays so where both have the same time.
FILES = (DATA / "weather-2013-week1.ndjson.gz", DATA / "flights-2013-week1.ndjson.gz")
# The weather starts at 06:00, the flights a little after this.
FIRST_FLIGHTS = datetime(2013, 1, 1, 10, tzinfo=UTC)
# Six minutes of the week a second: 7 flight events a second on average, a week in 27 minutes.
SPEED = 360.0
TICK = 0.25
# After a longer pause (an outage, a sleeping laptop) the replay goes on where it was.
MAX_STEP = 1.0
MAX_BATCH = 500
# A timestamp without a zone could not be compared with the others.
Time = Annotated[datetime, msgspec.Meta(tz=True)]


class Weather(msgspec.Struct, frozen=True):
    """The weather at one airport in one hour."""

    name: str
    airport: str
    timestamp: Time


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


class FlightEvent(msgspec.Struct, frozen=True, tag_field="event_type", tag=str.lower):
    """What happens to a flight; the class, in lower case, is its ``event_type``."""

    event_id: str
    timestamp: Time


class Departure(FlightEvent, frozen=True):
    """A flight leaves one of the three airports."""

    payload: DepartedFlight


class Arrival(FlightEvent, frozen=True):
    """A flight from one of the three airports arrives at its destination."""

    payload: ArrivedFlight


class Cancellation(FlightEvent, frozen=True):
    """A flight is cancelled. The time is its scheduled departure."""

    payload: Flight


class Record(NamedTuple):
    """One line: its subscription type, when it happened, and the file's own object."""

    type: str
    time: datetime
    raw: dict[str, Any]


def parse(line: bytes | str) -> Record:
    """Read one line of the flights or of the weather. Raises ValueError or RecursionError."""
    raw = msgspec.json.decode(line, type=dict[str, Any])
    if "event_type" in raw:
        event = msgspec.convert(raw, Departure | Arrival | Cancellation)
        return Record("events", event.timestamp, raw)
    return Record("metrics", msgspec.convert(raw, Weather).timestamp, raw)


def read_file(path: Path) -> Iterator[Record]:
    """Read a file's records one by one; a bad line is logged and skipped."""
    with gzip.open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield parse(line)
            except (ValueError, RecursionError) as error:
                logger.warning("%s line %d skipped: %s", path.name, number, error)


def read_week(start: datetime = FIRST_FLIGHTS) -> Iterator[Record]:
    """Read the records of all files from ``start`` on, by time. Each file is in order."""
    merged = heapq.merge(*map(read_file, FILES), key=attrgetter("time"))
    return (record for record in merged if record.time >= start)


class Pace(NamedTuple):
    """Real time as the replay sees it; tests put their own clock here."""

    clock: Callable[[], float]
    sleep: Callable[[float], object]
    is_stopped: Callable[[], bool]
    # Seconds of the week per real second.
    speed: float


class WeekReplay:
    """Plays the week again and again until stopped, each round a week later than the one before.

    So time goes on for rules that read it: a window that is over stays over. ``rounds`` are the
    rounds' numbers, from 1; ``start`` is where in the week each begins.
    """

    def __init__(
        self,
        publish: Callable[[str, list[dict[str, Any]]], object],
        pace: Pace,
        *,
        rounds: Iterable[int],
        start: datetime = FIRST_FLIGHTS,
    ) -> None:
        self._publish = publish
        self._pace = pace
        self._start = start
        self._rounds = rounds
        # Subscription type -> payloads that are due and not yet published, in order.
        self._due: dict[str, list[dict[str, Any]]] = {
            kind: [] for kind in ("events", "metrics", "system_status")
        }
        # How far the week has come.
        self._now = start
        self._last_tick = pace.clock()

    def run(self) -> None:
        """Play rounds until stopped. Raises what publishing raises."""
        for number in self._rounds:
            self._play(number, shift=timedelta(weeks=number - 1))
            if self._pace.is_stopped():
                return

    def _play(self, number: int, shift: timedelta) -> None:
        """Say that a round starts, then publish the week's records, each when its time has come."""
        start = iso(self._start + shift)
        self._due["system_status"].append(
            {
                "component": "replay",
                "status": "ok",
                "round": number,
                "speed": self._pace.speed,
                "replay_time": start,
                "message": f"round {number} of the replay starts at {start}",
            }
        )
        self._now = self._start
        for kind, time, raw in read_week(self._start):
            while time > self._now:
                self._tick()
                if self._pace.is_stopped():
                    return
            payload = raw | {"timestamp": iso(time + shift), "round": number}
            flight = payload.get("payload", {})
            if "scheduled" in flight:
                scheduled = datetime.fromisoformat(flight["scheduled"]) + shift
                payload["payload"] = flight | {"scheduled": iso(scheduled)}
            self._due[kind].append(payload)
            if len(self._due[kind]) >= MAX_BATCH:
                self._flush()
        self._tick()

    def _tick(self) -> None:
        """Publish what is due, then let one tick of real time pass."""
        self._flush()
        self._pace.sleep(TICK)
        tick = self._pace.clock()
        step = min(tick - self._last_tick, MAX_STEP)
        self._last_tick = tick
        self._now += timedelta(seconds=step * self._pace.speed)

    def _flush(self) -> None:
        for kind, payloads in self._due.items():
            if payloads:
                self._due[kind] = []
                self._publish(kind, payloads)


def iso(time: datetime) -> str:
    """Write a time as the files do: UTC, milliseconds, ``Z``."""
    return format_timestamp(time.timestamp())
