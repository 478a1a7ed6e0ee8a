"""``manage.py replay_demo``: publishes the demo; knows the terminal and signals, no flights."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime import publish_many
from realtime.demo.replay import (
    FIRST_FLIGHTS,
    SPEED,
    GaveUp,
    NothingToReplay,
    Pace,
    PatientPublisher,
    Replay,
    read_week,
)
from realtime.management.children import add_parent_argument
from realtime.management.stopping import sleep, stop_signals
from realtime.publishing import PublishError

MAX_SPEED = 100_000.0
# Weeks from 2013 on: a time that is yet to come is none for rules.
MOST_ROUNDS = 600
WEEK = (datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 1, 8, tzinfo=UTC))


class Command(BaseCommand):
    """Replays a week of New York flights and weather until it is stopped."""

    help = "Publish a replayed week of New York flights and weather, over and over."
    # It neither serves nor stores; the server that it feeds has made the checks.
    requires_system_checks: list[str] = []  # noqa: RUF012 - as BaseCommand has it

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--speed",
            type=_speed,
            default=SPEED,
            help="seconds of the week per real second (default: %(default)g)",
        )
        parser.add_argument(
            "--start",
            type=_start,
            default=FIRST_FLIGHTS,
            help="where in the week, 2013-01-01 to 07, each round starts; UTC "
            "(default: 2013-01-01T10:00)",
        )
        add_parent_argument(parser)

    def handle(
        self, *args: Any, speed: float, start: datetime, parent: int | None, **options: Any
    ) -> None:
        """Play until a signal comes or publishing has failed for too long."""
        with stop_signals(parent) as stopped:
            pace = Pace(time.monotonic, partial(sleep, stopped=stopped), stopped, speed)
            replay = Replay(
                PatientPublisher(publish_many, pace, retry_on=PublishError, say=self._say),
                pace,
                records=partial(read_week, start=start),
                start=start,
                rounds=numbered_rounds(settings.DATA_DIR / "demo-rounds"),
                say=self._say,
            )
            self._run(replay)

    def _run(self, replay: Replay) -> None:
        try:
            replay.run()
        except NothingToReplay:
            raise CommandError("replay_demo: nothing to replay after --start") from None
        except (GaveUp, OSError, EOFError, ValueError) as error:
            raise CommandError(f"replay_demo ended: {error}") from error
        self._say("stopped")

    def _say(self, message: str) -> None:
        """Write one line for the operator, who may have gone with the other end of the pipe."""
        with suppress(OSError, ValueError):
            self.stderr.write(f"replay_demo: {message}")
            self.stderr.flush()


def numbered_rounds(path: Path) -> Iterator[int]:
    """Yield rounds' numbers that go on where the last replay was, which a file remembers."""
    while True:
        number = 1
        with suppress(OSError, ValueError):
            number = int(path.read_text()) % MOST_ROUNDS + 1
        with suppress(OSError):  # then all are the first
            path.write_text(str(number))
        yield number


def _speed(text: str) -> float:
    with suppress(ValueError):
        if 0 < (speed := float(text)) <= MAX_SPEED:
            return speed
    raise argparse.ArgumentTypeError(f"{text!r}: a number above 0, at most {MAX_SPEED:g}")


def _start(text: str) -> datetime:
    with suppress(ValueError):
        start = datetime.fromisoformat(text)
        start = start.replace(tzinfo=UTC) if start.tzinfo is None else start
        if WEEK[0] <= start < WEEK[1]:
            return start.astimezone(UTC)
    raise argparse.ArgumentTypeError(f"{text!r}: a UTC time from 2013-01-01 until 2013-01-08")
