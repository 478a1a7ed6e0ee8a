"""When groups with options receive: one timer per group, and who of them does not read.

Knows the clock; what is held, and for whom, is the hub's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import cast

from realtime.delivery.feed import Feed, Lost
from realtime.delivery.transport import Transport
from realtime.delivery.writer import Writer
from realtime.hub.groups import Delivery, Shaped, Subscription
from realtime.hub.message import Message
from realtime.protocol import Position
from realtime.tasks import Spawn

# How often it is seen whether one that was sent less reads again.
LOOK_INTERVAL = 0.1
# A fan-out that takes longer lets others have their turn: replies, pings, handshakes.
TURN = 0.005
WRITES_BETWEEN_LOOKS = 64


class Pacing:
    """What of an event loop's subscriptions waits: for its time, or for its client."""

    def __init__(self, writer: Writer, feed: Callable[[str], Feed], spawn: Spawn) -> None:
        self._writer = writer
        self._feed = feed
        self._spawn = spawn
        self._timers: dict[Shaped, asyncio.TimerHandle] = {}
        # Subscription -> the offsets of the messages dropped since its client read too little;
        # 0 for none that are in the log.
        self._dropped: dict[Subscription, tuple[int, int]] = {}
        self._looking: asyncio.TimerHandle | None = None

    # Messages

    async def send_due(self, shaped: Shaped) -> None:
        """Send what of a group is due, a few milliseconds at a time. Needs the feed's lock."""
        shaper = shaped.shaper
        held = shaper.release(asyncio.get_running_loop().time(), self._writer.buffer_limit() // 2)
        try:
            if held:
                turn_ends = time.monotonic() + TURN
                for delivery, messages in shaped.shaped_deliveries(held):
                    subscriptions = delivery.subscriptions
                    for start in range(0, len(subscriptions), WRITES_BETWEEN_LOOKS):
                        few = subscriptions[start : start + WRITES_BETWEEN_LOOKS]
                        self._write(shaped, delivery._replace(subscriptions=few), messages)
                        if time.monotonic() > turn_ends:
                            await asyncio.sleep(0)
                            turn_ends = time.monotonic() + TURN
        finally:
            shaper.sent()
            self._arm(shaped)

    def send_all(self, shaped: Shaped) -> None:
        """Send what a group holds, however early, since what follows is another story."""
        held = shaped.shaper.flush(asyncio.get_running_loop().time())
        if held:
            for delivery, messages in shaped.shaped_deliveries(held):
                self._write(shaped, delivery, messages)
        shaped.shaper.sent()
        self._arm(shaped)

    def _write(self, shaped: Shaped, delivery: Delivery, messages: Sequence[Message]) -> None:
        self._writer.stats.fan_out.observe(len(delivery.subscriptions), delivery.messages)
        subscriptions = delivery.subscriptions
        if shaped.options.drops:
            size = len(delivery.frames)
            subscriptions = tuple(one for one in subscriptions if self._has_room(one, size))
            for one in set(delivery.subscriptions).difference(subscriptions):
                if one.active:
                    self._drop(one, messages)
        self._writer.write(shaped.type, subscriptions, delivery.frames, delivery.messages)

    def _arm(self, shaped: Shaped) -> None:
        """Have a timer for what a group holds, and none if it holds nothing."""
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

    def _ring(self, shaped: Shaped) -> None:
        del self._timers[shaped]
        self._spawn(self._send(shaped))

    async def _send(self, shaped: Shaped) -> None:
        if shaped:  # else the last member has left meanwhile, and the type perhaps with it
            async with self._feed(shaped.type).lock:
                await self.send_due(shaped)

    # Members

    def forget(self, subscription: Subscription) -> None:
        """Let go of what is known of a member that has left, and of an empty group's timer."""
        self._dropped.pop(subscription, None)
        shaped = subscription.shaped
        if shaped is not None:
            self.leave(shaped)

    def leave(self, shaped: Shaped) -> None:
        """End the timer of a group that has no members any more."""
        if not shaped and (timer := self._timers.pop(shaped, None)) is not None:
            timer.cancel()

    def position(self, subscription: Subscription, live: Position) -> Position:
        """Return up to where a live subscription has been sent all, or been told what is lost.

        A message that a newer one has superseded counts as sent.
        """
        shaped = subscription.shaped
        if shaped is None:
            return live
        oldest = shaped.shaper.oldest(subscription.since)
        dropped, _ = self._dropped.get(subscription, (0, 0))
        waiting = [offset for offset in (oldest, dropped) if offset]
        return live._replace(offset=min([live.offset, *(offset - 1 for offset in waiting)]))

    # Clients that do not read

    def _has_room(self, subscription: Subscription, size: int) -> bool:
        """Tell whether a client takes so many bytes; half its buffer is left for all else."""
        if subscription in self._dropped:
            return False
        waiting = cast(Transport, subscription.outlet).buffered_bytes()
        return not waiting or waiting + size <= self._writer.buffer_limit() // 2

    def _drop(self, subscription: Subscription, messages: Sequence[Message]) -> None:
        self._writer.stats.dropped[subscription.type] += len(messages)
        offsets = [message.offset for message in messages if message.offset]
        first, last = self._dropped.get(subscription, (0, 0))
        if offsets:
            first, last = first or offsets[0], offsets[-1]
        self._dropped[subscription] = first, last
        if self._looking is None:
            self._look_later()

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_INTERVAL, self._look)

    def _look(self) -> None:
        """Tell those who have read what waited what they have missed; then they go on."""
        self._looking = None
        for subscription, (first, last) in tuple(self._dropped.items()):
            waiting = cast(Transport, subscription.outlet).buffered_bytes()
            if waiting <= self._writer.buffer_limit() // 8:
                del self._dropped[subscription]
                self._writer.tell(subscription, Lost(first or None, last or None, "overflow"))
        if self._dropped:
            self._look_later()
