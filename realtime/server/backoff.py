"""How processes that ended are started again: when, and what the log says of the end. Pure."""

from __future__ import annotations

import signal

# Seconds before a process is started again: at first, at most, and after how long a life anew.
FIRST = 0.1
LONGEST = 10.0
LONG_LIFE = 30.0


class Backoff:
    """The pauses of one process, which double while its lives are short."""

    def __init__(self) -> None:
        self._next = FIRST

    def pause(self, lived: float) -> float:
        """Return the seconds to wait after a life of so many seconds."""
        if lived > LONG_LIFE:
            self._next = FIRST
        pause = self._next
        self._next = min(2 * pause, LONGEST)
        return pause


def describe_end(code: int) -> str:
    """Say how a process ended, from its return code as :mod:`subprocess` has it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit status {code}"
