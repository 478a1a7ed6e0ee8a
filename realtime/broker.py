"""Between processes: the channel layer's groups, one channel per subscription type.

The only module that receives from the channel layer. A received message does not say from which
group it came, so each type has a channel of its own, member of that type's group while anyone
here is subscribed to the type. Knows nothing of connections: what arrives goes to a callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from channels.layers import get_channel_layer

from realtime.hub import Message
from realtime.protocol import encode_payload
from realtime.publishing import group_name

logger = logging.getLogger(__name__)

# Seconds between probes, and until joining a group has failed.
PROBE_INTERVAL = 0.1
JOIN_TIMEOUT = 5.0
RETRY_INTERVAL = 1.0
# Messages taken in one turn. More wait in the channel's queue, so that the loop is not held up.
MAX_BATCH = 512

Deliver = Callable[[str, list[Message]], Awaitable[None]]


class LayerUnavailable(Exception):
    """The channel layer does not answer."""


class Broker:
    """The group memberships of one event loop."""

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._receivers: dict[str, _Receiver] = {}

    async def join(self, kind: str) -> None:
        """Become a member of a type's group; return when messages sent from now on arrive.

        Raises:
            LayerUnavailable: the layer did not confirm it in time. Nothing is left behind.
        """
        if kind in self._receivers:
            return
        receiver = self._receivers[kind] = _Receiver(kind, self._deliver)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT):
                await receiver.start()
        except BaseException as error:
            await self.leave(kind)
            if isinstance(error, asyncio.CancelledError):
                raise
            raise LayerUnavailable(str(error) or type(error).__name__) from error

    def has_joined(self, kind: str) -> bool:
        """Tell whether what is sent to a type's group arrives here."""
        receiver = self._receivers.get(kind)
        return receiver is not None and receiver.joined.is_set()

    async def leave(self, kind: str) -> None:
        """Leave a type's group."""
        receiver = self._receivers.pop(kind, None)
        if receiver is not None:
            await receiver.stop()

    async def close(self) -> None:
        """Leave every group."""
        for kind in list(self._receivers):
            await self.leave(kind)


class _Receiver:
    """The channel of one subscription type and the task that reads it."""

    def __init__(self, kind: str, deliver: Deliver) -> None:
        self._kind = kind
        self._group = group_name(kind)
        self._deliver = deliver
        self._layer: Any = get_channel_layer()
        self._channel = ""
        self._task: asyncio.Task[None] | None = None
        # Set when a probe sent through the group came back: the membership works.
        self.joined = asyncio.Event()
        self._probe = uuid.uuid4().hex

    async def start(self) -> None:
        if self._layer is None:
            raise LayerUnavailable("no channel layer is configured")
        self._channel = await self._layer.new_channel()
        await self._layer.group_add(self._group, self._channel)
        self._task = asyncio.create_task(self._receive(), name=f"broker {self._kind}")
        # The layer returns before the server has confirmed the membership, so what another
        # process sends now could still be missed. A message to the group shows when it works.
        while not self.joined.is_set():
            await self._layer.group_send(
                self._group, {"type": "stream.probe", "probe": self._probe}
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROBE_INTERVAL):
                    await self.joined.wait()

    async def stop(self) -> None:
        try:
            if self._channel:
                async with asyncio.timeout(RETRY_INTERVAL):
                    await self._layer.group_discard(self._group, self._channel)
        except Exception as error:
            logger.warning("leaving %s: %s", self._group, error)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _receive(self) -> None:
        """Hand on what arrives, until cancelled. One channel's messages are handed on in order."""
        while True:
            try:
                messages = self._read(await self._layer.receive(self._channel))
                await self._drain(messages)
                if messages:
                    await self._deliver(self._kind, messages)
            except Exception:
                logger.exception("receiving from %s", self._group)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _drain(self, messages: list[Message]) -> None:
        """Add what else has arrived already."""
        queue = self._waiting()
        while queue is not None and not queue.empty() and len(messages) < MAX_BATCH:
            messages += self._read(await self._layer.receive(self._channel))

    def _waiting(self) -> asyncio.Queue[Any] | None:
        """Return the layer's queue for this channel, if it lets one see it."""
        queue = getattr(self._layer, "channels", {}).get(self._channel)
        return queue if isinstance(queue, asyncio.Queue) else None

    def _read(self, message: dict[str, Any]) -> list[Message]:
        """Return the published messages in a group message. What is none is logged and dropped."""
        kind = message.get("type")
        if kind == "stream.batch":
            timestamp = message["timestamp"]
            return [Message(self._kind, body, timestamp) for body in message["bodies"]]
        if kind == "stream.message":
            try:
                return [Message(self._kind, encode_payload(message.get("payload")), time.time())]
            except ValueError as error:
                logger.warning("dropped a message to %s: %s", self._group, error)
        elif kind == "stream.probe":
            if message.get("probe") == self._probe:
                self.joined.set()
        else:
            logger.warning("dropped a message to %s: unknown type %r", self._group, kind)
        return []
