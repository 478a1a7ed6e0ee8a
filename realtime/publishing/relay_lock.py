"""The lock that one relay of the outbox holds, and its wait for new messages."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

from django.db import connection

from realtime.publishing.outbox import CHANNEL

# The key of PostgreSQL's advisory lock: "realtime" in ASCII.
LOCK = 0x7265616C74696D65
# Seconds.
POLL_INTERVAL = 0.2


class PostgreSQLLock:
    """An advisory lock, held by a connection of its own that also listens for new messages.

    Raises psycopg's errors when that connection is lost, and the lock with it.
    """

    def __init__(self) -> None:
        import psycopg

        parameters = connection.get_connection_params()
        parameters.pop("pool", None)
        self._connection: Any = psycopg.connect(**parameters, autocommit=True)
        self._connection.execute(f"LISTEN {CHANNEL}")

    def take(self) -> bool:
        """Take the lock if nobody has it; tell whether this relay has it now."""
        # Once: PostgreSQL counts how often it was taken.
        held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = %s"
        ask = self._connection.execute
        if ask(held, [self._connection.info.backend_pid]).fetchone():
            return True
        return bool(ask("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone()[0])

    def wait(self, seconds: float) -> None:
        """Wait for new messages, at most so long."""
        for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            return

    def close(self) -> None:
        """Close the connection, and give the lock up with it."""
        self._connection.close()


class FileLock:
    """A lock on a file beside SQLite's. A database in memory has one process: nothing to lock."""

    def __init__(self) -> None:
        name = str(connection.settings_dict["NAME"])
        is_file = connection.vendor == "sqlite" and Path(name).exists()
        flags = os.O_RDWR | os.O_CREAT
        self._file = os.open(f"{name}-relay.lock", flags, 0o600) if is_file else None

    def take(self) -> bool:
        """As :meth:`PostgreSQLLock.take`."""
        try:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def wait(self, seconds: float) -> None:
        """Wait; SQLite does not tell of new messages, so not for long."""
        time.sleep(min(seconds, POLL_INTERVAL))

    def close(self) -> None:
        """Give the lock up."""
        if self._file is not None:
            os.close(self._file)


RelayLock = PostgreSQLLock | FileLock


def open_lock() -> RelayLock:
    """Return the lock of the configured database, not yet taken."""
    return PostgreSQLLock() if connection.vendor == "postgresql" else FileLock()
