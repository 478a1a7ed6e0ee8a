"""Ending tasks for certain, and letting other tasks run during long work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

RETRY_INTERVAL = 1.0
# Starts a coroutine as a task; whoever provides the function keeps the task and ends it.
Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and return when it has ended; what it returns or raises is dropped.

    It is cancelled again each second: before Python 3.11.3 redis-py may swallow a cancellation.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=RETRY_INTERVAL)
    if not task.cancelled():
        task.exception()  # asyncio would report an exception that nobody has looked at


def is_cancelled() -> bool:
    """Tell whether this task has been cancelled, even if no exception was raised in it.

    Before Python 3.12 ``asyncio.wait_for``, which redis-py uses, may drop a cancellation.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class TimeSlice:
    """Lets other tasks run when this one has worked for so many seconds without a pause.

    To look at the clock costs more than a small step of work, so that is done once in *steps*.
    """

    __slots__ = ("_ends", "_seconds", "_since_look", "_steps")

    def __init__(self, seconds: float, steps: int = 1) -> None:
        self._seconds = seconds
        self._steps = steps
        self._since_look = 0
        self._ends = time.monotonic() + seconds

    def is_used_up(self, steps: int = 1) -> bool:
        """Count steps of work that have been done; tell whether to :meth:`renew` now."""
        self._since_look += steps
        if self._since_look < self._steps:
            return False
        self._since_look = 0
        return time.monotonic() > self._ends

    async def renew(self) -> None:
        """Let other tasks run, then begin anew."""
        await asyncio.sleep(0)
        self._ends = time.monotonic() + self._seconds

    async def yield_if_due(self, steps: int = 1) -> None:
        if self.is_used_up(steps):
            await self.renew()
