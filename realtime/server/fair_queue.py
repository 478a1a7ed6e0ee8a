"""Fair shares of the event loop for those who have sent more than can be read at once.

Twisted hands over up to 64 KB of a connection at a time, which may be ten thousand frames, and that
for every connection that has something. Who has sent more than a few frames waits here for turns,
of which all together take a millisecond before others are served.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

# Seconds of a round.
ROUND = 0.001
# Frames of one connection that are read in a turn.
FRAMES = 16
# Seconds that a message counts for, which is carried out after its turn has come.
MESSAGE = 0.0001


class Turns:
    """What waits for its turn, in order. One for each server."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], object], float]] = deque()
        self._task: asyncio.Task[None] | None = None

    def wait(self, read: Callable[[], object]) -> None:
        """Call *read* in its turn.

        It reads a connection's first request, or at most :data:`FRAMES` frames.
        """
        self._add(read, 0.0)

    async def come(self) -> None:
        """Return when it is the caller's turn to carry out a message."""
        turn = asyncio.Event()
        self._add(turn.set, MESSAGE)
        await turn.wait()

    def _add(self, take: Callable[[], object], charge: float) -> None:
        self._waiting.append((take, charge))
        if self._task is None:
            self._task = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
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
                        logger.exception("reading")
        finally:
            self._task = None
