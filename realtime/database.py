"""Database work for the event loop: on threads of its own, in bounded time.

Channels runs database work in the one thread that all consumers share; there, one slow query
delays every client. Here a few threads serve it, and a caller waits no longer than
:data:`TIMEOUT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.core.management import call_command
from django.db import Error, InterfaceError, OperationalError, connections

logger = logging.getLogger(__name__)

THREADS = 4
TIMEOUT = 5.0
CLOSE_TIMEOUT = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class Unavailable(Exception):
    """The database does not answer."""


class Database:
    """Runs functions that use the ORM. One for each event loop."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="realtime-database")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *function* returns.

        Raises:
            Unavailable: the database failed or did not answer in time. A call that is late goes
                on in its thread; its result is dropped.
        """
        loop = asyncio.get_running_loop()
        call = loop.run_in_executor(self._executor, lambda: _call(function, *args, **kwargs))
        try:
            async with asyncio.timeout(self._timeout):
                return await call
        except TimeoutError:
            raise Unavailable("the database did not answer in time") from None
        except Error as error:
            raise Unavailable(str(error)) from error

    def close(self) -> None:
        """Let the threads close their connections and end; one that hangs is not waited for."""
        together = threading.Barrier(THREADS)
        for _ in range(THREADS):
            self._executor.submit(_close_connections, together)
        self._executor.shutdown(wait=False)


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *function* with this thread's connection, and once more with a new one if it broke.

    The connection stays open between calls, so it may have died since the one before.
    """
    try:
        return function(*args, **kwargs)
    except (OperationalError, InterfaceError):
        connections.close_all()
        return function(*args, **kwargs)


def _close_connections(together: threading.Barrier) -> None:
    """Close this thread's connections, and stay until the others have taken their turns too."""
    connections.close_all()
    with contextlib.suppress(threading.BrokenBarrierError):
        together.wait(CLOSE_TIMEOUT)


def migrate_embedded() -> None:
    """Bring the embedded database up to date; one that ``DATABASE_URL`` names is left alone."""
    if os.environ.get("DATABASE_URL"):
        return
    with (settings.DATA_DIR / "migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at the same first time
        call_command("migrate", verbosity=0, interactive=False)
