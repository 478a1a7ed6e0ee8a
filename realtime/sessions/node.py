"""The objects that all connections of one event loop share, and the tasks that run for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import psutil
from django.conf import settings

from realtime.auth.limits import RequestLimits
from realtime.auth.policy import POLL_INTERVAL, Policy
from realtime.auth.quotas import ASSERT_INTERVAL, ConnectionQuotas, Failures
from realtime.cluster import BEAT_INTERVAL, Membership
from realtime.cluster.clients import Unavailable, close_async_clients
from realtime.cluster.connections import answer
from realtime.cluster.embedded import EmbeddedServer, keep_running, keep_synced, start_or_log
from realtime.cluster.servers import uses_embedded
from realtime.database import Database
from realtime.delivery.subscriptions import Subscriptions
from realtime.hub.index import Hub
from realtime.log import get_log
from realtime.monitoring.metrics import Counters
from realtime.monitoring.snapshot import Sampler, Snapshot, add_up, exchange
from realtime.protocol import SUBSCRIPTION_TYPES, CloseReason
from realtime.sessions.connections import Drain, Roster
from realtime.sessions.readiness import DRAINING, STORE_INTERVAL, StoreWatch, check_backends
from realtime.sessions.rights import Authority
from realtime.tasks import end

if TYPE_CHECKING:
    from realtime.sessions.session import Session

logger = logging.getLogger(__name__)

# Seconds between writing when tokens were last used.
USE_INTERVAL = 60.0
# Seconds between asking the logs how long they are.
LENGTH_INTERVAL = 5.0
# Seconds that the node's tasks have to end.
CLOSE_TIMEOUT = 2.0
# Seconds that the first clients wait for the policy, less than a handshake may take. Until the
# database answers, the environment's configuration is in force.
FIRST_POLICY_TIMEOUT = 2.0


class Reporter:
    """Reports one process to all others, and knows what those report."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.sampler = Sampler(node.process.name, node.stats)
        # The figures that all processes reported last, this one among them.
        self.cluster: list[Snapshot] = []

    async def beat(self) -> None:
        """Let other processes know that this one runs, and what its connections hold."""
        with contextlib.suppress(Unavailable):  # readiness tells, and the broker
            asked = time.monotonic()
            beat = await self._node.process.beat()
            self._node.stats.round_trip = time.monotonic() - asked
            await self._report()
            leases = self._node.leases
            await (leases.write_all() if beat.was_gone else leases.write())

    async def look_at_cluster(self) -> list[Snapshot]:
        """Return the figures that the processes reported last; this one's at least."""
        if not self.cluster:
            with contextlib.suppress(Unavailable):
                await self._report()
        return self.cluster

    async def _report(self) -> None:
        """Report this process's figures and read those of the others, as far as they are there."""
        clients = self._node.roster.clients
        transports = [client.transport for client in clients if client.transport is not None]
        figures = await self.sampler.take_snapshot(transports, self._node.drain.has_begun)
        self.cluster = [figures]
        self.cluster = await exchange(figures)

    async def measure_logs(self) -> None:
        """Count what the logs retain. Not in a beat, which a log that hangs must not hold up."""
        try:
            self._node.stats.log = await get_log().lengths(SUBSCRIPTION_TYPES)
        except Unavailable:
            self._node.stats.log = {}

    async def assert_leases(self) -> None:
        """Write all leases anew, in case the server has lost them."""
        with contextlib.suppress(Unavailable):
            await self._node.leases.write_all()


class Node:
    """Everything that one event loop has only once: it makes it, starts it and ends it."""

    def __init__(self, embedded: EmbeddedServer | None = None) -> None:
        self._embedded = embedded
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started: asyncio.Task[None] | None = None
        # The check of the backends that is under way, or the last one.
        self._checking: asyncio.Task[list[str]] | None = None
        self.stats = Counters()
        self._stores = StoreWatch(self.stats)
        self.database = Database()
        self.hub = Hub()
        self.roster = Roster()
        self.authority = Authority(self.database, self.roster)
        self.failures = Failures()
        # The rate limits of those who publish over HTTP.
        self.requests = RequestLimits()
        self.process = Membership()
        self.leases = ConnectionQuotas(self.process.name, self.spawn)
        self.drain = Drain(self.roster, lambda: self.policy.config.drain_timeout)
        self.reporter = Reporter(self)
        self.subscriptions = Subscriptions(
            self.hub,
            self.stats,
            self.process.name,
            lambda: self.policy.config.max_buffered_bytes,
            self.spawn,
        )

    @property
    def policy(self) -> Policy:
        """The configuration in force."""
        return self.authority.policy

    # Life

    async def start(self) -> None:
        """Read the policy and start the node's tasks. Later calls only wait until that is done."""
        if self._started is None:
            self._started = asyncio.create_task(self._start())
        await asyncio.shield(self._started)

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.stats.is_running = True
        if self._embedded is not None:
            start_or_log(self._embedded)
            self.spawn(keep_running(self._embedded))
            self.spawn(keep_synced(self._embedded))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_POLICY_TIMEOUT):
                await self.authority.follow()
        reporter = self.reporter
        self.spawn(reporter.beat())
        self.spawn(self.process.listen(self._answer))
        self.spawn(reporter.sampler.watch_loop())
        self.spawn(self._every(BEAT_INTERVAL, reporter.beat))
        self.spawn(reporter.measure_logs())
        self.spawn(self._every(LENGTH_INTERVAL, reporter.measure_logs))
        self.spawn(self._every(STORE_INTERVAL, self._stores.check))
        self.spawn(self._every(ASSERT_INTERVAL, reporter.assert_leases))
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

    async def readiness(self) -> list[str]:
        """Return why clients should go elsewhere, if they should; many who ask share one check."""
        if self.drain.has_begun:
            return [DRAINING]
        if self._checking is None or self._checking.done():
            self._checking = self.spawn(
                check_backends(self.database, self.subscriptions.are_cut_off())
            )
        return await asyncio.shield(self._checking) + await self._stores.check()

    def report(self) -> dict[str, Any]:
        """Return statistics and counts of what this process holds. Any thread may call it."""
        # asyncio has no public way to see its timers.
        scheduled = tuple(getattr(self._loop, "_scheduled", ()))
        return self.stats.report(self.policy.config) | {
            "process": {
                "resident_bytes": psutil.Process().memory_info().rss,
                "tasks": len(asyncio.all_tasks(self._loop)) if self._loop else 0,
                "timers": sum(not timer.cancelled() for timer in scheduled),
                "connections": len(self.roster.clients),
                "waiting": len(self.roster.waiting),
                "holders": len(self.roster.by_holder),
                "fan_out_groups": self.hub.count_groups(),
            },
            "cluster": add_up(self.reporter.cluster),
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

    async def _answer(self, question: bytes) -> bytes:
        holders = {holder: len(clients) for holder, clients in self.roster.by_holder.items()}
        return await answer(question, self.roster.clients, holders)

    # Connections

    def admit(self, client: Session) -> CloseReason | None:
        """Count a new connection in, or return for what there is no room."""
        refusal = self.roster.admit(client, self.policy.config)
        if refusal is not None:
            self.stats.refused_connections += 1
            return refusal
        self.stats.active_clients = len(self.roster.clients)
        self.stats.total_connections += 1
        return None

    def forget(self, client: Session) -> None:
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
