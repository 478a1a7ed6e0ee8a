"""``manage.py replay_demo``: publishes the demo's flights and weather; knows nothing of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from realtime import publish_many
from realtime.demo.replay import SPEED, Pace, WeekReplay
from realtime.management.running import RunningCommand, number, one_line
from realtime.publishing.publication import RETRY_INTERVAL, PublishError

MAX_SPEED = 100_000.0
# Weeks from 2013 on: rules do not take a time that is yet to come.
MAX_ROUNDS = 600


class Command(RunningCommand):
    """Replays a week of New York flights and weather."""

    help = "Publish a replayed week of New York flights and weather, over and over."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--speed",
            type=number(f"a number above 0, at most {MAX_SPEED:g}", most=MAX_SPEED),
            default=SPEED,
            help="seconds of the week per real second (default: %(default)g)",
        )

    def run(self, options: dict[str, Any]) -> None:
        self._has_published = False
        rounds = numbered_rounds(settings.DATA_DIR / "demo-rounds")
        pace = Pace(time.monotonic, self.sleep, self.is_stopped, options["speed"])
        with self.stopping():
            try:
                WeekReplay(self.publish, pace, rounds=rounds).run()
            except (PublishError, OSError, EOFError, ValueError) as error:
                raise CommandError(f"replay_demo ended: {one_line(error)}") from error
        self.say("stopped")

    def publish(self, kind: str, payloads: list[dict[str, Any]]) -> None:
        """Publish; once that has worked, try again until it does or the command is stopped.

        What failed may have been published in part: then some of it comes twice.
        """
        while not self.is_stopped():
            try:
                publish_many(kind, payloads)
            except PublishError as error:
                if not self._has_published:  # there is no server, most likely
                    raise
                self.report(error)
                self.sleep(RETRY_INTERVAL)
            else:
                self.report(None)
                self._has_published = True
                return


def numbered_rounds(path: Path) -> Iterator[int]:
    """Yield rounds' numbers that go on where the last replay was, which a file remembers.

    Rules remember how far time has come, longer than the log has messages: a replay that began at
    the first round again would be late to them.
    """
    while True:
        number = 1
        with suppress(OSError, ValueError):
            number = int(path.read_text()) % MAX_ROUNDS + 1
        with suppress(OSError):  # then all are the first
            path.write_text(str(number))
        yield number
