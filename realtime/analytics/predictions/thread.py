"""A thread that calls slow code in an event loop of its own, while the process's loop goes on.

Knows nothing of that code. The thread ends with the process: code that hangs does not keep it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from django.db import close_old_connections


class CallThread:
    """Calls functions and coroutine functions. Callers wait for one call before the next."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function or coroutine function; return its result, or raise its exception."""
        if self._thread.ident is None:
            self._thread.start()
        call = asyncio.run_coroutine_threadsafe(_call(function, arguments), self._loop)
        return await asyncio.wrap_future(call)

    def close(self) -> None:
        """Let the thread end after the calls so far; nothing is called after this."""
        if self._thread.ident is None:
            self._loop.close()
        else:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


async def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Make a call, with fresh database connections as Django has them around a request."""
    close_old_connections()
    try:
        result = function(*arguments)
        return await result if inspect.isawaitable(result) else result
    except (KeyboardInterrupt, SystemExit) as error:  # these would end the thread
        raise RuntimeError(f"{type(error).__name__} was raised") from error
    finally:
        close_old_connections()
