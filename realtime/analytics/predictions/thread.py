"""A thread that calls slow code, while the process's event loop goes on.

Knows nothing of that code. A call that has begun cannot be interrupted, but the thread ends with
the process: code that hangs does not keep it.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from django.db import close_old_connections


class _Call(NamedTuple):
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any]


class CallThread:
    """Calls functions one after another, and coroutine functions in an event loop of its own."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function or coroutine function; return its result, or raise its exception."""
        if self._thread.ident is None:
            self._thread.start()
        future: Future[Any] = Future()
        self._calls.put(_Call(function, arguments, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let the thread end after the calls so far."""
        self._calls.put(None)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            while (call := self._calls.get()) is not None:
                if call.future.set_running_or_notify_cancel():
                    _carry_out(call, runner)


def _carry_out(call: _Call, runner: asyncio.Runner) -> None:
    """Make a call, with fresh database connections as Django has them around a request."""
    close_old_connections()
    try:
        # Not in the loop: there, code that is not async could use neither the ORM nor asyncio.run.
        result = call.function(*call.arguments)
        if inspect.isawaitable(result):
            result = runner.run(_wait(result))
    except (KeyboardInterrupt, SystemExit, StopIteration) as error:
        # A future cannot pass these on.
        failure = RuntimeError(f"{type(error).__name__} was raised")
        failure.__cause__ = error
        call.future.set_exception(failure)
    except BaseException as error:
        call.future.set_exception(error)
    else:
        call.future.set_result(result)
    finally:
        close_old_connections()


async def _wait(result: Any) -> Any:
    return await result
