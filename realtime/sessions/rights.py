"""The rights in force: the policy, and what credentials grant, as administrators change them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from realtime.auth import connection_tokens
from realtime.auth.connection_tokens import find_user_grant, live_user_grants
from realtime.auth.grants import Grant, GrantCache, HolderType
from realtime.auth.policy import (
    POLL_INTERVAL,
    Policy,
    current_revision,
    environment_policy,
    load_policy,
)
from realtime.auth.tokens import digest, find_grant, live_grants, record_use
from realtime.config import get_streaming_config
from realtime.database import Database, Unavailable
from realtime.protocol import CloseCode, CloseReason
from realtime.sessions.connections import Roster
from realtime.tasks import TimeSlice

if TYPE_CHECKING:
    from realtime.auth.jwt import Verifier

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How old a look at the revision may be for cached grants to be trusted.
TRUSTED_AGE = 2 * POLL_INTERVAL
# Seconds of changing connections after which other tasks run.
CHANGING_SECONDS = 0.005


class Authority:
    """The rights of one event loop's connections."""

    def __init__(self, database: Database, roster: Roster) -> None:
        self.policy: Policy = environment_policy()
        self._database = database
        self._roster = roster
        self._grants = GrantCache()
        self._verifier: Verifier | None = None
        if get_streaming_config().jwt is not None:
            from realtime.auth.jwt import configured_verifier  # cryptography takes its time

            self._verifier = configured_verifier()
        self._used_tokens: set[int] = set()
        self._revision = -1
        # Monotonic time of the last look at the revision that the database answered.
        self._policy_checked = float("-inf")

    async def follow(self) -> None:
        """Carry out what administrators have changed, and end connections that have expired."""
        try:
            revision = await self._database.run(current_revision)
            if revision != self._revision:
                await self._apply_changes()
                self._revision = revision
            self._policy_checked = time.monotonic()
        except Unavailable as error:
            logger.warning("the database does not answer: %s", error)
        for client in self._roster.expired(time.time()):
            client.end(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_EXPIRED)

    async def _apply_changes(self) -> None:
        """Read policy and grants anew, and give each connection the rights it has now."""
        self._grants.clear()
        self.policy = await self._database.run(load_policy)
        held = {
            client: client.grant
            for clients in self._roster.by_holder.values()
            for client in clients
            if client.grant is not None and client.grant.is_managed
        }
        tokens, users = (
            {grant.holder_id for grant in held.values() if grant.holder_type == holder_type}
            for holder_type in (HolderType.TOKEN, HolderType.USER)
        )
        by_token = await self._database.run(live_grants, tokens) if tokens else {}
        by_user = await self._database.run(live_user_grants, users) if users else {}
        time_slice = TimeSlice(CHANGING_SECONDS)
        for client, before in held.items():
            await time_slice.yield_if_due()
            if client.grant is not before or client.has_ended:
                continue  # it has other rights by now, or has left
            if before.holder_type == HolderType.TOKEN:
                after = by_token.get(before.holder_id, {}).get(before.digest)
            else:
                after = by_user.get(before.holder)
            if after is None:
                client.end(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_REVOKED)
            elif after != before:
                client.apply_grant(after)

    def note_use(self, grant: Grant) -> None:
        """Remember that rights were used, to be written later."""
        if grant.holder_type == HolderType.TOKEN:
            self._used_tokens.add(grant.holder_id)

    async def authenticate(self, secret: str) -> Grant | None:
        """Return what a secret or token of any kind grants, if anything. Raises ``Unavailable``."""
        if self._verifier is not None and secret.count(".") == 2:
            return self._verifier.verify(secret, time.time())
        if secret.startswith(connection_tokens.MARK):
            return await self._look_up(find_user_grant, secret)
        secret_digest = digest(secret)
        is_fresh = time.monotonic() - self._policy_checked < TRUSTED_AGE
        if is_fresh and (cached := self._grants.get(secret_digest, time.time())):
            return cached
        grant = await self._look_up(find_grant, secret_digest)
        if grant is not None:
            self._grants.put(secret_digest, grant)
        return grant

    async def _look_up(self, find: Callable[[T], Grant | None], credential: T) -> Grant | None:
        """Ask the database, again if an administrator's change came in while it answered."""
        while True:
            generation = self._grants.generation
            grant = await self._database.run(find, credential)
            if generation == self._grants.generation:
                return grant

    async def record_uses(self) -> None:
        """Write which tokens were used since this was last called."""
        used, self._used_tokens = self._used_tokens, set()
        if used:
            try:
                await self._database.run(record_use, used)
            except Unavailable as error:
                logger.warning("the last use of %d tokens was not written: %s", len(used), error)
