"""Runs database work of an event loop in a few threads of its own, in bounded time.

Channels would run it in one thread that all consumers share, where one slow query delays every
client. Here a caller waits no longer than :data:`TIMEOUT`. Knows nothing of what functions do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from django.db import Error, InterfaceError, OperationalError, connections

THREADS = 4
TIMEOUT = 5.0
# While more late calls than this hold a thread, no new threads are started.
MAX_HANGING = 32
# Seconds. A call that fails within the first is tried again; threads wait for each other for the
# second when they close their connections.
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
        # Late call, which nobody waits for any more -> the executor whose thread it holds.
        self._hanging: dict[Future[Any], ThreadPoolExecutor] = {}

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what *function* returns.

        Raises:
            Unavailable: the database failed or did not answer in time. A late call continues in
                its thread; its result is dropped.
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
            self._abandon(call, executor)

    def _abandon(self, call: Future[Any], executor: ThreadPoolExecutor) -> None:
        """Stop waiting for a call; if such calls hold all threads, start new threads.

        The database may be back long before the old threads notice, if they ever do.
        """
        if call.done():
            return
        if not call.cancel():  # it has begun
            self._hanging[call] = executor
        self._hanging = {late: holder for late, holder in self._hanging.items() if not late.done()}
        held_threads = sum(holder is self._executor for holder in self._hanging.values())
        if held_threads == THREADS and len(self._hanging) <= MAX_HANGING:
            _retire(self._executor)
            self._executor = _threads()

    def close(self) -> None:
        """Let the threads close their connections and end, without waiting for any of them."""
        _retire(self._executor)


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="realtime-database")


def _retire(executor: ThreadPoolExecutor) -> None:
    """Let an executor's threads close their connections and end, each when it can."""
    barrier = threading.Barrier(THREADS)
    for _ in range(THREADS):
        executor.submit(_close_connections, barrier)
    executor.shutdown(wait=False)


def _call(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call *function* with this thread's connection, and again with a new one if it was broken.

    A connection to SQLite stays open between calls, and one of a pool waits there, so it may have
    broken since the last call. Such a call fails at once; a slow failure has another cause.
    """
    started = time.monotonic()
    try:
        return function(*args, **kwargs)
    except (OperationalError, InterfaceError):
        connections.close_all()
        if time.monotonic() - started > RETRY_WITHIN:
            raise
        return function(*args, **kwargs)
    finally:
        for connection in connections.all(initialized_only=True):
            if getattr(connection, "pool", None):
                connection.close()  # back to its pool; others stay open


def _close_connections(barrier: threading.Barrier) -> None:
    """Close this thread's connections, then wait so that each thread runs this exactly once."""
    connections.close_all()
    with contextlib.suppress(threading.BrokenBarrierError):
        barrier.wait(CLOSE_TIMEOUT)
