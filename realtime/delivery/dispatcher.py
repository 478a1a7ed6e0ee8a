"""Hands messages of one event loop to those whom they concern, as the hub tells.

Knows the clock, so that a large fan-out lets others have their turn.
"""

from __future__ import annotations

import asyncio
import logging
import time

from realtime.delivery.feed import Lost
from realtime.delivery.throttle import TURN, WRITES_BETWEEN_LOOKS, Pacing
from realtime.delivery.writer import Writer
from realtime.hub.index import Hub
from realtime.hub.message import Message, cut
from realtime.monitoring.tracing import TraceOrigin, get_tracing

logger = logging.getLogger(__name__)

# Bytes that leave in one write to a connection. What waits beyond waits here, where it exists
# once, and not in the buffer of each connection.
BYTES_AT_ONCE = 128 * 1024


class Dispatcher:
    """What the broker's feeds deliver to. *process* is this process's name."""

    def __init__(self, hub: Hub, writer: Writer, pacing: Pacing, process: str) -> None:
        self._hub = hub
        self._writer = writer
        self._pacing = pacing
        self._process = process
        self._tracing = get_tracing()

    async def deliver(self, kind: str, messages: list[Message], origins: list[TraceOrigin]) -> None:
        """Write messages to everyone they concern."""
        if self._tracing is None:
            await self._write_all(kind, messages)
            return
        with self._tracing.delivery(kind, len(messages), origins, self._process) as delivery:
            delivery.writes = await self._write_all(kind, messages)

    async def _write_all(self, kind: str, messages: list[Message]) -> int:
        """Write a few milliseconds at a time; return how many writes it took."""
        stats = self._writer.stats
        stats.published[kind] += len(messages)
        stats.published_bytes[kind] += sum([len(message.payload) for message in messages])
        turn_ends = time.monotonic() + TURN
        written = writes = 0
        for part in cut(messages, BYTES_AT_ONCE):
            for subscriptions, frames, count in self._hub.deliveries(kind, part):
                stats.fan_out.observe(len(subscriptions), count)
                late = max(0.0, time.time() - part[0].timestamp)
                for start in range(0, len(subscriptions), WRITES_BETWEEN_LOOKS):
                    few = subscriptions[start : start + WRITES_BETWEEN_LOOKS]
                    writes += self._writer.write(kind, few, frames, count, late)
                    written += len(few)
                    if written >= WRITES_BETWEEN_LOOKS and time.monotonic() > turn_ends:
                        await asyncio.sleep(0)
                        turn_ends = time.monotonic() + TURN
                        written = 0
            if self._hub.shaped:
                for shaped in self._hub.take_shaped():
                    await self._pacing.send_due(shaped)
            if part[-1] is not messages[-1]:
                await asyncio.sleep(0)  # so that sockets take in what was written
        return writes

    def count_repaired(self, kind: str, count: int) -> None:
        """Count messages that a group should have brought and the log did."""
        self._writer.stats.repaired[kind] += count

    def tell_all(self, kind: str, lost: Lost) -> None:
        """Tell every live subscription of a type what it will not receive."""
        logger.warning("%s: offsets from %d are lost (%s)", kind, lost.first, lost.reason)
        self._writer.stats.lost[kind] += lost.how_many()
        for shaped in self._hub.shaped_groups(kind):
            self._pacing.send_all(shaped)
        for subscription in self._hub.subscriptions(kind):
            if subscription.active:
                self._writer.tell(subscription, lost)
