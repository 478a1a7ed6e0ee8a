"""A numbered stream while connections are cut and reset: what clients must come through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from realtime.testing.proxy import Proxy
from tests.support import Server

DISCONNECTS = 50
EACH = 40
# The number of the last event; what has no number is -1.
LAST = DISCONNECTS * EACH - 1


@asynccontextmanager
async def through_proxy(server: Server) -> AsyncIterator[tuple[Proxy, str]]:
    """Yield a proxy in front of a server, and the URL that leads through it."""
    async with Proxy(server.port) as proxy:
        yield proxy, f"ws://127.0.0.1:{proxy.port}/ws/"


def publish(server: Server, *values: int, kind: str = "events") -> None:
    """Publish numbered messages."""
    server.publish(kind, *({"n": n} for n in values))


async def disturb(server: Server, proxy: Proxy) -> None:
    """Publish events from 0 to LAST, and break all connections after each few."""
    for number in range(DISCONNECTS):
        values = range(number * EACH, number * EACH + EACH)
        await asyncio.to_thread(publish, server, *values)
        if number % 2:
            proxy.reset()
        else:
            cutting = asyncio.create_task(proxy.cut())
            await asyncio.to_thread(publish, server, *[-1] * 3)
            await asyncio.wait({cutting}, timeout=0.3)
            cutting.cancel()
