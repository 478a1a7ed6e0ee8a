"""Ending tasks reliably, also where a library swallows a cancellation.

Debian 12 has Python 3.11.2, so the faults named here are met in production. Knows asyncio only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

RETRY_INTERVAL = 1.0
# Starts a coroutine as a task; whoever provides the function keeps the task and ends it.
Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and return when it has ended; what it returns or raises is dropped.

    The task is cancelled again each second if need be: before Python 3.11.3 redis-py may turn a
    cancellation into a timeout of its own, and a task that continues after errors would never end.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=RETRY_INTERVAL)
    if not task.cancelled():
        task.exception()  # asyncio would report an exception that nobody has looked at


def is_cancelled() -> bool:
    """Tell whether this task has been cancelled, even if no exception was raised in it.

    Before Python 3.12 ``asyncio.wait_for``, which redis-py uses, drops a cancellation that comes at
    the moment at which its own wait ends.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
