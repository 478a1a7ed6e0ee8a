"""Writes messages to the subscriptions that the hub selects, and counts what it writes.

A large fan-out is written in parts of a few milliseconds, between which other tasks run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from realtime.delivery.feed import Feed, Lost
from realtime.delivery.throttle import WRITES_BETWEEN_LOOKS, WRITING_SECONDS, Throttle
from realtime.hub.groups import Subscription
from realtime.hub.index import Hub
from realtime.hub.message import Message, cut
from realtime.monitoring.metrics import Counters
from realtime.monitoring.tracing import TraceOrigin, get_tracing
from realtime.protocol import ErrorCode, ProtocolError, encode_error, text_frame
from realtime.tasks import Spawn, TimeSlice

logger = logging.getLogger(__name__)

# Bytes that leave in one write to a connection. More wait here, where they exist once, and not in
# the buffer of each connection.
BYTES_AT_ONCE = 128 * 1024


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
                count = len(selected)
                stats.fan_out.observe(len(subscriptions), count)
                late = max(0.0, time.time() - piece[0].timestamp)
                for start in range(0, len(subscriptions), WRITES_BETWEEN_LOOKS):
                    some = subscriptions[start : start + WRITES_BETWEEN_LOOKS]
                    writes += self.write(kind, some, frames, count, late)
                    if time_slice.is_used_up(len(some)):
                        await time_slice.renew()
            for shaped in self._hub.pop_shaped():
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
                self.tell(subscription, lost)

    def count_repaired(self, kind: str, count: int) -> None:
        self.stats.repaired[kind] += count

    def tell(self, subscription: Subscription, lost: Lost) -> None:
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
        """Write the frames of *count* messages to live subscriptions; return to how many.

        *late* is the age of the messages in seconds; ``None`` if they were held back on purpose.
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

    def count_replayed(self, kind: str, messages: int, size: int) -> None:
        """Count messages, and their bytes, that a subscription was sent before it was live."""
        stats = self.stats
        stats.messages_sent += messages
        stats.delivered[kind] += messages
        stats.delivered_bytes[kind] += size
        stats.replayed[kind] += messages
