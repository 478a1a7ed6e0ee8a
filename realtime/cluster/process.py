"""A child process: how it is started, waited for, ended, and how it ended.

Knows processes and signals; nothing of what a child does, and of how it says that it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

# Seconds between two looks at whether a child is ready.
LOOK_INTERVAL = 0.01


class ChildProcess:
    """A process that this one has started. It has no standard input unless that is asked for.

    With *own_session*, Ctrl-C in a terminal reaches only this process, which must end the child.
    *options* are those of :class:`subprocess.Popen`.
    """

    def __init__(
        self, command: Sequence[str], *, own_session: bool = False, **options: Any
    ) -> None:
        options = {"stdin": subprocess.DEVNULL, "start_new_session": own_session} | options
        self.popen: subprocess.Popen[Any] = subprocess.Popen(command, **options)  # noqa: S603 - ours
        self.pid = self.popen.pid
        # Monotonic time.
        self.started = time.monotonic()

    def is_running(self) -> bool:
        """Tell whether it has not ended."""
        return self.popen.poll() is None

    def wait_until(self, is_ready: Callable[[], bool], timeout: float) -> bool:
        """Ask until the child is ready, at most so many seconds; tell whether it is.

        It is not if it has ended. The caller must end a child that is not ready.
        """
        deadline = time.monotonic() + timeout
        while self.is_running() and time.monotonic() < deadline:
            if is_ready():
                return True
            time.sleep(LOOK_INTERVAL)
        return False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most so many seconds; tell whether it has."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(timeout)
        return self.popen.returncode is not None

    async def ended(self) -> None:
        """Wait until it has ended, without blocking the event loop.

        In a thread of its own: a pool has too few for as many children as one may have.
        """
        loop, end = asyncio.get_running_loop(), asyncio.Event()

        def watch() -> None:
            self.popen.wait()
            with contextlib.suppress(RuntimeError):  # the loop has ended first
                loop.call_soon_threadsafe(end.set)

        threading.Thread(target=watch, name=f"end of process {self.pid}", daemon=True).start()
        await end.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def kill(self) -> None:
        """End it at once. The caller must wait for it."""
        self.send(signal.SIGKILL)

    def end(self, timeout: float, how: signal.Signals = signal.SIGTERM) -> bool:
        """Have it end, kill it after so many seconds, and return when it has ended.

        Returns whether it has ended without being killed.
        """
        self.send(how)
        if self.wait(timeout):
            return True
        self.kill()
        self.wait()
        return False

    def describe_end(self) -> str:
        """Say how it ended. Call it when the process has ended."""
        return describe_end(self.popen.returncode)


def describe_end(code: int) -> str:
    """Say how a process ended, from its return code as :mod:`subprocess` has it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"
