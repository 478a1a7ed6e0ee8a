"""What a client has sent and the application has not taken yet: messages, in bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from realtime.server.fair_queue import Turns

# It is full with so many messages, or bytes of them, and low with half of that.
MESSAGES = 16
BYTES = 256 * 1024


class Inbox:
    """One connection's; it takes what it is given, so who gives looks whether it is full."""

    __slots__ = ("_bytes", "_messages", "_turns", "_waiter")

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._messages: deque[tuple[dict[str, Any], int]] = deque()
        self._bytes = 0
        # Set while the application waits for a message.
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Return how many bytes wait."""
        return self._bytes

    def put(self, message: dict[str, Any], size: int) -> None:
        """Add a message of the server, with *size* bytes of the client."""
        self._messages.append((message, size))
        self._bytes += size
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> dict[str, Any]:
        """Return the oldest message; where several wait, in its turn."""
        if self._messages:
            await self._turns.come()
        while not self._messages:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, size = self._messages.popleft()
        self._bytes -= size
        return message

    def clear(self) -> None:
        """Drop what waits."""
        self._messages.clear()
        self._bytes = 0

    def is_full(self) -> bool:
        """Tell whether the client should be kept waiting."""
        return len(self._messages) >= MESSAGES or self._bytes >= BYTES

    def is_low(self) -> bool:
        """Tell whether a client that was kept waiting may go on."""
        return len(self._messages) <= MESSAGES // 2 and self._bytes <= BYTES // 2
