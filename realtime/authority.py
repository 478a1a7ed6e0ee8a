"""Who may do what, now: the policy in force and what tokens grant, as administrators change them.

Knows the database through :class:`Database` and who is connected; nothing of subscriptions.
"""

from __future__ import annotations

import logging
import time

from realtime.auth import Grant, GrantCache, digest, find_grant, live_grants, record_use
from realtime.database import Database, Unavailable
from realtime.policy import (
    POLL_INTERVAL,
    Policy,
    current_revision,
    environment_policy,
    load_policy,
)
from realtime.protocol import CloseCode, CloseReason
from realtime.roster import Client, Roster

logger = logging.getLogger(__name__)

# How old a look at the revision may be for cached grants to be trusted.
TRUSTED_AGE = 2 * POLL_INTERVAL


class Authority:
    """The rights of one event loop's connections."""

    def __init__(self, database: Database, roster: Roster) -> None:
        self.policy: Policy = environment_policy()
        self._database = database
        self._roster = roster
        self._grants = GrantCache()
        self._used_tokens: set[int] = set()
        self._revision = -1
        # Monotonic time of the last look at the revision that the database answered.
        self._policy_checked = float("-inf")

    async def follow(self) -> None:
        """Carry out what administrators have changed and what time has."""
        await self._follow_changes()
        for client in self._roster.expired(time.time()):
            client.end(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_EXPIRED)

    async def _follow_changes(self) -> None:
        """Look whether an administrator has changed anything, and if so, carry it out."""
        try:
            revision = await self._database.run(current_revision)
            if revision != self._revision:
                await self._apply_changes()
                self._revision = revision
        except Unavailable as error:
            logger.warning("the database does not answer: %s", error)
            return
        self._policy_checked = time.monotonic()

    async def _apply_changes(self) -> None:
        self._grants.clear()
        self.policy = await self._database.run(load_policy)
        found = await self._database.run(live_grants, list(self._roster.by_token))
        for token_id, clients in list(self._roster.by_token.items()):
            state, grant = found.get(token_id, ("revoked", None))
            for client in list(clients):
                if grant is None or state == "revoked":
                    client.end(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_REVOKED)
                elif grant != client.grant:
                    client.apply_grant(grant)

    def bind(self, client: Client, grant: Grant) -> bool:
        """Give a connection the rights of a token, unless the token has connections enough."""
        if not self._roster.bind(client, grant):
            return False
        if grant.token_id is not None:
            self._used_tokens.add(grant.token_id)
        return True

    async def authenticate(self, secret: str) -> Grant | None:
        """Return what a secret grants, if anything. Raises ``Unavailable``."""
        secret_digest = digest(secret)
        while True:
            fresh = time.monotonic() - self._policy_checked < TRUSTED_AGE
            if fresh and (known := self._grants.get(secret_digest, time.time())):
                return known
            generation = self._grants.generation
            grant = await self._database.run(find_grant, secret_digest)
            # What was read while an administrator's change came in may be from before it.
            if generation == self._grants.generation:
                break
        if grant is not None:
            self._grants.put(secret_digest, grant)
        return grant

    async def record_uses(self) -> None:
        """Write which tokens were used since this was last called."""
        used, self._used_tokens = self._used_tokens, set()
        if used:
            try:
                await self._database.run(record_use, used)
            except Unavailable as error:
                logger.warning("the last use of %d tokens was not written: %s", len(used), error)
