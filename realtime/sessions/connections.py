"""Who is connected to this process, with whose rights, and how all are asked to come back."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from realtime.auth.grants import Grant
from realtime.config import WebSocketConfig
from realtime.protocol import CloseCode, CloseReason

if TYPE_CHECKING:
    from realtime.sessions.session import Session

# Of the connections that a process may have, how many may be unauthenticated.
UNAUTHENTICATED_SHARE = 0.5
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


class Roster:
    """The connections of one event loop. Dictionaries keep the order of arrival."""

    def __init__(self) -> None:
        self.clients: dict[Session, None] = {}
        # Those that have yet to authenticate, and those whose rights end at some time.
        self.waiting: dict[Session, None] = {}
        self._expiring: dict[Session, None] = {}
        # Whose rights, and address -> its open connections; never empty.
        self.by_holder: dict[str, dict[Session, None]] = {}
        self.by_address: dict[str, dict[Session, None]] = {}

    def admit(self, client: Session, config: WebSocketConfig) -> CloseReason | None:
        """Take a newcomer in if there is room or can be made; else return what is full.

        To make room, the oldest connection that has not authenticated is ended: one of the same
        address if that address has too many, one of any address otherwise.
        """
        neighbours = self.by_address.get(client.address_key, {})
        if 0 < config.max_connections_per_address <= len(neighbours):
            oldest = next((other for other in neighbours if other in self.waiting), None)
            if oldest is None:
                return CloseReason.ADDRESS_CONNECTIONS
            self._evict(oldest, CloseReason.ADDRESS_CONNECTIONS)
        waiting = max(1, int(config.max_connections * UNAUTHENTICATED_SHARE))
        is_full = len(self.clients) >= config.max_connections
        if is_full or (config.require_auth and len(self.waiting) >= waiting):
            oldest = next(iter(self.waiting), None)
            if oldest is None:
                return CloseReason.CAPACITY
            self._evict(oldest, CloseReason.CAPACITY)
        self.clients[client] = None
        self.by_address.setdefault(client.address_key, {})[client] = None
        if config.require_auth:
            self.waiting[client] = None
        return None

    def _evict(self, client: Session, reason: CloseReason) -> None:
        client.end(CloseCode.TRY_AGAIN_LATER, reason)
        self.forget(client)

    def forget(self, client: Session) -> None:
        """Let a connection go; once or more."""
        if client in self.clients:
            del self.clients[client]
            _remove(self.by_address, client.address_key, client)
        self.waiting.pop(client, None)
        self._release(client)

    def bind(self, client: Session, grant: Grant) -> bool:
        """Give a connection rights, unless their holder has connections enough."""
        if grant.max_connections is not None:
            holders = self.by_holder.get(grant.holder, {})
            if client not in holders and len(holders) >= grant.max_connections:
                return False
        self._release(client)
        self.waiting.pop(client, None)
        self.by_holder.setdefault(grant.holder, {})[client] = None
        self.change(client, grant)
        return True

    def change(self, client: Session, grant: Grant) -> None:
        """Note the rights that a connection has now, of the same holder as before."""
        client.grant = grant
        if grant.expires_at is not None:
            self._expiring[client] = None
        else:
            self._expiring.pop(client, None)

    def _release(self, client: Session) -> None:
        self._expiring.pop(client, None)
        if client.grant is not None:
            _remove(self.by_holder, client.grant.holder, client)

    def expired(self, now: float) -> Iterator[Session]:
        """Yield the connections whose rights have ended by *now* (seconds since 1970)."""
        for client in list(self._expiring):
            expires_at = client.grant.expires_at if client.grant else None
            if expires_at is not None and expires_at <= now:
                yield client


def _remove(index: dict[str, dict[Session, None]], key: str, client: Session) -> None:
    members = index.get(key, {})
    members.pop(client, None)
    if not members:
        index.pop(key, None)


@dataclass(frozen=True)
class DrainPlan:
    """When each of some clients is told to go and comes back. Times are in seconds.

    Both are spread evenly over time, so that this node never has many connections to close at once,
    and the next one never a queue of handshakes.
    """

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
