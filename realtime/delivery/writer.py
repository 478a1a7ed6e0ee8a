"""Writes to the connections of one event loop, and counts it. Knows not why a message is sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from realtime.delivery.feed import Lost
from realtime.hub.groups import Subscription
from realtime.monitoring.metrics import Counters
from realtime.protocol import ErrorCode, ProtocolError, encode_error
from realtime.protocol.frames import text_frame


class Writer:
    """The way to the clients. *buffer_limit* returns the bytes that may wait for one of them."""

    def __init__(self, stats: Counters, buffer_limit: Callable[[], int]) -> None:
        self.stats = stats
        self.buffer_limit = buffer_limit

    def count_replayed(self, kind: str, messages: int, size: int) -> None:
        """Count messages that one subscription was sent before it was live, and their bytes."""
        stats = self.stats
        stats.messages_sent += messages
        stats.delivered[kind] += messages
        stats.delivered_bytes[kind] += size
        stats.replayed[kind] += messages

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
