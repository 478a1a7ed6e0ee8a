"""A clock for tests in which time passes without waiting."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

Result = TypeVar("Result")

# Seconds since 1970: 2024-01-01 12:00 UTC.
START = 1_704_110_400.0
# Iterations of a loop in which no time passes: more than any test needs.
MOST_TURNS = 5000


class FakeClock(selectors.SelectSelector):
    """Time that passes when it is told to, and in its own event loops when every task waits.

    ``start`` is in seconds since 1970; ``now`` is in seconds since ``start``. A wait in :meth:`run`
    takes no real time. Sockets and processes live in real time: keep them out of it.
    """

    def __init__(self, start: float = START) -> None:
        super().__init__()
        self.start = start
        self.now = 0.0
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Let the time pass that a loop wants to wait."""
        assert timeout is not None, "everyone waits for someone else"
        self._turns = 0 if timeout > 0 else self._turns + 1
        assert self._turns < MOST_TURNS, "someone is busy without end"
        self.now += max(0.0, timeout)
        return super().select(0)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def time(self) -> float:
        """Return seconds since 1970, as ``time.time``."""
        return self.start + self.now

    def monotonic(self) -> float:
        """Return seconds, as ``time.monotonic``."""
        return self.now

    def datetime(self) -> datetime:
        """Return an aware date, as ``django.utils.timezone.now``."""
        return datetime.fromtimestamp(self.time(), UTC)

    def new_loop(self) -> asyncio.SelectorEventLoop:
        """Return a loop that lives by this clock; one at a time."""
        loop = asyncio.SelectorEventLoop(self)
        loop.time = self.monotonic  # type: ignore[method-assign]
        return loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end, however long it waits."""
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            return runner.run(work)
