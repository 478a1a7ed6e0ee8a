"""A thread that calls slow code, while the event loop goes on.

Knows nothing of that code. A call that has begun cannot be interrupted, but the thread ends
with the process: code that hangs does not keep the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from django.db import close_old_connections


class _Call(NamedTuple):
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class CallThread:
    """Calls functions one after another, and coroutine functions in an event loop of its own."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function or coroutine function; return its result, or raise its exception."""
        if self._thread.ident is None:
            self._thread.start()
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._calls.put(_Call(function, arguments, loop, future))
        return await future

    def close(self) -> None:
        """Let the thread end after the calls so far."""
        self._calls.put(None)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while (call := self._calls.get()) is not None:
                if call.future.cancelled():
                    continue
                settle = _outcome(runner, call)
                # The caller may be gone, and its loop closed.
                with contextlib.suppress(RuntimeError):
                    call.loop.call_soon_threadsafe(_settle, call.future, settle)
        close_old_connections()


def _outcome(runner: asyncio.Runner, call: _Call) -> Callable[[asyncio.Future[Any]], None]:
    """Make a call; return the function that gives a future its result or exception."""
    # As Django does around a request: connections that broke, or are older than CONN_MAX_AGE.
    close_old_connections()
    failure: BaseException
    try:
        result = call.function(*call.arguments)
        if inspect.isawaitable(result):
            result = runner.run(_wait(result))
        return lambda future: future.set_result(result)
    except (KeyboardInterrupt, SystemExit, StopIteration) as error:
        # A future cannot pass these on.
        failure = RuntimeError(f"{type(error).__name__} was raised")
        failure.__cause__ = error
    except BaseException as error:
        failure = error
    finally:
        close_old_connections()
    return lambda future: future.set_exception(failure)


async def _wait(result: Any) -> Any:
    return await result


def _settle(future: asyncio.Future[Any], settle: Callable[[asyncio.Future[Any]], None]) -> None:
    if not future.done():
        settle(future)
