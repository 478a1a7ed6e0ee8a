"""What is counted over all processes: the connections of a token, the failures of an address.

The cluster has the connections of each holder of rights whose number is limited, and which process
has them; those of processes that are gone do not count. While the cluster does not answer, each
process counts its own (:meth:`realtime.sessions.connections.Roster.bind` does so in any case).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from realtime.auth.grants import Grant
from realtime.auth.limits import WINDOW, FailureCounts, failure_delay
from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable
from realtime.cluster.contract import CONNECTIONS_TTL
from realtime.tasks import Spawn

logger = logging.getLogger(__name__)

# Seconds between writes of all connections, whether or not they have changed.
ASSERT_INTERVAL = CONNECTIONS_TTL / 4


class ConnectionQuotas:
    """What this process's connections use of their holders' limits. One for each event loop."""

    def __init__(self, process: str, spawn: Spawn) -> None:
        self._process = process
        self._spawn = spawn
        # Connection -> the holder of its rights.
        self._held: dict[str, str] = {}
        # Holder and connection -> whether this process has it; changes that are not written yet.
        self._changes: dict[tuple[str, str], bool] = {}
        self._is_writing = False

    async def acquire(self, connection: str, grant: Grant) -> bool:
        """Take one of the connections that a grant allows; tell whether there was one.

        At once if the grant has no limit.
        """
        limit, holder = grant.max_connections, grant.holder
        if limit is None:
            return True
        try:
            await self.write()  # what has just been given back may be what is asked for
            has_room = await get_cluster().acquire(holder, connection, self._process, limit)
        except Unavailable as error:
            logger.warning("counting the connections of %s: %s", holder, error)
            self.hold(connection, grant)
            return True
        if has_room:
            if self._held.get(connection, holder) != holder:
                self.release(connection)
            self._held[connection] = holder
            self._changes.pop((holder, connection), None)
        return has_room

    def hold(self, connection: str, grant: Grant) -> None:
        """Count an existing connection, room or not: its grant may have a limit by now.

        What it held of another holder is given back.
        """
        if self._held.get(connection, grant.holder) != grant.holder:
            self.release(connection)
        if grant.max_connections is None or connection in self._held:
            return
        self._held[connection] = grant.holder
        self._change(grant.holder, connection, True)

    def release(self, connection: str) -> None:
        """Give back what a connection held; once or more."""
        holder = self._held.pop(connection, None)
        if holder is not None:
            self._change(holder, connection, False)

    def _change(self, holder: str, connection: str, is_held: bool) -> None:
        self._changes[holder, connection] = is_held
        if not self._is_writing:
            self._is_writing = True
            self._spawn(self._write_soon())

    async def _write_soon(self) -> None:
        try:
            await asyncio.sleep(0)  # many connections end together
            with contextlib.suppress(Unavailable):
                await self.write()
        finally:
            self._is_writing = False

    async def write(self) -> None:
        """Write what has changed; what fails is left for the next call. Raises ``Unavailable``."""
        if not self._changes:
            return
        changes = dict(self._changes)
        await get_cluster().set_connections(self._process, changes)
        for change, is_held in changes.items():
            if self._changes.get(change) is is_held:
                del self._changes[change]

    async def write_all(self) -> None:
        """Write all, for a cluster that may have forgotten it. Raises ``Unavailable``."""
        for connection, holder in self._held.items():
            self._changes[holder, connection] = True
        await self.write()


class Failures:
    """The failures of each address over all processes; of this one if the cluster is silent."""

    def __init__(self) -> None:
        self._here = FailureCounts()

    async def record(self, address: str, now: float, free: int) -> float:
        """Count a failure of *address*; return for how many seconds its answer is to wait."""
        count = self._here.record(address, now)
        try:
            count = max(count, await get_cluster().count(f"failures:{address}", int(WINDOW)))
        except Unavailable as error:
            logger.warning("counting a failed authentication: %s", error)
        return failure_delay(count, free)
