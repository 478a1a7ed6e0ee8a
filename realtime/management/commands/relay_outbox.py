"""``manage.py relay_outbox``: publishes what ``publish(..., durable=True)`` has written."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from django.core.management.base import CommandParser
from django.db import Error, connection, connections

from realtime.management.database import prepare_database
from realtime.management.running import SLICE, RunningCommand
from realtime.publishing.outbox import Relay
from realtime.publishing.publication import RETRY_INTERVAL
from realtime.publishing.relay_lock import POLL_INTERVAL, RelayLock, open_lock

# Seconds between attempts to take the lock, and between looks at whether it is still held.
LOCK_INTERVAL = 0.5
IDLE_INTERVAL = 1.0


class Command(RunningCommand):
    """Of several relays one works, and another takes over when it ends."""

    help = "Publish messages of committed transactions, in order, until interrupted."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--once", action="store_true", help="end when nothing is left to be published"
        )

    def run(self, options: dict[str, Any]) -> None:
        """Relay, through outages of the database and the log."""
        prepare_database(must_answer=False)
        relay = Relay()
        with self.stopping():
            while not self.is_stopped():
                try:
                    # psycopg's errors, which a lock of PostgreSQL raises, become Django's.
                    with connection.wrap_database_errors, contextlib.closing(open_lock()) as lock:
                        self._relay(lock, relay, options["once"])
                    return
                except Error as error:
                    self.say(f"the database does not answer: {str(error).partition(chr(10))[0]}")
                    connections.close_all()
                    self.sleep(RETRY_INTERVAL)

    def _relay(self, lock: RelayLock, relay: Relay, once: bool) -> None:
        """Publish what comes, once this relay has the lock."""
        if not self._wait_for(lock):
            return
        relay.begin()
        self.say("publishing")
        looked_at = 0.0
        while not self.is_stopped():
            if relay.step():
                continue
            if once and not relay.has_waiting():
                break
            if relay.has_waiting():  # for transactions that go on, or for a log that is away
                self.sleep(POLL_INTERVAL)
                continue
            lock.wait(SLICE)
            if time.monotonic() - looked_at >= IDLE_INTERVAL:
                looked_at = time.monotonic()
                lock.take()  # raises if the connection that holds the lock has been lost
        self.say(f"stopped; published {relay.count}")

    def _wait_for(self, lock: RelayLock) -> bool:
        """Wait until no other relay has the lock; tell whether this relay has it now."""
        has_waited = False
        while not self.is_stopped():
            if lock.take():
                return True
            if not has_waited:
                self.say("another relay is publishing; waiting for it to end")
            has_waited = True
            self.sleep(LOCK_INTERVAL)
        return False
