"""This process as one of those that share some work; nothing of where they meet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket

from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable
from realtime.cluster.contract import PROCESSES, Answer, Beat

# Seconds between signs of life.
BEAT_INTERVAL = 2.0
# Seconds for which a member that leaves waits for the others to take note of it.
LEAVE_TIMEOUT = 1.0


class Membership:
    """A member among those that share some work. One for each event loop."""

    def __init__(self, work: str) -> None:
        # Unique, and tells an operator which process it is.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._work = work
        self._has_beaten = False

    async def beat(self) -> Beat:
        """Say that this member is there, each :data:`BEAT_INTERVAL`. Raises ``Unavailable``."""
        beat = await get_cluster().beat(self._work, self.name)
        if not self._has_beaten:  # nobody knew of it
            beat = beat._replace(was_gone=False)
        self._has_beaten = True
        return beat

    async def leave(self) -> None:
        """Let the others know at once that this member is gone; as far as they can be told."""
        if self._has_beaten:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await get_cluster().leave(self._work, self.name)


class Process(Membership):
    """A serving process: a member that answers questions."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(PROCESSES)
        self._answer = answer

    async def listen(self) -> None:
        """Answer questions until cancelled."""
        await get_cluster().listen(self.name, self._answer)
