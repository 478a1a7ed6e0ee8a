"""One per event loop: wires hub, broker, writer, authority and statistics for the consumers.

The hub tells, the node acts: it joins a group with a type's first subscription and leaves it with
the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Coroutine
from typing import Any
from weakref import WeakKeyDictionary

import psutil
from django.conf import settings

from realtime.auth.failures import Failures
from realtime.auth.limits import RequestLimits
from realtime.auth.policy import POLL_INTERVAL, Policy
from realtime.auth.quotas import ASSERT_INTERVAL, ConnectionQuotas
from realtime.cluster import keeper
from realtime.cluster.clients import Unavailable, close_async_clients
from realtime.cluster.connections import answer
from realtime.cluster.embedded import EmbeddedServer
from realtime.cluster.membership import BEAT_INTERVAL, Process
from realtime.cluster.servers import uses_embedded
from realtime.database import Database
from realtime.delivery.subscriptions import Subscriptions
from realtime.hub.index import Hub
from realtime.log import get_log
from realtime.monitoring.metrics import Counters
from realtime.monitoring.sampler import Sampler
from realtime.monitoring.snapshot import Snapshot, add_up, exchange
from realtime.protocol import (
    SUBSCRIPTION_TYPES,
    CloseReason,
)
from realtime.sessions.connections import Client, Room, Roster
from realtime.sessions.drain import Drain
from realtime.sessions.readiness import DRAINING, look_around
from realtime.sessions.rights import Authority
from realtime.tasks import end

logger = logging.getLogger(__name__)

# How often the last use of tokens is written.
USE_INTERVAL = 60.0
# How often the logs are asked how long they are.
LENGTH_INTERVAL = 5.0
CLOSE_TIMEOUT = 2.0
# Seconds that the first clients wait for the policy, less than a handshake may take. Without it
# they have what the environment says, until the database answers.
FIRST_LOOK = 2.0


class Node:
    """What the connections of one event loop share."""

    def __init__(self, embedded: EmbeddedServer | None = None) -> None:
        self.hub = Hub()
        self.roster = Roster()
        self.stats = Counters()
        self.database = Database()
        self.authority = Authority(self.database, self.roster)
        self.failures = Failures()
        # What publishers ask for over HTTP.
        self.requests = RequestLimits()
        self.process = Process(self._answer)
        self._sampler = Sampler(self.process.name, self.stats)
        # What all processes reported last, this one among them.
        self.cluster: list[Snapshot] = []
        self.leases = ConnectionQuotas(self.process.name, self.spawn)
        self.draining = False
        # Set before a drain in which others take the clients at once.
        self.moving = False
        # When whom to tell, once draining.
        self._drain: Drain | None = None
        # The look at database and channel layer that is under way, or the last one.
        self._looking: asyncio.Task[list[str]] | None = None
        self.subscriptions = Subscriptions(
            self.hub, self.stats, self.process.name, self._buffer_limit, self.spawn
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started: asyncio.Task[None] | None = None
        self._embedded = embedded
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def policy(self) -> Policy:
        """The configuration in force."""
        return self.authority.policy

    def _buffer_limit(self) -> int:
        return self.policy.config.max_buffered_bytes

    # Life

    async def start(self) -> None:
        """Read the policy and begin to watch what may change; at once if that has been done."""
        if self._started is None:
            self._started = asyncio.create_task(self._start())
        await asyncio.shield(self._started)

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.stats.is_running = True
        if self._embedded is not None:
            keeper.start(self._embedded)
            self.spawn(keeper.keep_running(self._embedded))
            self.spawn(keeper.keep_synced(self._embedded))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK):
                await self.authority.follow()
        self.spawn(self._beat())
        self.spawn(self.process.listen())
        self.spawn(self._sampler.watch_loop())
        self.spawn(self._every(BEAT_INTERVAL, self._beat))
        self.spawn(self._measure_logs())
        self.spawn(self._every(LENGTH_INTERVAL, self._measure_logs))
        self.spawn(self._every(ASSERT_INTERVAL, self._assert_leases))
        self.spawn(self._every(POLL_INTERVAL, self.authority.follow))
        self.spawn(self._every(USE_INTERVAL, self.authority.record_uses))

    async def close(self) -> None:
        """End everything this node runs."""
        self.stats.is_running = False
        tasks = list(self._tasks)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.gather(*map(end, tasks))
        await self.subscriptions.close()
        await self.process.leave()
        await self.authority.record_uses()
        await close_async_clients()
        self.database.close()
        if self._embedded is not None:
            self._embedded.stop()

    async def drain(self) -> None:
        """Ask every client to come back elsewhere or later, each at a time of its own."""
        self.draining = True
        clients = list(self.roster.clients)
        plan = self._drain = Drain(len(clients), self.policy.config.drain_timeout, self.moving)
        started = time.monotonic()
        for number, client in enumerate(clients):
            early = started + plan.told_at(number) - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            client.restart(plan.retry_after(number, random.random()))  # noqa: S311 - spreads load

    def restart_delay(self) -> float:
        """Return after how many seconds a client that comes during a drain should come back."""
        plan = self._drain or Drain(0, self.policy.config.drain_timeout, self.moving)
        return plan.retry_after_late(random.random())  # noqa: S311 - spreads load

    async def readiness(self) -> list[str]:
        """Say why clients should go elsewhere; nothing if this node can serve them.

        Who asks while others wait for the answer gets the same: probes do not add up.
        """
        if self.draining:
            return [DRAINING]
        if self._looking is None or self._looking.done():
            self._looking = self.spawn(look_around(self.database))
        return await asyncio.shield(self._looking)

    def report(self) -> dict[str, Any]:
        """Return the statistics, with what this process holds: to find what it should not.

        ``timers`` are those of the event loop that have not been cancelled. May be called from
        any thread.
        """
        scheduled = tuple(getattr(self._loop, "_scheduled", ()))
        timers = [timer for timer in scheduled if not timer.cancelled()]
        return self.stats.report(self.policy.config) | {
            "process": {
                "resident_bytes": psutil.Process().memory_info().rss,
                "tasks": len(asyncio.all_tasks(self._loop)) if self._loop else 0,
                "timers": len(timers),
                "connections": len(self.roster.clients),
                "waiting": len(self.roster.waiting),
                "holders": len(self.roster.by_holder),
                "fan_out_groups": self.hub.count_groups(),
            },
            "cluster": add_up(self.cluster),
        }

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run *work* in a task that ends with the node and is kept from the garbage collector."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _every(self, seconds: float, work: Any) -> None:
        while self.stats.is_running:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception:
                logger.exception("%s", work.__name__)

    async def _beat(self) -> None:
        """Let other processes know that this one runs, and what its connections hold."""
        with contextlib.suppress(Unavailable):  # readiness tells, and the broker
            asked = time.monotonic()
            beat = await self.process.beat()
            self.stats.round_trip = time.monotonic() - asked
            await self._report()
            if beat.was_gone:
                await self.leases.write_all()
            else:
                await self.leases.write()

    async def look_at_cluster(self) -> list[Snapshot]:
        """Return what the processes reported last; this one's at least."""
        if not self.cluster:
            with contextlib.suppress(Unavailable):
                await self._report()
        return self.cluster

    async def _report(self) -> None:
        """Report this process's figures and read those of the others, as far as they are there."""
        outlets = [client.outlet for client in self.roster.clients if client.outlet is not None]
        own = await self._sampler.take_snapshot(outlets, self.draining)
        self.cluster = [own]
        self.cluster = await exchange(own)

    async def _measure_logs(self) -> None:
        """Count what the logs retain. Not in a beat, which a log that hangs must not hold up."""
        try:
            self.stats.log = await get_log().lengths(SUBSCRIPTION_TYPES)
        except Unavailable:
            self.stats.log = {}

    async def _assert_leases(self) -> None:
        with contextlib.suppress(Unavailable):
            await self.leases.write_all()

    async def _answer(self, question: bytes) -> bytes:
        clients = self.roster.by_holder.items()
        holders = {holder: len(connections) for holder, connections in clients}
        return await answer(question, self.roster.clients, holders)

    # Connections

    def admit(self, client: Client) -> CloseReason | None:
        """Count a new connection in, or say for what there is no room."""
        config = self.policy.config
        refusal = self.roster.admit(client, Room.of(config), config.require_auth)
        if refusal is not None:
            self.stats.refused_connections += 1
            return refusal
        self.stats.active_clients = len(self.roster.clients)
        self.stats.total_connections += 1
        return None

    def forget(self, client: Client) -> None:
        """Count a connection out; once or more."""
        self.roster.forget(client)
        self.leases.release(client.client_id)
        self.stats.active_clients = len(self.roster.clients)


_nodes: WeakKeyDictionary[asyncio.AbstractEventLoop, Node] = WeakKeyDictionary()


def get_node() -> Node:
    """Return the running loop's node, made when first asked for."""
    loop = asyncio.get_running_loop()
    if loop not in _nodes:
        prepare_node(loop, EmbeddedServer(settings.DATA_DIR) if uses_embedded() else None)
    return _nodes[loop]


def prepare_node(loop: asyncio.AbstractEventLoop, embedded: EmbeddedServer | None) -> Node:
    """Make the node of a loop that is about to run, with the embedded server to keep running."""
    node = _nodes[loop] = Node(embedded)
    return node


def running_nodes() -> list[Node]:
    """Return the nodes of this process: one in a server, none in a publisher."""
    return [node for node in _nodes.values() if node.stats.is_running]
