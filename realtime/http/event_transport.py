"""The transport of an event stream: events wait in a bounded buffer for the response.

Knows buffers and time; what an event looks like is said in :mod:`realtime.protocol.sse`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from realtime.delivery.transport import BufferedTransport
from realtime.protocol import CloseCode, CloseReason
from realtime.protocol.sse import close_event, events

# The most bytes that leave in one write, unless one piece alone has more.
CHUNK = 64 * 1024


class EventTransport(BufferedTransport):
    """A buffer that the response of an event stream is read from."""

    def __init__(self, max_buffered: Callable[[], int]) -> None:
        super().__init__(max_buffered)
        # Bytes of the chunk that was read last.
        self._being_sent = 0

    def _encode(self, frames: bytes) -> bytes:
        return events(frames)

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """End the stream after what is buffered, with an event that says why."""
        if self.closed is None:
            super().close(code, reason)
            self._append(close_event(code, reason))

    async def read(self, seconds: float) -> bytes | None:
        """Return what is to be sent next; empty after so many seconds without anything.

        ``None`` is the end. The caller must have sent all of what was returned before.
        """
        self._buffered -= self._being_sent
        self._being_sent = 0
        if not self._pieces:
            if self.closed is not None:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                return b""
        return self._take_chunk()

    def _take_chunk(self) -> bytes:
        pieces = [self._pieces.popleft()]
        size = len(pieces[0])
        while self._pieces and size + len(self._pieces[0]) <= CHUNK:
            pieces.append(self._pieces.popleft())
            size += len(pieces[-1])
        self._being_sent = size
        return b"".join(pieces)
