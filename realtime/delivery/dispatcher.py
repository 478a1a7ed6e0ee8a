"""Writes messages to the subscriptions that the hub selects, at once or when they are due.

A large fan-out is written in parts of a few milliseconds, between which other tasks run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from realtime.delivery.feed import Feed, Lost
from realtime.delivery.transport import Transport
from realtime.filters import Filter
from realtime.hub.groups import ShapedGroup, SharedFrames, Subscription
from realtime.hub.index import Hub
from realtime.hub.message import Message, cut
from realtime.monitoring.metrics import Counters
from realtime.monitoring.tracing import TraceOrigin, get_tracing
from realtime.protocol import ErrorCode, Position, ProtocolError, encode_error, text_frame
from realtime.protocol.subscribe import Options
from realtime.tasks import Spawn, TimeSlice

logger = logging.getLogger(__name__)

# Bytes that leave in one write to a connection. More wait here, where they exist once, and not in
# the buffer of each connection.
BYTES_AT_ONCE = 128 * 1024
# Seconds of writing after which other tasks run: replies, pings, handshakes.
WRITING_SECONDS = 0.005
WRITES_BETWEEN_LOOKS = 64
# Seconds between looks at whether clients for whom messages were dropped read again.
LOOK_INTERVAL = 0.1


class Dispatcher:
    """The ``FeedHandler`` of all feeds of one event loop.

    *buffer_limit* returns the bytes that may wait for one client, *process* names this process in
    traces, *feed* returns the feed of a type with subscriptions.
    """

    def __init__(
        self,
        hub: Hub,
        stats: Counters,
        buffer_limit: Callable[[], int],
        process: str,
        feed: Callable[[str], Feed],
        spawn: Spawn,
    ) -> None:
        self.stats = stats
        self.buffer_limit = buffer_limit
        self.throttle = Throttle(self, feed, spawn)
        self._hub = hub
        self._process = process
        self._tracing = get_tracing()

    async def deliver(self, kind: str, messages: list[Message], origins: list[TraceOrigin]) -> None:
        """Write messages to all live subscriptions to which they matter."""
        if self._tracing is None:
            await self._write_all(kind, messages)
            return
        with self._tracing.delivery(kind, len(messages), origins, self._process) as delivery:
            delivery.writes = await self._write_all(kind, messages)

    async def _write_all(self, kind: str, messages: list[Message]) -> int:
        stats = self.stats
        stats.published[kind] += len(messages)
        stats.published_bytes[kind] += sum([len(message.payload) for message in messages])
        time_slice = TimeSlice(WRITING_SECONDS, WRITES_BETWEEN_LOOKS)
        writes = 0
        for piece in cut(messages, BYTES_AT_ONCE):
            for subscriptions, frames, selected in self._hub.share_frames(kind, piece):
                stats.fan_out.observe(len(subscriptions), len(selected))
                late = max(0.0, time.time() - piece[0].timestamp)
                for start in range(0, len(subscriptions), WRITES_BETWEEN_LOOKS):
                    some = subscriptions[start : start + WRITES_BETWEEN_LOOKS]
                    writes += self.write(kind, some, frames, selected, late)
                    if time_slice.is_used_up(len(some)):
                        await time_slice.renew()
            for shaped in self._hub.pop_shaped(kind):
                await self.throttle.send_due(shaped)
            if piece[-1] is not messages[-1]:
                await asyncio.sleep(0)  # so that sockets take in what was written
        return writes

    def tell_lost(self, kind: str, lost: Lost) -> None:
        """Tell every live subscription of a type which messages it will not receive."""
        logger.warning("%s: offsets from %d are lost (%s)", kind, lost.first, lost.reason)
        self.stats.lost[kind] += lost.how_many()
        for shaped in self._hub.shaped_groups(kind):
            self.throttle.send_all(shaped)
        for subscription in self._hub.subscriptions(kind):
            if subscription.active:
                self.throttle.tell_dropped(subscription)
                self.tell(subscription, lost)

    def count_repaired(self, kind: str, count: int) -> None:
        self.stats.repaired[kind] += count

    def tell(self, subscription: Subscription, lost: Lost) -> None:
        details = {"from": lost.first, "to": lost.last, "reason": lost.reason}
        error = ProtocolError(ErrorCode.DATA_LOST, details=details)
        subscription.outlet.write(text_frame(encode_error(error, time.time(), subscription.id)))
        self.stats.messages_sent += 1

    def activate(self, subscription: Subscription) -> None:
        """Let a subscription receive what comes from now on; call while nothing is written."""
        self._hub.activate(subscription)

    def change_filter(self, subscription: Subscription, compiled: Filter) -> None:
        """Give a subscription other filters, which what it has not been sent must pass too."""
        before, shaped = subscription.group, subscription.shaped
        messages = self._hub.change_filter(subscription, compiled)
        if subscription.group is before:
            return
        if shaped is not None:
            self.throttle.forget_if_empty(shaped)
        if messages:
            frames = subscription.frames(messages)
            shared = SharedFrames((subscription,), frames, messages)
            self.throttle.write(subscription.type, subscription.options, shared)
        if subscription.active:
            self._hub.activate(subscription)

    def write(
        self,
        kind: str,
        subscriptions: Iterable[Subscription],
        frames: bytes,
        messages: Sequence[Message],
        late: float | None = None,
    ) -> int:
        """Write shared frames to those for whom they still are; return to how many.

        *late* is the age of the messages in seconds; ``None`` if they were held back on purpose.
        """
        last, written = messages[-1].number, 0
        for subscription in subscriptions:
            if subscription.sent_until < last:
                subscription.sent_until = last
                subscription.outlet.write(frames)
                written += 1
        stats, count = self.stats, len(messages) * written
        stats.messages_sent += count
        stats.delivered[kind] += count
        stats.delivered_bytes[kind] += len(frames) * written
        if late is not None:
            stats.latency.observe(late, count)
        return written

    def count_replayed(self, kind: str, messages: int, size: int) -> None:
        stats = self.stats
        stats.messages_sent += messages
        stats.delivered[kind] += messages
        stats.delivered_bytes[kind] += size
        stats.replayed[kind] += messages


class Throttle:
    """The subscriptions that wait: for their time (shaped groups), or for their client to read."""

    def __init__(self, dispatcher: Dispatcher, feed: Callable[[str], Feed], spawn: Spawn) -> None:
        self._dispatcher = dispatcher
        self._feed = feed
        self._spawn = spawn
        self._timers: dict[ShapedGroup, asyncio.TimerHandle] = {}
        # Subscription -> the first and last offset of the messages dropped since its client read
        # too little; 0 for none that are in the log.
        self._dropped: dict[Subscription, tuple[int, int]] = {}
        self._look_timer: asyncio.TimerHandle | None = None

    async def send_due(self, shaped: ShapedGroup) -> None:
        """Send what a group holds and is due. Call with the lock of the type's feed held."""
        shaper = shaped.shaper
        now = asyncio.get_running_loop().time()
        held = shaper.release(now, self._dispatcher.buffer_limit() // 2)
        try:
            if held:
                time_slice = TimeSlice(WRITING_SECONDS, WRITES_BETWEEN_LOOKS)
                for shared in shaped.share_held(held):
                    for start in range(0, len(shared.subscriptions), WRITES_BETWEEN_LOOKS):
                        some = shared.subscriptions[start : start + WRITES_BETWEEN_LOOKS]
                        part = SharedFrames(some, shared.frames, shared.messages)
                        self.write(shaped.type, shaped.options, part)
                        await time_slice.yield_if_due(len(some))
        finally:
            shaper.sent()
            self._set_timer(shaped)

    def send_all(self, shaped: ShapedGroup) -> None:
        """Send all that a group holds, before members are told that later messages are lost.

        Lets no other tasks run meanwhile.
        """
        held = shaped.shaper.flush(asyncio.get_running_loop().time())
        if held:
            for shared in shaped.share_held(held):
                self.write(shaped.type, shaped.options, shared)
        shaped.shaper.sent()
        self._set_timer(shaped)

    def write(self, kind: str, options: Options | None, shared: SharedFrames) -> None:
        """Write frames to those who have room for them, or to all if their options drop nothing."""
        subscriptions, frames, messages = shared
        self._dispatcher.stats.fan_out.observe(len(subscriptions), len(messages))
        if options is not None and options.drops:
            last, size = messages[-1].number, len(frames)
            for member in subscriptions:
                if member.sent_until < last and not self._has_room(member, size):
                    self._drop(member, messages)
        self._dispatcher.write(kind, subscriptions, frames, messages)

    def _set_timer(self, shaped: ShapedGroup) -> None:
        due = shaped.shaper.due if shaped else None
        timer = self._timers.get(shaped)
        if timer is not None:
            if timer.when() == due:
                return
            timer.cancel()
            del self._timers[shaped]
        if due is not None:
            loop = asyncio.get_running_loop()
            self._timers[shaped] = loop.call_at(due, self._ring, shaped)

    def _ring(self, shaped: ShapedGroup) -> None:
        del self._timers[shaped]
        self._spawn(self._send(shaped))

    async def _send(self, shaped: ShapedGroup) -> None:
        if shaped:  # its last member, and the type's feed, may be gone meanwhile
            async with self._feed(shaped.type).lock:
                await self.send_due(shaped)

    def forget(self, subscription: Subscription) -> None:
        """Forget a member that has left its group, and the group's timer if it was the last."""
        self._dropped.pop(subscription, None)
        if subscription.shaped is not None:
            self.forget_if_empty(subscription.shaped)

    def forget_if_empty(self, shaped: ShapedGroup) -> None:
        if not shaped and (timer := self._timers.pop(shaped, None)) is not None:
            timer.cancel()

    def position(self, subscription: Subscription, live: Position) -> Position:
        """Return up to where a live subscription has been sent all, or been told what is lost.

        *live* is up to where its feed has delivered. A superseded message counts as sent.
        """
        shaped = subscription.shaped
        if shaped is None:
            return live
        oldest = shaped.shaper.oldest(subscription.sent_until)
        dropped, _ = self._dropped.get(subscription, (0, 0))
        unsent = [offset for offset in (oldest, dropped) if offset]
        return live._replace(offset=min([live.offset, *(offset - 1 for offset in unsent)]))

    def _has_room(self, subscription: Subscription, size: int) -> bool:
        """Tell whether *size* bytes fit into half of a client's buffer; the rest is for all else.

        Once messages were dropped, more are dropped until the client has been told.
        """
        if subscription in self._dropped:
            return False
        waiting = cast(Transport, subscription.outlet).buffered_bytes()
        return not waiting or waiting + size <= self._dispatcher.buffer_limit() // 2

    def _drop(self, subscription: Subscription, messages: Sequence[Message]) -> None:
        subscription.sent_until = messages[-1].number
        self._dispatcher.stats.dropped[subscription.type] += len(messages)
        offsets = [message.offset for message in messages if message.offset]
        first, last = self._dropped.get(subscription, (0, 0))
        if offsets:
            first, last = first or offsets[0], offsets[-1]
        self._dropped[subscription] = first, last
        if self._look_timer is None:
            self._look_later()

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_timer = loop.call_later(LOOK_INTERVAL, self._look_at_slow_clients)

    def _look_at_slow_clients(self) -> None:
        """Tell clients that have read nearly all which messages were dropped."""
        self._look_timer = None
        for subscription in tuple(self._dropped):
            waiting = cast(Transport, subscription.outlet).buffered_bytes()
            if waiting <= self._dispatcher.buffer_limit() // 8:
                self.tell_dropped(subscription)
        if self._dropped:
            self._look_later()

    def tell_dropped(self, subscription: Subscription) -> None:
        """Tell a client which messages were dropped, if any; also before other losses are told.

        For these may begin another epoch, in which the offsets would stand for other messages.
        """
        if subscription in self._dropped:
            first, last = self._dropped.pop(subscription)
            self._dispatcher.tell(subscription, Lost(first or None, last or None, "overflow"))
