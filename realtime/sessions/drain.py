"""When the clients of a node that ends are told to go, and when each comes back. Pure.

Both are spread evenly over time, so that this node never has many connections to close at once,
and the next one never a queue of handshakes.
"""

from __future__ import annotations

from dataclasses import dataclass

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

        Who leaves first comes back first, each at *chance*, from 0 to 1, of its share of the time.
        """
        back_at = self.returning * (number + chance) / self.clients
        return round(self.soonest + back_at - self.told_at(number), 3)

    def retry_after_late(self, chance: float) -> float:
        """Return the same for a client that comes when the others are leaving."""
        return round(self.soonest + self.returning * chance, 3)
