"""Who is at the other end: an address, the rights it has shown, and what is recorded of it.

Knows credentials and the audit log; nothing of connections or subscriptions.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from realtime.auth.grants import Grant
from realtime.auth.tokens import public_prefix
from realtime.monitoring.audit_log import Event, record
from realtime.protocol.addresses import address_key

if TYPE_CHECKING:
    from realtime.sessions.node import Node

# Seconds after which to try again if the database or the channel layer does not answer.
RETRY_AFTER_UNAVAILABLE = 1


class Peer:
    """One client of the server, for as long as one connection or request lasts."""

    __slots__ = ("_limits_reached", "address", "address_key", "client_id", "grant", "node")

    def __init__(self, node: Node, address: str) -> None:
        self.node = node
        # What the audit log and operators know it by; new for each connection or request.
        self.client_id = str(uuid.uuid4())
        self.address = address
        # What limits count the address as; see :mod:`realtime.protocol.addresses`.
        self.address_key = address_key(address)
        # The rights in force, None before authentication.
        self.grant: Grant | None = None
        # The limits that it has reached, each audited once.
        self._limits_reached: tuple[str, ...] = ()

    def set_grant(self, grant: Grant) -> None:
        """Take rights. Those of a session are indexed: only the roster may call this for it."""
        self.grant = grant

    async def authenticate(self, secret: str | None) -> Grant | None:
        """Return what a credential grants, for :meth:`set_grant`; one that is wrong is counted.

        Raises:
            Unavailable: the database does not answer.
        """
        grant = await self.node.authority.authenticate(secret) if secret else None
        if grant is None:
            await self.count_failure(secret)
        return grant

    async def count_failure(self, secret: str | None) -> None:
        """Count and audit a wrong credential; return late, the later the more there were."""
        self.node.stats.auth_failures += 1
        self.audit(Event.AUTH_FAILED, token=public_prefix(secret or ""))
        free = self.node.policy.config.auth_failures_per_minute
        await asyncio.sleep(
            await self.node.failures.record(self.address_key, time.monotonic(), free)
        )

    def count_rate_limited(self) -> None:
        """Count a message or request beyond the rate limit."""
        self.node.stats.rate_limited += 1
        self.audit_limit("rate limit")

    def identity(self) -> dict[str, Any]:
        """Return by what logs and operators know it: client_id, address, holder and token."""
        grant = self.grant
        return {
            "client_id": self.client_id,
            "address": self.address or None,
            "holder": grant.holder if grant else None,
            "token": grant.prefix if grant else None,
        }

    def audit(self, event: Event, **fields: Any) -> None:
        """Write an event of this client into the audit log."""
        record(event, **self.identity() | fields)

    def audit_limit(self, limit: str) -> None:
        """Record that the client has reached a limit, the first time."""
        if limit not in self._limits_reached:
            self._limits_reached += (limit,)
            self.audit(Event.LIMIT_REACHED, limit=limit)
