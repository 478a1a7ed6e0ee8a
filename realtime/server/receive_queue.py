"""The messages of one client that the application has not taken yet.

Knows messages and their sizes; nothing of connections. Bounded by its producer: whoever calls
``put()`` must call ``is_full()`` after it, and put nothing more until ``is_low()``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from realtime.server.fair_queue import FairQueue

# The queue is full with this many messages, or bytes of them, and low with half of that.
MESSAGES = 16
BYTES = 256 * 1024


class ReceiveQueue:
    """The queue that the application of one connection reads."""

    __slots__ = ("_bytes", "_fair_queue", "_messages", "_waiter")

    def __init__(self, fair_queue: FairQueue) -> None:
        self._fair_queue = fair_queue
        # A list takes a tenth of a deque's memory, and is never long.
        self._messages: list[tuple[dict[str, Any], int]] = []
        self._bytes = 0
        # Set while the application waits for a message.
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Return how many bytes wait."""
        return self._bytes

    def put(self, message: dict[str, Any], size: int) -> None:
        """Add an ASGI message that holds *size* bytes of the client."""
        self._messages.append((message, size))
        self._bytes += size
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> dict[str, Any]:
        """Return the oldest message; if messages were waiting, take a turn in the fair queue."""
        if self._messages:
            await self._fair_queue.turn()
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, size = self._messages.pop(0)
        self._bytes -= size
        return message

    def clear(self) -> None:
        """Drop all messages."""
        self._messages.clear()
        self._bytes = 0

    def is_full(self) -> bool:
        """Tell whether the client has to wait."""
        return len(self._messages) >= MESSAGES or self._bytes >= BYTES

    def is_low(self) -> bool:
        """Tell whether a client that had to wait may go on."""
        return len(self._messages) <= MESSAGES // 2 and self._bytes <= BYTES // 2
