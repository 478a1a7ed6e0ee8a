"""The subscriptions of one event loop: how they begin, change and end.

Joins a type's group with its first subscription and leaves it with the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from realtime.cluster.clients import Unavailable
from realtime.delivery.broker import Broker
from realtime.delivery.dispatcher import Dispatcher
from realtime.delivery.feed import END, Feed
from realtime.delivery.replay import Replay
from realtime.delivery.transport import Transport
from realtime.filters import (
    MISSING,
    Filter,
    conjunction,
    decode_or_none,
    lookup,
    matches,
    read_path,
)
from realtime.filters.compiler import OR, compile_filters
from realtime.hub.groups import Subscription
from realtime.hub.index import Hub
from realtime.log import get_log
from realtime.monitoring.metrics import Counters
from realtime.protocol import Position
from realtime.protocol.subscribe import SubscribeRequest
from realtime.tasks import Spawn, TimeSlice

# The most that explain looks at: messages, and about so many bytes of messages from the log,
# which is read backwards in blocks of so many messages.
EXPLAINED_MESSAGES = 1000
EXPLAINED_BYTES = 4 * 1024 * 1024
EXPLAINED_BLOCK = 64
# Seconds after which other tasks run.
COUNTING_SECONDS = 0.002


class Subscriptions:
    """What the clients of one event loop are subscribed to."""

    def __init__(
        self, hub: Hub, stats: Counters, process: str, buffer_limit: Callable[[], int], spawn: Spawn
    ) -> None:
        self._hub = hub
        self._stats = stats
        self._spawn = spawn
        self._dispatcher = Dispatcher(hub, stats, buffer_limit, process, self.feed, spawn)
        self._throttle = self._dispatcher.throttle
        self._broker = Broker(self._dispatcher, stats)
        # Subscriptions that are not live yet.
        self._replays: dict[Subscription, tuple[Replay, asyncio.Task[None] | None]] = {}
        # Type -> the joining or leaving of its group that is under way, or the last.
        self._settling: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        await self._broker.close()

    def are_cut_off(self) -> bool:
        """Tell whether no group brings anything, though some have been joined."""
        return self._broker.is_cut_off()

    async def subscribe(
        self, outlet: Transport, request: SubscribeRequest, enforced: Filter, subscription_id: str
    ) -> Replay:
        """Add a subscription to what both the request's filters and those *enforced* match.

        It receives nothing until the caller has confirmed it to the client and called
        :meth:`go_live` with the replay that is returned. Raises ``Unavailable``, with nothing left
        behind.
        """
        kind, filters = request.type, conjunction(request.filters, enforced)
        subscription = self._hub.subscribe(outlet, kind, filters, subscription_id, request.options)
        self._stats.subscriptions[kind] += 1
        try:
            if not self._broker.has_joined(kind):
                await asyncio.shield(self._settle(kind))
            replay = Replay(subscription, outlet, self._broker.feed(kind), self._dispatcher)
            self._replays[subscription] = replay, None
            await replay.plan(request.start_from)
            self._stats.replays += bool(replay.replayed)
        except BaseException:
            self.unsubscribe(subscription)
            raise
        return replay

    async def explain(self, request: SubscribeRequest, enforced: Filter) -> dict[str, Any]:
        """Return how many of a type's newest messages a client's filters match.

        The newest are 1,000 retained messages, or 4 MiB of them. Only those count, as ``retained``,
        that satisfy *enforced*, the filter of the client's token. Raises ``Unavailable`` if they
        are not in memory and the log does not answer.
        """
        kind = request.type
        feed = self._broker.feed(kind) if self._broker.has_joined(kind) else None
        explanation = Explanation(request.raw_filters)
        retained = 0
        time_slice = TimeSlice(COUNTING_SECONDS)
        async for bodies in _newest(kind, feed):
            for body in bodies:
                payload = decode_or_none(body)
                if matches(enforced, payload):
                    retained += 1
                    explanation.count(payload)
                await time_slice.yield_if_due()
        return {"retained": retained, **explanation.as_data()}

    def go_live(self, replay: Replay) -> None:
        """Send what a new subscription is to receive first; a task does what takes longer."""
        if replay.subscription not in self._replays:
            return  # it has ended already, as one does that cannot take the answer
        if replay.finish_at_once():
            del self._replays[replay.subscription]
        else:
            task = self._spawn(self._run(replay))
            self._replays[replay.subscription] = replay, task

    async def _run(self, replay: Replay) -> None:
        await replay.run()
        self._replays.pop(replay.subscription, None)

    def position(self, subscription: Subscription) -> Position:
        """Return the position up to which everything that matches has been sent."""
        replay, _ = self._replays.get(subscription, (None, None))
        if replay is not None:
            return replay.position
        return self._throttle.position(subscription, self.feed(subscription.type).position)

    def feed(self, kind: str) -> Feed:
        return self._broker.feed(kind)

    def change_filter(self, subscription: Subscription, compiled: Filter) -> None:
        """Give a subscription other filters, which what waits for it must pass too."""
        self._dispatcher.change_filter(subscription, compiled)
        if subscription in self._replays:
            replay, _ = self._replays[subscription]
            replay.select_again()

    def unsubscribe(self, subscription: Subscription) -> None:
        """Remove a subscription; once or more."""
        _, task = self._replays.pop(subscription, (None, None))
        if task is not None:
            task.cancel()
        kind = subscription.type
        was_member = self._hub.unsubscribe(subscription)
        self._throttle.forget(subscription)
        if not was_member:
            return
        self._stats.subscriptions[kind] -= 1
        if not self._hub.has_subscriptions(kind):
            self._settle(kind)

    def _settle(self, kind: str) -> asyncio.Task[None]:
        """Join or leave a type's group, as the hub needs it, in a task that all callers share."""
        task = self._settling.get(kind)
        if task is None or task.done():
            task = self._settling[kind] = self._spawn(self._join_or_leave(kind))
            # Those who wait for it are told of a failure; asyncio need not log it besides.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _join_or_leave(self, kind: str) -> None:
        while (wanted := self._hub.has_subscriptions(kind)) != self._broker.has_joined(kind):
            if wanted:
                await self._broker.join(kind)
            else:
                await self._broker.leave(kind)


async def _newest(kind: str, feed: Feed | None) -> AsyncIterator[Sequence[bytes]]:
    """Yield the newest messages of a type, some at a time."""
    if feed is not None:
        recent = feed.read_recent(max(0, feed.position.offset - EXPLAINED_MESSAGES))
        if recent is not None:
            yield [message.payload for message in recent.messages]
            return
    log = get_log()
    newest = await log.read(kind, END)
    high = newest.head
    oldest, room = max(0, high - EXPLAINED_MESSAGES), EXPLAINED_BYTES
    # Each block, from the newest to the oldest, is read forwards, in one read or more.
    while high > oldest and room > 0:
        after = start = max(oldest, high - EXPLAINED_BLOCK)
        while after < high:
            chunk = await log.read(kind, after)
            if chunk.epoch != newest.epoch:
                raise Unavailable("another log has begun")
            bodies = [entry.body for entry in chunk.entries[: max(0, high + 1 - chunk.first)]]
            if chunk.first > after + 1:
                oldest = start  # what is before it is not retained
            if not bodies:
                break
            yield bodies
            room -= sum(map(len, bodies))
            after = chunk.first + len(bodies) - 1
        high = start


class Explanation:
    """Counts of messages that a filter, each of its paths and each alternative match."""

    def __init__(self, filters: dict[str, Any]) -> None:
        """Take filters as a client wrote them, which must compile."""
        self._filter = compile_filters(filters)
        self._matching = 0
        self._paths = {
            path: (read_path(path), compile_filters({path: value}), {"present": 0, "matching": 0})
            for path, value in filters.items()
            if path != OR
        }
        self._alternatives = [Explanation(alternative) for alternative in filters.get(OR, ())]

    def count(self, payload: Any) -> None:
        self._matching += matches(self._filter, payload)
        for path, compiled, counts in self._paths.values():
            counts["present"] += lookup(payload, path) is not MISSING
            counts["matching"] += matches(compiled, payload)
        for alternative in self._alternatives:
            alternative.count(payload)

    def as_data(self) -> dict[str, Any]:
        """Return the counts as ``explain`` answers them; ``or`` only if there are alternatives:

        ``{"matching": 2, "paths": {"user": {"present": 9, "matching": 2}}, "or": [...]}``
        """
        paths = {name: counts for name, (_, _, counts) in self._paths.items()}
        data: dict[str, Any] = {"matching": self._matching, "paths": paths}
        if self._alternatives:
            data["or"] = [alternative.as_data() for alternative in self._alternatives]
        return data
