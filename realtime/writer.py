"""Writes what the hub hands out to the connections of one event loop, and counts it.

Knows the clock, so that a large fan-out lets others have their turn; not why a message is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from realtime.fan_out import Subscription
from realtime.feed import Lost
from realtime.frames import text_frame
from realtime.message import Message
from realtime.pacing import Pacing
from realtime.protocol import ErrorCode, ProtocolError, encode_error
from realtime.tracing import Origin, get_tracing

if TYPE_CHECKING:
    from realtime.node import Node

logger = logging.getLogger(__name__)

# A fan-out that takes longer lets others have their turn: replies, pings, handshakes.
TURN = 0.005
WRITES_BETWEEN_LOOKS = 64
# Bytes that leave in one write to a connection. What waits beyond waits here, where it exists
# once, and not in the buffer of each connection.
BYTES_AT_ONCE = 128 * 1024


class Writer:
    """What sends to the connections of one event loop."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._hub = node.hub
        self._stats = node.stats
        self._tracing = get_tracing()
        self.pacing = Pacing(self, node)

    @property
    def buffer_limit(self) -> int:
        """Bytes that may wait for one client."""
        return self._node.policy.config.max_buffered_bytes

    async def deliver(self, kind: str, messages: list[Message], origins: list[Origin]) -> None:
        """Write messages to everyone they concern."""
        if self._tracing is None:
            await self._write_all(kind, messages)
            return
        with self._tracing.delivery(
            kind, len(messages), origins, self._node.process.name
        ) as delivery:
            delivery.writes = await self._write_all(kind, messages)

    async def _write_all(self, kind: str, messages: list[Message]) -> int:
        """Write a few milliseconds at a time; return how many writes it took."""
        self._stats.published[kind] += len(messages)
        self._stats.published_bytes[kind] += sum([len(message.payload) for message in messages])
        turn_ends = time.monotonic() + TURN
        written = writes = 0
        for part in _parts(messages):
            for subscriptions, frames, count in self._hub.deliveries(kind, part):
                self._stats.fan_out.observe(len(subscriptions), count)
                late = max(0.0, time.time() - part[0].timestamp)
                for start in range(0, len(subscriptions), WRITES_BETWEEN_LOOKS):
                    few = subscriptions[start : start + WRITES_BETWEEN_LOOKS]
                    writes += self.write(kind, few, frames, count, late)
                    written += len(few)
                    if written >= WRITES_BETWEEN_LOOKS and time.monotonic() > turn_ends:
                        await asyncio.sleep(0)
                        turn_ends = time.monotonic() + TURN
                        written = 0
            if self._hub.shaped:
                for shaped in self._hub.take_shaped():
                    await self.pacing.send_due(shaped)
            if part[-1] is not messages[-1]:
                await asyncio.sleep(0)  # so that sockets take in what was written
        return writes

    def count_replayed(self, kind: str, messages: int, size: int) -> None:
        """Count messages that one subscription was sent before it was live, and their bytes."""
        stats = self._stats
        stats.messages_sent += messages
        stats.delivered[kind] += messages
        stats.delivered_bytes[kind] += size
        stats.replayed[kind] += messages

    def count_repaired(self, kind: str, count: int) -> None:
        self._stats.repaired[kind] += count

    def tell_all(self, kind: str, lost: Lost) -> None:
        """Tell every live subscription of a type what it will not receive."""
        logger.warning("%s: offsets from %d are lost (%s)", kind, lost.first, lost.reason)
        self._stats.lost[kind] += lost.how_many()
        for shaped in self._hub.shaped_groups(kind):
            self.pacing.send_all(shaped)
        for subscription in self._hub.subscriptions(kind):
            if subscription.active:
                self.tell(subscription, lost)

    def tell(self, subscription: Subscription, lost: Lost) -> None:
        """Tell a subscription what it will not receive."""
        details = {"from": lost.first, "to": lost.last, "reason": lost.reason}
        error = ProtocolError(ErrorCode.DATA_LOST, details=details)
        text = encode_error(error, time.time(), subscription.id)
        subscription.outlet.write(text_frame(text))
        self._stats.messages_sent += 1

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
        stats = self._stats
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
