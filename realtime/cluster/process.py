"""A child process: how it is started, waited for, ended, and when it is started again.

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
# Seconds before a child that has ended is started again: the first time, and at most.
FIRST = 0.1
LONGEST = 10.0
# After a life of more seconds than this, the pauses begin anew.
LONG_LIFE = 30.0


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
        """Wait until it has ended, in a thread of its own: a pool has too few for all children."""
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
        """Have it end, or kill it after so many seconds; tell whether it ended by itself."""
        self.send(how)
        has_ended = self.wait(timeout)
        if not has_ended:
            self.kill()
            self.wait()
        return has_ended

    def describe_end(self) -> str:
        """Say how it ended. Call it when the process has ended."""
        code = self.popen.returncode
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


class Backoff:
    """The pauses of one process, which double while its lives are short."""

    def __init__(self) -> None:
        self._next = FIRST

    def pause(self, lived: float) -> float:
        """Return the seconds to wait after the process has lived for so many seconds."""
        if lived > LONG_LIFE:
            self._next = FIRST
        pause = self._next
        self._next = min(2 * pause, LONGEST)
        return pause
