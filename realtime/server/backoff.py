"""When a process that has ended is started again. Pure."""

from __future__ import annotations

# Seconds before a process is started again: the first time, and at most.
FIRST = 0.1
LONGEST = 10.0
# After a life of more seconds than this, the pauses begin anew.
LONG_LIFE = 30.0


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
