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
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import Error, InterfaceError, OperationalError, connections
from django.db.migrations.executor import MigrationExecutor

logger = logging.getLogger(__name__)

THREADS = 4
TIMEOUT = 5.0
# Of the calls that are late, so many may hold a thread before there are no more new ones.
MAX_HANGING = 32
RETRY_WITHIN = 1.0
CLOSE_TIMEOUT = 1.0

P = ParamSpec("P")
T = TypeVar("T")


class Unavailable(Exception):
    """The database, or a server of the channel layer, does not answer."""


class Database:
    """Runs functions that use the ORM. One for each event loop."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._executor = _threads()
        # Call that nobody waits for any more -> the executor in whose thread it hangs.
        self._hanging: dict[Future[Any], ThreadPoolExecutor] = {}

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *function* returns.

        Raises:
            Unavailable: the database failed or did not answer in time. A call that is late goes
                on in its thread; its result is dropped.
        """
        executor = self._executor
        call = executor.submit(lambda: _call(function, *args, **kwargs))
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(call)
        except TimeoutError:
            raise Unavailable("the database did not answer in time") from None
        except Error as error:
            raise Unavailable(str(error).partition("\n")[0]) from error
        finally:
            self._leave(call, executor)

    def _leave(self, call: Future[Any], executor: ThreadPoolExecutor) -> None:
        """Leave a call; if all threads hang in calls that were left, take new threads.

        The database may be back long before they notice, if they ever do.
        """
        if call.done():
            return
        if not call.cancel():  # it has begun
            self._hanging[call] = executor
        self._hanging = {late: where for late, where in self._hanging.items() if not late.done()}
        hanging_here = sum(where is self._executor for where in self._hanging.values())
        if hanging_here == THREADS and len(self._hanging) <= MAX_HANGING:
            _retire(self._executor)
            self._executor = _threads()

    def close(self) -> None:
        """Let the threads close their connections and end; one that hangs is not waited for."""
        _retire(self._executor)


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="realtime-database")


def _retire(executor: ThreadPoolExecutor) -> None:
    """Let an executor's threads close their connections and end, each when it can."""
    together = threading.Barrier(THREADS)
    for _ in range(THREADS):
        executor.submit(_close_connections, together)
    executor.shutdown(wait=False)


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *function* with this thread's connection, and once more with a new one if it broke.

    SQLite's stays open between calls, and one of a pool waits there, so it may have died since the
    call before. A failure that took its time is no such death.
    """
    began = time.monotonic()
    try:
        return function(*args, **kwargs)
    except (OperationalError, InterfaceError):
        connections.close_all()
        if time.monotonic() - began > RETRY_WITHIN:
            raise
        return function(*args, **kwargs)
    finally:
        _give_back()


def _give_back() -> None:
    """Give this thread's connection back, if it is of a pool; others stay open."""
    for connection in connections.all(initialized_only=True):
        if getattr(connection, "pool", None):
            connection.close()


def _close_connections(together: threading.Barrier) -> None:
    """Close this thread's connections, and stay until the others have taken their turns too."""
    connections.close_all()
    with contextlib.suppress(threading.BrokenBarrierError):
        together.wait(CLOSE_TIMEOUT)


def prepare_database(*, must_answer: bool = True) -> None:
    """Migrate the embedded database; check that one that ``DATABASE_URL`` names has its tables.

    Raises:
        django.core.management.CommandError: it cannot be used, or it does not answer although it
            *must_answer*.
    """
    if not os.environ.get("DATABASE_URL"):
        _migrate_embedded()
        return
    # Without a pool: that would try again and again, and not say why it has no connection.
    connection = connections["default"].copy()
    connection.settings_dict["OPTIONS"].pop("pool", None)
    try:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError("the database lacks tables: run manage.py migrate")
    except Error as error:
        text = f"the database does not answer: {str(error).partition(chr(10))[0]}"
        if must_answer:
            raise CommandError(text) from None
        logger.warning("%s", text)
    finally:
        connection.close()


def _migrate_embedded() -> None:
    with (settings.DATA_DIR / "migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at the same first time
        try:
            call_command("migrate", verbosity=0, interactive=False)
        except Error as error:
            raise CommandError(f"the database in {settings.DATA_DIR}: {error}") from None
