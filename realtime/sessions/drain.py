"""The end of a node: all its clients are asked to come back, each at a time of its own.

Knows clocks and clients; when to tell whom is planned in :mod:`realtime.sessions.drain_plan`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from realtime.sessions.connections import Roster
from realtime.sessions.drain_plan import DrainPlan


class Drain:
    """The drain of one event loop's connections, before and after it has begun."""

    def __init__(self, roster: Roster, timeout: Callable[[], float]) -> None:
        """*timeout* returns the ``drain_timeout`` in force, in seconds."""
        self._roster = roster
        self._timeout = timeout
        self._plan: DrainPlan | None = None
        # Set before it begins if other processes take the clients at once.
        self.is_moving = False

    @property
    def has_begun(self) -> bool:
        """Whether clients should go elsewhere."""
        return self._plan is not None

    async def run(self) -> None:
        """Tell every client, at the times of the plan."""
        clients = list(self._roster.clients)
        plan = self._plan = DrainPlan(len(clients), self._timeout(), self.is_moving)
        started = time.monotonic()
        for number, client in enumerate(clients):
            early = started + plan.told_at(number) - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            client.restart(plan.retry_after(number, random.random()))  # noqa: S311 - spreads load

    def retry_after(self) -> float:
        """Return after how many seconds a client that comes during a drain should come back."""
        plan = self._plan or DrainPlan(0, self._timeout(), self.is_moving)
        return plan.retry_after_late(random.random())  # noqa: S311 - spreads load
