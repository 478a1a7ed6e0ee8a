"""Whose turn it is among several relays, and waiting for messages; knows databases, no messages.

One relay works, the others wait and take over when it ends, however it does. That saves work: were
two to work, the batches that they claim in the database would still be published once and in order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import Any, Protocol

from django.db import connection

from realtime.publishing.outbox import CHANNEL

# PostgreSQL's advisory lock of the one whose turn it is: "realtime" in ASCII.
LOCK = 0x7265616C74696D65
POLL_INTERVAL = 0.2


class Turn(Protocol):
    """One relay's place among all."""

    def take(self) -> bool:
        """Take the turn if nobody has it; tell whether this relay has it."""

    def wait(self, seconds: float) -> None:
        """Wait for messages, no longer than so."""

    def close(self) -> None:
        """Give the turn up; it ends with the process too."""


class PostgreSQLTurn:
    """An advisory lock of a connection of its own, which also hears of new messages.

    Raises psycopg's errors when that connection is lost, and with it the turn.
    """

    def __init__(self) -> None:
        import psycopg

        parameters = connection.get_connection_params()
        parameters.pop("pool", None)
        self._connection: Any = psycopg.connect(**parameters, autocommit=True)
        self._connection.execute(f"LISTEN {CHANNEL}")

    def take(self) -> bool:
        """Take the lock, once."""
        held = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = %s"
        own = [self._connection.info.backend_pid]
        if self._connection.execute(held, own).fetchone():
            return True
        return bool(
            self._connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone()[0]
        )

    def wait(self, seconds: float) -> None:
        """Wait for a notification."""
        for _ in self._connection.notifies(timeout=seconds, stop_after=1):
            return

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class FileTurn:
    """A lock on a file beside SQLite's. Without a file there is one process: nothing to lock."""

    def __init__(self) -> None:
        name = str(connection.settings_dict["NAME"])
        path = Path(f"{name}-relay.lock")
        is_file = connection.vendor == "sqlite" and Path(name).exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600) if is_file else None

    def take(self) -> bool:
        """Take the lock; again if need be."""
        if self._file is None:
            return True
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    def wait(self, seconds: float) -> None:
        """Wait; nothing tells of messages."""
        time.sleep(min(seconds, POLL_INTERVAL))

    def close(self) -> None:
        """Give the lock up."""
        if self._file is not None:
            os.close(self._file)


def new_turn() -> Turn:
    """Return this process's place, as the database allows."""
    return PostgreSQLTurn() if connection.vendor == "postgresql" else FileTurn()
