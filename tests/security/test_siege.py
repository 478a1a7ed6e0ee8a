"""Two hundred hostile clients of every kind beside a hundred that behave.

``SIEGE_SECONDS=30 pytest tests/security/test_siege.py`` goes on longer. What they cost the others
in latency is measured by ``benchmarks.hostile``.
"""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack
from pathlib import Path

from websockets.asyncio.client import connect

from benchmarks import attackers
from tests.support import Client, client, running

SECONDS = float(os.environ.get("SIEGE_SECONDS", "8"))
GOOD = 100
RATE = 20


async def test_those_who_behave_lose_nothing(data_dir: Path) -> None:
    with running(data_dir, max_buffered_bytes="65536") as server:
        token = server.new_token()
        async with AsyncExitStack() as stack:
            pages = [
                Client(await stack.enter_async_context(connect(server.url, max_queue=None)))
                for _ in range(GOOD)
            ]
            for page in pages:
                await page.authenticate(token)
                await page.subscribe("events")
            siege = attackers.start("127.0.0.1", server.port, server.new_token())
            count = int(SECONDS * RATE)
            received = asyncio.gather(*(receive(page, count) for page in pages))
            for number in range(count):
                await asyncio.to_thread(server.publish, "events", {"n": number})
                large = [{"text": "x" * 10_000}] * 5
                await asyncio.to_thread(server.publish, "metrics", *large)
                await asyncio.sleep(1 / RATE)
            async with asyncio.timeout(30):
                assert await received == [list(range(count))] * GOOD
            # Who comes now is let in, and served.
            async with client(server, token) as newcomer:
                await newcomer.assert_silent()
            closed = json.loads(siege.communicate("")[0])
        # They have been there, and were shown the door.
        assert closed.keys() >= {"flood", "garbage"}, closed
        assert server.process.poll() is None
        assert "ERROR" not in server.log(), server.log()


async def receive(page: Client, count: int) -> list[int]:
    """Return the numbers of so many messages, as they come."""
    return [(await page.assert_data("events"))["n"] for _ in range(count)]
