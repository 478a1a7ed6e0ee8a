"""The way out of a connection under any ASGI server: frames in, ``websocket.send`` out.

Under this project's Daphne protocol the connection itself is the way out
(:mod:`realtime.server.websocket`); this one serves other servers and Channels' test communicator.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from realtime.protocol import CloseCode, CloseReason
from realtime.protocol.frames import split_frames

# The key of the scope's extensions under which a server offers a way out of its own.
OUTLET_EXTENSION = "realtime.outlet"

Send = Callable[[dict[str, Any]], Awaitable[None]]


class ConnectionOutlet(Protocol):
    """What a consumer writes to and closes. Neither ever waits."""

    deflated: bool
    # Called when the client is gone, if the server tells before the application reads of it.
    on_lost: Callable[[], None] | None
    # Called when the client is closed for what it sends or does not read.
    on_ended: Callable[[CloseReason], None] | None
    # All that was written so far.
    bytes_sent: int

    def write(self, frames: bytes) -> None:
        """Send complete WebSocket frames."""

    def buffered_bytes(self) -> int:
        """Return how many bytes wait because the client does not read."""

    def overflow(self) -> None:
        """Close a client that does not read what it is sent."""

    def trust(self) -> None:
        """Take the client for one who has authenticated."""

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Send what is buffered, then close. What is written later is dropped."""


class AsgiOutlet:
    """A bounded buffer and the task that empties it into the server's ``send``."""

    # Whether to compress is the ASGI server's affair.
    deflated = False
    on_lost: Callable[[], None] | None = None
    on_ended: Callable[[CloseReason], None] | None = None

    def __init__(self, send: Send, max_buffered: Callable[[], int]) -> None:
        self._send = send
        self._max_buffered = max_buffered
        self._frames: deque[bytes] = deque()
        self._buffered = 0
        self.bytes_sent = 0
        self._closing: dict[str, Any] | None = None
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def write(self, frames: bytes) -> None:
        """Buffer *frames*; a client that lets too much pile up is closed.

        One that has read all before may always have one more, however large.
        """
        if self._closing is not None:
            return
        if self._buffered and self._buffered + len(frames) > self._max_buffered():
            self.overflow()
            return
        self._frames.append(frames)
        self.bytes_sent += len(frames)
        self._buffered += len(frames)
        self._wake.set()

    def buffered_bytes(self) -> int:
        """Return how many bytes wait because the server has not taken them."""
        return self._buffered

    def overflow(self) -> None:
        """Close a client that does not read what it is sent."""
        self.close(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)
        if self.on_ended is not None:
            self.on_ended(CloseReason.SLOW_CONSUMER)

    def trust(self) -> None:
        """What clients may send before is the ASGI server's affair."""

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Close after what is buffered."""
        if self._closing is None:
            self._closing = {
                "type": "websocket.close",
                "code": int(code),
                "reason": reason.value,
            }
            self._wake.set()

    def abandon(self) -> None:
        """Drop what is buffered: the client is gone."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            while self._frames:
                frames = self._frames.popleft()
                for payload in split_frames(frames):
                    await self._send({"type": "websocket.send", "text": payload.decode()})
                self._buffered -= len(frames)
            if self._closing is not None:
                await self._send(self._closing)
                return
            self._wake.clear()
            await self._wake.wait()
