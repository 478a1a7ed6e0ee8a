"""Replays the demo's week: reads the files line by line, and publishes at each tick what is due.

Knows files and an injected clock, sleep and publish function; no Django, no channel layer.
"""

from __future__ import annotations

import gzip
import heapq
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from operator import attrgetter
from pathlib import Path
from typing import Any

from realtime.demo.messages import Message, iso
from realtime.demo.records import BadRecord, Record, Weather, parse

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
ORDER = ("events", "metrics", "system_status")
WEEK = timedelta(weeks=1)

Publish = Callable[[str, list[dict[str, Any]]], object]


def read_file(path: Path) -> Iterator[Record]:
    """Read a file's records one by one; a bad line is logged and skipped."""
    with gzip.open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield parse(line)
            except BadRecord as error:
                logger.warning("%s line %d skipped: %s", path.name, number, error)


def read_week(files: Iterable[Path] = FILES, start: datetime = FIRST_FLIGHTS) -> Iterator[Record]:
    """Read the records of all files from ``start`` on, by time. Each file is in order."""
    merged = heapq.merge(*map(read_file, files), key=attrgetter("time"))
    return (record for record in merged if record.time >= start)


@dataclass(frozen=True)
class Pace:
    """Real time as the replay sees it; tests put their own clock here."""

    clock: Callable[[], float]
    sleep: Callable[[float], object]
    is_stopped: Callable[[], bool]
    # Seconds of the week per real second.
    speed: float = SPEED


class WeekReplay:
    """Plays the week again and again until stopped, each round a week later than the one before.

    So time goes on for rules that read it: a window that is over stays over. ``rounds`` are the
    rounds' numbers, from 1; ``start`` is where in the week each begins.
    """

    def __init__(
        self,
        publish: Publish,
        pace: Pace,
        *,
        start: datetime = FIRST_FLIGHTS,
        rounds: Iterable[int] | None = None,
    ) -> None:
        self._publish = publish
        self._pace = pace
        self._start = start
        self._rounds = count(1) if rounds is None else rounds
        # Messages that are due and not yet published, in order.
        self._due: list[Message] = []
        # How far the week has come.
        self._now = start
        self._last_tick = pace.clock()

    def run(self) -> None:
        """Play rounds until stopped. Raises what publishing raises."""
        for number in self._rounds:
            self._begin(number)
            self._play(number)
            if self._pace.is_stopped():
                return

    def _begin(self, round_number: int) -> None:
        """Tell subscribers where the replay is."""
        start = iso(self._start + shift_of(round_number))
        payload = {
            "component": "replay",
            "status": "ok",
            "round": round_number,
            "speed": self._pace.speed,
            "replay_time": start,
            "message": f"round {round_number} of the replay starts at {start}",
        }
        self._due.append(Message("system_status", payload))
        self._now = self._start

    def _play(self, round_number: int) -> None:
        """Publish the week's records, each when its time has come."""
        for record in read_week(start=self._start):
            while record.time > self._now:
                self._tick()
                if self._pace.is_stopped():
                    return
            self._due.append(in_round(record, round_number))
            if len(self._due) >= MAX_BATCH:
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
        due, self._due = self._due, []
        for kind in ORDER:
            if payloads := [message.payload for message in due if message.type == kind]:
                self._publish(kind, payloads)


def shift_of(round_number: int) -> timedelta:
    """Return by how much a round is later than the files."""
    return (round_number - 1) * WEEK


def in_round(record: Record, round_number: int) -> Message:
    """Return the message of a record: as in its file, but later, and with the round's number."""
    shift = shift_of(round_number)
    payload = record.raw | {"timestamp": iso(record.time + shift), "round": round_number}
    if isinstance(record.item, Weather):
        return Message("metrics", payload)
    flight = payload["payload"]
    if "scheduled" in flight:
        scheduled = datetime.fromisoformat(flight["scheduled"]) + shift
        payload["payload"] = flight | {"scheduled": iso(scheduled)}
    return Message("events", payload)
