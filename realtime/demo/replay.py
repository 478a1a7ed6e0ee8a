"""The pace of the demo: reads the files line by line and publishes what is due, tick by tick.

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


class NothingToReplay(Exception):
    """No record lies at or after the chosen start."""


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
    stopped: Callable[[], bool]
    # Seconds of the week per real second.
    speed: float = SPEED


class Replay:
    """Plays the week again and again until stopped, each round a week later than the one before.

    So that time goes on for whoever reads it: a window that is over stays so. ``rounds`` are the
    rounds' numbers, from 1.
    """

    def __init__(
        self,
        publish: Publish,
        pace: Pace,
        *,
        records: Callable[[], Iterator[Record]] = read_week,
        start: datetime = FIRST_FLIGHTS,
        rounds: Iterable[int] | None = None,
        say: Callable[[str], object] = logger.info,
    ) -> None:
        self._publish = publish
        self._pace = pace
        # Opens the week anew for each round.
        self._records = records
        self._start = start
        self._rounds = count(1) if rounds is None else rounds
        self._say = say
        # Messages due but not yet published, in order.
        self._outbox: list[Message] = []
        # How far the week has come.
        self._now = start
        self._last_tick = pace.clock()

    def run(self) -> None:
        """Play rounds until stopped. Raises :class:`NothingToReplay` and what publishing does."""
        for number, round_number in enumerate(self._rounds):
            self._begin(round_number, is_first=number == 0)
            self._play(round_number)
            if self._pace.stopped():
                return

    def _begin(self, round_number: int, *, is_first: bool) -> None:
        """Tell subscribers where the replay is."""
        start = iso(self._start + later(round_number))
        message = f"replay started at {start}"
        if not is_first:
            message = f"the week is over; its flights leave again, a week later, from {start} on"
            self._say(f"{message} (round {round_number})")
        payload = {
            "component": "replay",
            "status": "ok",
            "round": round_number,
            "speed": self._pace.speed,
            "replay_time": start,
            "message": message,
        }
        self._outbox.append(Message("system_status", payload))
        self._now = self._start

    def _play(self, round_number: int) -> None:
        played = False
        for record in self._records():
            played = True
            while record.time > self._now:
                self._tick()
                if self._pace.stopped():
                    return
            self._outbox.append(in_round(record, round_number))
            if len(self._outbox) >= MAX_BATCH:
                self._flush()
        if not played:
            raise NothingToReplay
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
        outbox, self._outbox = self._outbox, []
        for type_ in ORDER:
            if payloads := [message.payload for message in outbox if message.type == type_]:
                self._publish(type_, payloads)


def later(round_number: int) -> timedelta:
    """Return by how much a round is later than the files."""
    return (round_number - 1) * WEEK


def in_round(record: Record, round_number: int) -> Message:
    """Return what a record is in a round: as in its file, but later, with the round's number."""
    shift = later(round_number)
    payload = record.raw | {"timestamp": iso(record.time + shift), "round": round_number}
    if isinstance(record.item, Weather):
        return Message("metrics", payload)
    flight = payload["payload"]
    if "scheduled" in flight:
        scheduled = datetime.fromisoformat(flight["scheduled"]) + shift
        payload["payload"] = flight | {"scheduled": iso(scheduled)}
    return Message("events", payload)


class GaveUp(Exception):
    """Publishing failed for too long. The message is one line."""


class PatientPublisher:
    """Publishes, and tries again with growing pauses while that raises ``retry_on``.

    A batch whose publishing raised may have been published in part; then some of its messages
    come twice.
    """

    def __init__(
        self,
        publish: Publish,
        pace: Pace,
        *,
        retry_on: type[Exception],
        say: Callable[[str], object] = logger.warning,
        first_patience: float = 5.0,
        patience: float = 300.0,
    ) -> None:
        self._publish = publish
        self._pace = pace
        self._retry_on = retry_on
        self._say = say
        # Whether anything has been published. Until then the layer was likely never there, so
        # giving up comes soon, and in one line.
        self._worked = False
        # Seconds of failing after which to give up: before anything has worked, and then.
        self._patience = (first_patience, patience)

    def __call__(self, type_: str, payloads: list[dict[str, Any]]) -> None:
        """Publish, or return without having published once stopped. Raises :class:`GaveUp`."""
        began = self._pace.clock()
        for attempt in count():
            if self._pace.stopped():
                return
            try:
                self._publish(type_, payloads)
            except self._retry_on as error:
                self._wait(attempt, self._pace.clock() - began, error)
            else:
                if attempt and self._worked:
                    self._say("publishing works again")
                self._worked = True
                return

    def _wait(self, attempt: int, failing_for: float, error: Exception) -> None:
        cause = " ".join(str(error).split()) or type(error).__name__
        if failing_for >= self._patience[self._worked]:
            raise GaveUp(f"publishing has failed for {failing_for:.0f} s: {cause}") from error
        if not attempt and self._worked:
            self._say(f"publishing failed, trying again: {cause}")
        self._pace.sleep(min(0.25 * 2.0 ** min(attempt, 10), 10.0))
