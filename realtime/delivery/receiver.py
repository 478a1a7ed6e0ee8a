"""The membership of one subscription type's group: what the group brings, and whether it does.

Knows the channel layer's channel and the type's feed; nothing of other types.
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
from realtime.cluster.layer import (
    connection,
    group_address,
    group_name,
    new_channel,
    received,
    renew,
    uses_redis,
)
from realtime.delivery.feed import Feed, ReceivedBatch
from realtime.hub.message import Message
from realtime.log.contract import read_position, unpack
from realtime.monitoring.tracing import get_tracing
from realtime.protocol import Position, encode_payload
from realtime.tasks import end

logger = logging.getLogger(__name__)

# Seconds between probes, and how many are sent until a group counts as silent.
PROBE_INTERVAL = 0.1
PROBES = 20
RETRY_INTERVAL = 1.0
# Messages handed to the feed together. More wait in the channel's queue, so that the event loop is
# not held up.
MAX_BATCH = 512


class Receiver:
    """The channel of one subscription type and the task that reads it.

    The layer's ``group_add`` returns before the server has confirmed it. What another process
    publishes in between would come late, or never if it is not in the log. So :meth:`start` sends a
    probe with a random text to the group again and again until it comes back: from then on
    everything arrives, unless the connection dies. That need not show: :meth:`is_silent` asks.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self._group = group_name(feed.kind)
        self._layer: Any = get_channel_layer()
        self._channel = ""
        self._task: asyncio.Task[None] | None = None
        # Set when a probe has come back.
        self.joined = asyncio.Event()
        # Set when the group has brought anything, also a probe of another process.
        self._heard = asyncio.Event()
        self._probe = uuid.uuid4().hex
        self._tracing = get_tracing()

    async def start(self) -> None:
        await self.feed.start()
        server = group_address(self.feed.kind)[0]
        before = connection(self._layer, server) if uses_redis(self._layer) else None
        self._channel = await new_channel(self._layer, self.feed.kind)
        await self._layer.group_add(self._group, self._channel)
        self._task = asyncio.create_task(self._receive(), name=f"broker {self.feed.kind}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBES * PROBE_INTERVAL):
                await self._send_probes(self.joined)
        if not self.joined.is_set():
            if before is not None:  # it may have been dead for long: nothing else has used it
                await renew(self._layer, before)
            while not self.joined.is_set():
                await self._send_probes(self.joined)

    async def is_silent(self) -> bool:
        """Tell whether the group brings nothing, not even probes.

        None is sent if it has brought something since the last call, as the probes of one process
        are heard by all.
        """
        try:
            if not self._heard.is_set():
                await self._send_probes(self._heard)
        except Exception as error:
            logger.debug("probing %s: %s", self._group, error)
        # What waits in the queue has come, though it has not been read.
        queue = received(self._layer, self._channel)
        is_silent = not self._heard.is_set() and (queue is None or queue.empty())
        self._heard.clear()
        return is_silent

    async def _send_probes(self, answered: asyncio.Event) -> None:
        """Send some until *answered* is set. Not for some time: the event loop may be held up."""
        for _ in range(PROBES):
            await self._layer.group_send(
                self._group, {"type": "stream.probe", "probe": self._probe}
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_INTERVAL):
                    await answered.wait()
            if answered.is_set():
                return

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
        self._heard.set()
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
