"""The way to a client: frames in, bytes of a bounded buffer out.

Under this project's Daphne protocol the connection itself is the transport
(:mod:`realtime.server.websocket`); :class:`AsgiTransport` serves other WebSockets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from realtime.protocol import CloseCode, CloseReason, split_frames

# The key of the scope's extensions under which a server offers a transport of its own.
TRANSPORT_EXTENSION = "realtime.transport"

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Transport(Protocol):
    """What a session writes to and closes. Neither ever waits."""

    # Whether the client takes compressed messages (permessage-deflate).
    deflated: bool
    # Called when the client is gone, if the server tells before the application reads of it.
    on_lost: Callable[[], None] | None
    # Called when the transport itself closes a client, for what it sends or does not read.
    on_ended: Callable[[CloseReason], None] | None
    # All bytes that were written so far.
    bytes_sent: int

    def write(self, frames: bytes) -> None:
        """Send complete WebSocket frames."""

    def buffered_bytes(self) -> int:
        """Return how many bytes wait because the client does not read."""

    def overflow(self) -> None:
        """Close a client that does not read what it is sent."""

    def trust(self) -> None:
        """Allow more to a client that has authenticated."""

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Send what is buffered, then close. What is written later is dropped."""


class BufferedTransport:
    """A transport whose bytes wait in a bounded buffer until somebody takes them from there."""

    # Whether to compress is the ASGI server's affair.
    deflated = False
    on_lost: Callable[[], None] | None = None
    on_ended: Callable[[CloseReason], None] | None = None

    def __init__(self, max_buffered: Callable[[], int]) -> None:
        self._max_buffered = max_buffered
        self._pieces: deque[bytes] = deque()
        # Bytes in the pieces, and in those that are being sent.
        self._buffered = 0
        self._wake = asyncio.Event()
        self.bytes_sent = 0
        # The code and reason of the end, once it has been decided.
        self.closed: tuple[CloseCode, CloseReason] | None = None

    def write(self, frames: bytes) -> None:
        """Buffer *frames*; a client that lets too much pile up is closed.

        One that has read all before may always have one more write, however large.
        """
        if self.closed is not None:
            return
        piece = self._encode(frames)
        if self._buffered and self._buffered + len(piece) > self._max_buffered():
            self.overflow()
        else:
            self._append(piece)

    def _encode(self, frames: bytes) -> bytes:
        return frames

    def _append(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._buffered += len(piece)
        self.bytes_sent += len(piece)
        self._wake.set()

    def buffered_bytes(self) -> int:
        return self._buffered

    def overflow(self) -> None:
        self.close(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)
        if self.on_ended is not None:
            self.on_ended(CloseReason.SLOW_CONSUMER)

    def trust(self) -> None:
        """Do nothing: the bounds of what clients send are the ASGI server's affair."""

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        if self.closed is None:
            self.closed = code, reason
            self._wake.set()


class AsgiTransport(BufferedTransport):
    """A WebSocket under any ASGI server: a task empties the buffer into the server's ``send``."""

    def __init__(self, send: Send, max_buffered: Callable[[], int]) -> None:
        super().__init__(max_buffered)
        self._send = send
        self._task = asyncio.create_task(self._run())

    def abandon(self) -> None:
        """Drop what is buffered: the client is gone."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            while self._pieces:
                frames = self._pieces.popleft()
                for payload in split_frames(frames):
                    await self._send({"type": "websocket.send", "text": payload.decode()})
                self._buffered -= len(frames)
            if self.closed is not None:
                code, reason = self.closed
                closing = {"type": "websocket.close", "code": int(code), "reason": reason.value}
                await self._send(closing)
                return
            self._wake.clear()
            await self._wake.wait()
