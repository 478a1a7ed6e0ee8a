"""``manage.py relay_outbox``: publishes what ``publish(..., durable=True)`` has written."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import Error, connections

from realtime.management.database import prepare_database
from realtime.publishing.relay import Relay
from realtime.publishing.relay_lock import POLL_INTERVAL, Turn, new_turn

# Seconds: how late a signal may be noticed, between looks at whether it is this relay's turn, and
# between looks at an outbox of which nothing was heard.
SLICE = 0.25
TURN_INTERVAL = 0.5
IDLE_INTERVAL = 1.0
RETRY_INTERVAL = 1.0


class Command(BaseCommand):
    """Runs until SIGTERM or Ctrl-C. Of several one works, and another takes over when it ends."""

    help = "Publish messages of committed transactions, in order, until interrupted."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare how to end."""
        parser.add_argument(
            "--once", action="store_true", help="end when nothing is left to be published"
        )

    def handle(self, *args: Any, once: bool, **options: Any) -> None:
        """Relay, through outages of the database and the log."""
        prepare_database(must_answer=False)
        relay = Relay()
        with _signals() as signalled:
            self._signalled = signalled
            while not signalled:
                try:
                    with _closing(new_turn()) as turn:
                        self._take_part(turn, relay, once)
                    return
                except _database_errors() as error:
                    self._say(f"the database does not answer: {str(error).partition(chr(10))[0]}")
                    connections.close_all()
                    self._sleep(RETRY_INTERVAL)

    def _take_part(self, turn: Turn, relay: Relay, once: bool) -> None:
        if not self._wait_for_turn(turn):
            return
        relay.begin()
        self._say("publishing")
        looked_at = 0.0
        while not self._signalled:
            if relay.step():
                continue
            if once and not relay.has_waiting():
                break
            if relay.has_waiting():  # for transactions that go on, or for a log that is away
                self._sleep(POLL_INTERVAL)
                continue
            turn.wait(SLICE)
            if time.monotonic() - looked_at >= IDLE_INTERVAL:
                looked_at = time.monotonic()
                turn.take()  # fails if the connection that has the lock has been lost
        self._say(f"stopped; published {relay.count}")

    def _wait_for_turn(self, turn: Turn) -> bool:
        """Wait until no other relay works; tell whether it is this one's turn."""
        has_waited = False
        while not self._signalled:
            if turn.take():
                return True
            if not has_waited:
                self._say("another relay is publishing; waiting for it to end")
            has_waited = True
            self._sleep(TURN_INTERVAL)
        return False

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._signalled and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, SLICE))

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the other end of a pipe may have gone
            self.stderr.write(f"relay_outbox: {text}")
            self.stderr.flush()


@contextlib.contextmanager
def _closing(turn: Turn) -> Iterator[Turn]:
    try:
        yield turn
    finally:
        turn.close()


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of ending at once: what is claimed is published first."""
    received: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda got, _: received.append(got)) for number in numbers]
    try:
        yield received
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _database_errors() -> tuple[type[Exception], ...]:
    with contextlib.suppress(ImportError):
        import psycopg

        return (Error, psycopg.Error)
    return (Error,)
