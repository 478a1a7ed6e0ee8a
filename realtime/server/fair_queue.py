"""Fair shares of the event loop for connections that have sent more than can be read at once.

Twisted hands over up to 64 KB of a connection at a time, which may be ten thousand frames, and does
so for every connection. A connection that has sent more than a few frames waits here for its turn.
All turns together take a millisecond; then the event loop serves others before it goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

# Seconds that turns may take before others are served.
ROUND = 0.001
# Frames of one connection that are read in one turn.
FRAMES = 16
# Seconds that a message is estimated to take. It is carried out after its turn, so that the clock
# does not show it.
MESSAGE = 0.0001


class FairQueue:
    """All that waits for a turn, first come, first served. Each server has one."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], object], float]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, read: Callable[[], object]) -> None:
        """Call *read* when it is its turn.

        It must not take long: it reads a connection's first request, or at most :data:`FRAMES`
        frames.
        """
        self._add(read, 0.0)

    async def turn(self) -> None:
        """Return when it is the caller's turn to carry out one message."""
        turn = asyncio.Event()
        self._add(turn.set, MESSAGE)
        await turn.wait()

    def _add(self, take: Callable[[], object], charge: float) -> None:
        self._waiting.append((take, charge))
        if self._task is None:
            self._task = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        """Take turns until nobody waits, and let the loop serve others after each round."""
        try:
            while self._waiting:
                await asyncio.sleep(0)
                ends = time.monotonic() + ROUND
                while self._waiting and time.monotonic() < ends:
                    take, charge = self._waiting.popleft()
                    ends -= charge
                    try:
                        take()
                    except Exception:
                        logger.exception("reading a connection failed")
        finally:
            self._task = None
