"""The end of a node: all its clients are asked to come back, each at a time of its own.

Going and coming back are spread evenly over time, so that this server never has many connections
to close at once, and the next one never a queue of handshakes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from realtime.sessions.connections import Roster

# The share of ``drain_timeout`` in which clients are told; they need time to close, too.
TELLING_SHARE = 0.4
# The fewest clients told in a second.
TOLD_PER_SECOND = 1000
# Clients that come back in a second: about half of what a process can serve.
BACK_PER_SECOND = 400
# Seconds in which clients come back, at least.
SHORTEST_RETURN = 1.0
# Seconds before the first may come back: a new process on the same port needs them to start.
SOONEST = 1.0


@dataclass(frozen=True)
class DrainPlan:
    """When each of some clients is told to go and comes back. Times are in seconds."""

    clients: int
    drain_timeout: float
    # Whether other processes take clients already: then each may come back as soon as it is told.
    is_moving: bool = False

    @property
    def telling(self) -> float:
        """How long it takes until all have been told."""
        pace = BACK_PER_SECOND if self.is_moving else TOLD_PER_SECOND
        return min(self.drain_timeout * TELLING_SHARE, self.clients / pace)

    @property
    def soonest(self) -> float:
        """After how long the first may come back."""
        return 0.0 if self.is_moving else SOONEST

    @property
    def returning(self) -> float:
        """How long it takes until all are back, from the soonest."""
        needed = self.clients / BACK_PER_SECOND
        return needed if self.is_moving else max(SHORTEST_RETURN, self.drain_timeout / 2, needed)

    def told_at(self, number: int) -> float:
        """Return when to tell a client, in seconds from the start. Numbers are from 0."""
        return self.telling * number / self.clients

    def retry_after(self, number: int, chance: float) -> float:
        """Return after how many seconds a client that is told now is to come back.

        Who leaves first comes back first, each at *chance*, from 0 to 1, of its equal share of
        the time.
        """
        back_at = self.returning * (number + chance) / self.clients
        return round(self.soonest + back_at - self.told_at(number), 3)

    def retry_after_late(self, chance: float) -> float:
        """Return the same for a client that comes when the others are leaving."""
        return round(self.soonest + self.returning * chance, 3)


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
