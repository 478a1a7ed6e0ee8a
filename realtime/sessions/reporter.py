"""What a node reports of itself to the other processes, and what they report.

Knows Redis through the calls of :mod:`realtime.cluster`; nothing of what any figure means.
"""

from __future__ import annotations

import contextlib
import time

from realtime.auth.quotas import ConnectionQuotas
from realtime.cluster.clients import Unavailable
from realtime.cluster.membership import Process
from realtime.log import get_log
from realtime.monitoring.metrics import Counters
from realtime.monitoring.sampler import Sampler
from realtime.monitoring.snapshot import Snapshot, exchange
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.sessions.connections import Roster
from realtime.sessions.drain import Drain


class Reporter:
    """Reports one process to all, for as long as somebody calls :meth:`beat`."""

    def __init__(
        self,
        process: Process,
        stats: Counters,
        roster: Roster,
        quotas: ConnectionQuotas,
        drain: Drain,
    ) -> None:
        self._process = process
        self._stats = stats
        self._roster = roster
        self._quotas = quotas
        self._drain = drain
        self.sampler = Sampler(process.name, stats)
        # The figures that all processes reported last, this one among them.
        self.cluster: list[Snapshot] = []

    async def beat(self) -> None:
        """Let other processes know that this one runs, and what its connections hold."""
        with contextlib.suppress(Unavailable):  # readiness tells, and the broker
            asked = time.monotonic()
            beat = await self._process.beat()
            self._stats.round_trip = time.monotonic() - asked
            await self._report()
            if beat.was_gone:
                await self._quotas.write_all()
            else:
                await self._quotas.write()

    async def look_at_cluster(self) -> list[Snapshot]:
        """Return the figures that the processes reported last; this one's at least."""
        if not self.cluster:
            with contextlib.suppress(Unavailable):
                await self._report()
        return self.cluster

    async def _report(self) -> None:
        """Report this process's figures and read those of the others, as far as they are there."""
        clients = self._roster.clients
        transports = [client.transport for client in clients if client.transport is not None]
        figures = await self.sampler.take_snapshot(transports, self._drain.has_begun)
        self.cluster = [figures]
        self.cluster = await exchange(figures)

    async def measure_logs(self) -> None:
        """Count what the logs retain. Not in a beat, which a log that hangs must not hold up."""
        try:
            self._stats.log = await get_log().lengths(SUBSCRIPTION_TYPES)
        except Unavailable:
            self._stats.log = {}

    async def assert_leases(self) -> None:
        """Write all leases anew, in case the server has lost them."""
        with contextlib.suppress(Unavailable):
            await self._quotas.write_all()
