"""One per event loop: wires hub, broker, authority and statistics for the consumers.

The hub tells, the node acts: it joins a group with a type's first subscription, leaves it with
the last, and writes what the hub hands out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import redis
from django.conf import settings

from realtime import keeper
from realtime.authority import Authority
from realtime.broker import Broker, LayerUnavailable
from realtime.database import Database
from realtime.draining import Drain
from realtime.embedded import EmbeddedServer
from realtime.explain import explain
from realtime.failures import Failures
from realtime.feed import Feed, Lost
from realtime.figures import Figures, exchange, whole
from realtime.filters import Filter
from realtime.frames import text_frame
from realtime.hub import Hub, Message, Subscription
from realtime.leases import ASSERT_INTERVAL, Leases
from realtime.limits import RequestLimits
from realtime.live import answer
from realtime.log import LogUnavailable, get_log
from realtime.observer import Observer
from realtime.outlet import ConnectionOutlet
from realtime.pacing import Pacing
from realtime.policy import POLL_INTERVAL, Policy
from realtime.processes import BEAT_INTERVAL, Process
from realtime.protocol import (
    SUBSCRIPTION_TYPES,
    CloseReason,
    ErrorCode,
    Position,
    ProtocolError,
    encode_error,
)
from realtime.readiness import DRAINING, look_around
from realtime.redis import close_async_clients
from realtime.replay import Replay, Request
from realtime.roster import Client, Room, Roster
from realtime.servers import uses_embedded
from realtime.shaping import Options
from realtime.stats import Stats
from realtime.tasks import end
from realtime.tracing import Origin, get_tracing

logger = logging.getLogger(__name__)

# A fan-out that takes longer lets others have their turn: replies, pings, handshakes.
TURN = 0.005
WRITES_BETWEEN_LOOKS = 64
# Bytes that leave in one write to a connection. What waits beyond waits here, where it exists
# once, and not in the buffer of each connection.
BYTES_AT_ONCE = 128 * 1024
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
        self.stats = Stats()
        self.database = Database()
        self.authority = Authority(self.database, self.roster)
        self.failures = Failures()
        # What publishers ask for over HTTP.
        self.requests = RequestLimits()
        self.process = Process(self._answer)
        self._observer = Observer(self.process.name, self.stats)
        # What all processes reported last, this one among them.
        self.cluster: list[Figures] = []
        self.leases = Leases(self.process.name, self.spawn)
        self.draining = False
        # Set before a drain in which others take the clients at once.
        self.moving = False
        # When whom to tell, once draining.
        self._drain: Drain | None = None
        # The look at database and channel layer that is under way, or the last one.
        self._looking: asyncio.Task[list[str]] | None = None
        self._tracing = get_tracing()
        self._broker = Broker(self._deliver, self._tell_all, self._count_repaired)
        self._pacing = Pacing(self)
        # Subscriptions that are not live yet.
        self._replays: dict[Subscription, tuple[Replay, asyncio.Task[None] | None]] = {}
        # Type -> the joining or leaving of its group that is under way, or the last.
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._started: asyncio.Task[None] | None = None
        self._embedded = embedded
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def policy(self) -> Policy:
        """The configuration in force."""
        return self.authority.policy

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
        self.spawn(self._observer.watch_loop())
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
        await self._broker.close()
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
            "cluster": whole(self.cluster),
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
        with contextlib.suppress(redis.RedisError, OSError):  # readiness tells, and the broker
            asked = time.monotonic()
            was_gone = await self.process.beat()
            self.stats.round_trip = time.monotonic() - asked
            await self._report()
            if was_gone:
                await self.leases.write_all()
            else:
                await self.leases.write()

    async def look_at_cluster(self) -> list[Figures]:
        """Return what the processes reported last; this one's at least."""
        if not self.cluster:
            with contextlib.suppress(redis.RedisError, OSError):
                await self._report()
        return self.cluster

    async def _report(self) -> None:
        """Report this process's figures and read those of the others, as far as they are there."""
        outlets = [client.outlet for client in self.roster.clients if client.outlet is not None]
        mine = await self._observer.observe(outlets, self.draining)
        self.cluster = [mine]
        self.cluster = await exchange(mine)

    async def _measure_logs(self) -> None:
        """Count what the logs retain. Not in a beat, which a log that hangs must not hold up."""
        try:
            self.stats.log = await get_log().lengths(SUBSCRIPTION_TYPES)
        except LogUnavailable:
            self.stats.log = {}

    async def _assert_leases(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError):
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

    # Subscriptions

    async def subscribe(
        self,
        outlet: ConnectionOutlet,
        kind: str,
        compiled: Filter,
        subscription_id: str,
        request: Request,
        options: Options | None = None,
    ) -> Replay:
        """Add a subscription; it receives what :meth:`go_live` then sends, and live messages.

        Raises:
            LayerUnavailable: the type's group could not be joined or its log not be read; nothing
                is left behind.
        """
        subscription = self.hub.subscribe(outlet, kind, compiled, subscription_id, options)
        self.stats.subscriptions[kind] += 1
        try:
            if not self._broker.has_joined(kind):
                await asyncio.shield(self._settle(kind))
            replay = Replay(subscription, outlet, self._broker.feed(kind), self)
            self._replays[subscription] = replay, None
            await replay.plan(request)
            self.stats.replays += bool(replay.replayed)
        except BaseException as error:
            self.unsubscribe(subscription)
            if isinstance(error, LogUnavailable):
                raise LayerUnavailable(str(error)) from error
            raise
        return replay

    async def explain(self, kind: str, enforced: Filter, filters: dict[str, Any]) -> dict[str, Any]:
        """Tell what of the newest messages matches; see :mod:`realtime.explain`.

        Raises:
            LayerUnavailable: the type's log could not be read.
        """
        feed = self._broker.feed(kind) if self._broker.has_joined(kind) else None
        try:
            return await explain(kind, feed, enforced, filters)
        except LogUnavailable as error:
            raise LayerUnavailable(str(error)) from error

    async def go_live(self, replay: Replay) -> None:
        """Send what a new subscription is to receive first; what takes longer goes on by itself."""
        if replay.is_quick() and await replay.go_live():
            del self._replays[replay.subscription]
        else:
            task = self.spawn(self._run(replay))
            self._replays[replay.subscription] = replay, task

    async def _run(self, replay: Replay) -> None:
        await replay.run()
        self._replays.pop(replay.subscription, None)

    def position(self, subscription: Subscription) -> Position:
        """Return the position up to which everything that matches has been sent."""
        replay, _ = self._replays.get(subscription, (None, None))
        if replay is not None:
            return replay.position
        return self._pacing.position(subscription, self.feed(subscription.type).position)

    def feed(self, kind: str) -> Feed:
        """Return the messages of a type that has subscriptions, in order."""
        return self._broker.feed(kind)

    def change_filter(self, subscription: Subscription, compiled: Filter) -> None:
        """Let a subscription have other filters from now on, also for what is held for it."""
        before = subscription.shaped
        held = before.shaper.held(subscription.since) if before and subscription.active else []
        self.hub.change_filter(subscription, compiled)
        if before is None or subscription.shaped is before:
            return
        self._pacing.leave(before)
        if subscription.active:
            subscription.activate()
            if rest := subscription.select(held):
                self.write(subscription.type, [subscription], subscription.frames(rest), len(rest))

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription; once or more."""
        _, task = self._replays.pop(subscription, (None, None))
        if task is not None:
            task.cancel()
        kind = subscription.type
        was_member = self.hub.unsubscribe(subscription)
        self._pacing.forget(subscription)
        if not was_member:
            return
        self.stats.subscriptions[kind] -= 1
        if not self.hub.has_subscriptions(kind):
            self._settle(kind)

    def _settle(self, kind: str) -> asyncio.Task[None]:
        """Join or leave a type's group, as the hub needs it; who asks meanwhile shares the try."""
        task = self._settling.get(kind)
        if task is None or task.done():
            task = self._settling[kind] = self.spawn(self._join_or_leave(kind))
            # Who waits for it hears of a failure; whoever does not has no use for it.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _join_or_leave(self, kind: str) -> None:
        while (wanted := self.hub.has_subscriptions(kind)) != self._broker.has_joined(kind):
            if wanted:
                await self._broker.join(kind)
            else:
                await self._broker.leave(kind)

    async def _deliver(self, kind: str, messages: list[Message], origins: list[Origin]) -> None:
        """Write messages to everyone they concern."""
        if self._tracing is None:
            await self._write_all(kind, messages)
            return
        with self._tracing.delivery(kind, len(messages), origins, self.process.name) as delivery:
            delivery.writes = await self._write_all(kind, messages)

    async def _write_all(self, kind: str, messages: list[Message]) -> int:
        """Write a few milliseconds at a time; return how many writes it took."""
        self.stats.published[kind] += len(messages)
        self.stats.published_bytes[kind] += sum([len(message.payload) for message in messages])
        turn_ends = time.monotonic() + TURN
        written = writes = 0
        for part in _parts(messages):
            for subscriptions, frames, count in self.hub.deliveries(kind, part):
                self.stats.fan_out.observe(len(subscriptions), count)
                late = max(0.0, time.time() - part[0].timestamp)
                for start in range(0, len(subscriptions), WRITES_BETWEEN_LOOKS):
                    few = subscriptions[start : start + WRITES_BETWEEN_LOOKS]
                    writes += self.write(kind, few, frames, count, late)
                    written += len(few)
                    if written >= WRITES_BETWEEN_LOOKS and time.monotonic() > turn_ends:
                        await asyncio.sleep(0)
                        turn_ends = time.monotonic() + TURN
                        written = 0
            if self.hub.shaped:
                for shaped in self.hub.take_shaped():
                    await self._pacing.send_due(shaped)
            if part[-1] is not messages[-1]:
                await asyncio.sleep(0)  # so that sockets take in what was written
        return writes

    def count_replayed(self, kind: str, messages: int, size: int) -> None:
        """Count messages that one subscription was sent before it was live, and their bytes."""
        stats = self.stats
        stats.messages_sent += messages
        stats.delivered[kind] += messages
        stats.delivered_bytes[kind] += size
        stats.replayed[kind] += messages

    def _count_repaired(self, kind: str, count: int) -> None:
        self.stats.repaired[kind] += count

    def _tell_all(self, kind: str, lost: Lost) -> None:
        """Tell every live subscription of a type what it will not receive."""
        logger.warning("%s: offsets from %d are lost (%s)", kind, lost.first, lost.reason)
        self.stats.lost[kind] += lost.how_many()
        for shaped in self.hub.shaped_groups(kind):
            self._pacing.send_all(shaped)
        for subscription in self.hub.subscriptions(kind):
            if subscription.active:
                self.tell(subscription, lost)

    def tell(self, subscription: Subscription, lost: Lost) -> None:
        """Tell a subscription what it will not receive."""
        details = {"from": lost.first, "to": lost.last, "reason": lost.reason}
        error = ProtocolError(ErrorCode.DATA_LOST, details=details)
        text = encode_error(error, time.time(), subscription.id)
        subscription.outlet.write(text_frame(text))
        self.stats.messages_sent += 1

    def write(
        self,
        kind: str,
        subscriptions: Iterable[Subscription],
        frames: bytes,
        count: int,
        late: float | None = None,
    ) -> int:
        """Write the frames of so many messages, seconds after they were published, to those who
        are live; return how many they are. *late* is ``None`` if they were held on purpose.
        """
        written = 0
        for subscription in subscriptions:
            if subscription.active:
                subscription.outlet.write(frames)
                written += 1
        stats = self.stats
        stats.messages_sent += count * written
        stats.delivered[kind] += count * written
        stats.delivered_bytes[kind] += len(frames) * written
        if late is not None:
            stats.latency.observe(late, count * written)
        return written


def _parts(messages: list[Message]) -> Iterator[list[Message]]:
    """Cut messages into parts that a client which reads can take in at once."""
    part: list[Message] = []
    size = 0
    for message in messages:
        if part and size + len(message.head) > BYTES_AT_ONCE:
            yield part
            part, size = [], 0
        part.append(message)
        size += len(message.head)
    yield part


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
