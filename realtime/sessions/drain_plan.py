"""When the clients of a server that ends are told to go, and when each is to come back. Pure.

Both evenly: neither this server has a crowd of closings to serve, nor the next one a queue of
handshakes.
"""

from __future__ import annotations

from dataclasses import dataclass

# Of ``drain_timeout``, how much telling the clients may take; they need time to close, too.
TELLING_SHARE = 0.4
# Clients told in a second, if that is enough for all.
TOLD_PER_SECOND = 1000
# Clients that come back in a second. With authentication and a resumed subscription a process
# serves about twice as many, beside what else it does.
BACK_PER_SECOND = 400
# Seconds in which clients come back, at least.
SHORTEST_RETURN = 1.0
# Before this none does: a new process on the same port needs about so long to start.
SOONEST = 1.0


@dataclass(frozen=True)
class DrainPlan:
    """The plan for so many clients. Times are in seconds."""

    clients: int
    drain_timeout: float
    # Whether others take clients already: then nobody has to wait, and who is told comes at once.
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

        Who leaves first comes back first, each at a moment of its own share of the time; *chance*,
        from 0 to 1, says where in it.
        """
        back_at = self.returning * (number + chance) / self.clients
        return round(self.soonest + back_at - self.told_at(number), 3)

    def retry_after_late(self, chance: float) -> float:
        """Return the same for a client that comes when the others are leaving."""
        return round(self.soonest + self.returning * chance, 3)
