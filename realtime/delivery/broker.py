"""Between processes: the channel layer's groups, with one channel for each subscription type.

A received message does not say from which group it came, so each type has a channel of its own.
What arrives goes to the type's feed, which puts it in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from typing import Any

from channels.layers import get_channel_layer

from realtime.cluster.clients import Unavailable
from realtime.cluster.layer import group_name, new_channel, received
from realtime.delivery.feed import Feed, FeedHandler, ReceivedBatch
from realtime.hub.message import Message
from realtime.log import get_log
from realtime.log.contract import read_position, unpack
from realtime.monitoring.tracing import get_tracing
from realtime.protocol import Position, encode_payload
from realtime.tasks import end

logger = logging.getLogger(__name__)

# Seconds between probes, and until joining a group has failed.
PROBE_INTERVAL = 0.1
JOIN_TIMEOUT = 5.0
RETRY_INTERVAL = 1.0
# Messages handed to the feed together. More wait in the channel's queue, so that the event loop is
# not held up.
MAX_BATCH = 512
# Seconds between looks at the heads of the logs, and after which a message must have arrived that
# was on its way when its log was asked.
HEAD_INTERVAL = 1.0
GRACE = 0.1


class Broker:
    """The group memberships of one event loop, and a watch over what they have missed."""

    def __init__(self, handler: FeedHandler) -> None:
        self._handler = handler
        self._receivers: dict[str, _Receiver] = {}
        self._watch: asyncio.Task[None] | None = None
        # Types whose log did not answer when it was last asked.
        self._silent: set[str] = set()

    async def join(self, kind: str) -> None:
        """Become a member of a type's group; return when messages sent from now on arrive.

        Raises ``Unavailable``, with nothing left behind, if the layer does not confirm it in time.
        """
        if kind in self._receivers:
            return
        feed = Feed(kind, get_log(), self._handler)
        receiver = self._receivers[kind] = _Receiver(feed)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await receiver.start()
        except BaseException as error:
            await self.leave(kind)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Unavailable(str(error) or type(error).__name__) from error
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_heads(), name="broker watch")

    def feed(self, kind: str) -> Feed:
        return self._receivers[kind].feed

    def has_joined(self, kind: str) -> bool:
        """Tell whether messages to a type's group arrive here."""
        receiver = self._receivers.get(kind)
        return receiver is not None and receiver.joined.is_set()

    async def leave(self, kind: str) -> None:
        receiver = self._receivers.pop(kind, None)
        if receiver is not None:
            await receiver.stop()

    async def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await end(watch)
        for kind in list(self._receivers):
            await self.leave(kind)

    async def _watch_heads(self) -> None:
        """Compare the heads of the logs with what has arrived, every second.

        Without a later message, only the log tells that the last message is missing.
        """
        while True:
            await asyncio.sleep(HEAD_INTERVAL)
            try:
                await self._look_at_heads()
            except Unavailable as error:
                logger.warning("messages are late: %s", error)
            except Exception:
                logger.exception("looking at the log")

    async def _look_at_heads(self) -> None:
        feeds = [receiver.feed for receiver in self._receivers.values() if receiver.joined.is_set()]
        since = {feed: feed.next for feed in feeds}
        heads = await get_log().heads(feed.kind for feed in feeds)
        silent = {feed.kind for feed in feeds} - heads.keys()
        if silent != self._silent:
            logger.warning("logs that do not answer: %s", ", ".join(sorted(silent)) or "none")
            self._silent = silent
        missing = {
            feed: feed.next
            for feed in feeds
            if feed.kind in heads and feed.is_missing(heads[feed.kind], since[feed])
        }
        if missing:
            # They may be on their way. A feed that moves on notices its gaps by itself.
            await asyncio.sleep(GRACE)
            stuck = [feed for feed, offset in missing.items() if feed.next == offset]
            await asyncio.gather(*(feed.catch_up() for feed in stuck))


class _Receiver:
    """The channel of one subscription type and the task that reads it.

    The layer's ``group_add`` returns before the server has confirmed it. What another process
    publishes in between would come late, or never if it is not in the log. So :meth:`start` sends a
    probe with a random text to the group again and again until it comes back: from then on
    everything arrives.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._group = group_name(feed.kind)
        self._layer: Any = get_channel_layer()
        self._channel = ""
        self._task: asyncio.Task[None] | None = None
        # Set when a probe has come back.
        self.joined = asyncio.Event()
        self._probe = uuid.uuid4().hex
        self._tracing = get_tracing()

    async def start(self) -> None:
        await self.feed.start()
        self._channel = await new_channel(self._layer, self.feed.kind)
        await self._layer.group_add(self._group, self._channel)
        self._task = asyncio.create_task(self._receive(), name=f"broker {self.feed.kind}")
        while not self.joined.is_set():
            await self._layer.group_send(
                self._group, {"type": "stream.probe", "probe": self._probe}
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_INTERVAL):
                    await self.joined.wait()

    async def stop(self) -> None:
        """Leave the group and end the feed; also after a failed :meth:`start`."""
        try:
            if self._channel:
                async with asyncio.timeout(RETRY_INTERVAL):
                    await self._layer.group_discard(self._group, self._channel)
        except Exception as error:
            logger.warning("leaving %s: %s", self._group, error)
        task, self._task = self._task, None
        if task is not None:
            await end(task)
        await self.feed.close()

    async def _receive(self) -> None:
        while True:
            try:
                batches = self._read(await self._layer.receive(self._channel))
                await self._drain(batches)
                if batches:
                    await self.feed.take(batches)
            except Unavailable as error:
                logger.warning("messages of %s are late: %s", self._group, error)
            except Exception:
                logger.exception("receiving from %s", self._group)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _drain(self, batches: list[ReceivedBatch]) -> None:
        queue = received(self._layer, self._channel)
        count = sum(len(batch.messages) for batch in batches)
        while queue is not None and not queue.empty() and count < MAX_BATCH:
            more = self._read(await self._layer.receive(self._channel))
            batches += more
            count += sum(len(batch.messages) for batch in more)

    def _read(self, message: dict[str, Any]) -> list[ReceivedBatch]:
        """Return the published messages in a group message. Other content is logged and dropped."""
        kind = message.get("type")
        if kind == "stream.batch":
            return [self._read_batch(message)]
        if kind == "stream.message":
            try:
                body = encode_payload(message.get("payload"))
                return [ReceivedBatch(None, [Message(self.feed.kind, body, time.time())])]
            except ValueError as error:
                logger.warning("dropped a message to %s: %s", self._group, error)
        elif kind == "stream.probe":
            if message.get("probe") == self._probe:
                self.joined.set()
        else:
            logger.warning("dropped a message to %s: unknown type %r", self._group, kind)
        return []

    def _read_batch(self, message: dict[str, Any]) -> ReceivedBatch:
        first = read_position(message["position"])
        messages = [
            Message(self.feed.kind, body, message["timestamp"], Position(first.epoch, offset))
            for offset, body in enumerate(unpack(message["messages"]), first.offset)
        ]
        if self._tracing is None:
            return ReceivedBatch(first, messages)
        return ReceivedBatch(first, messages, self._tracing.origin(message, first, len(messages)))
