"""Failed authentications, counted over all processes, and how long the next answer waits.

Counts where the channel layer is, so that guessing at many servers is no faster than at one.
Where that does not answer, this process counts alone.
"""

from __future__ import annotations

import asyncio
import logging

import redis
from channels.layers import get_channel_layer

from realtime.auth.limits import WINDOW, FailureCounts, failure_delay
from realtime.cluster.clients import async_client, registry
from realtime.cluster.servers import Server, has_servers, layer_config

logger = logging.getLogger(__name__)

# Seconds. A count that comes later than this is not waited for.
COUNT_TIMEOUT = 1.0


class Failures:
    """The failures of each address. One for each event loop."""

    def __init__(self) -> None:
        self._here = FailureCounts()

    async def record(self, address: str, now: float, free: int) -> float:
        """Count a failure of *address*; return for how many seconds its answer is to wait.

        *now* is monotonic; *free* failures a minute wait only a little.
        """
        count = self._here.record(address, now)
        return failure_delay(max(count, await self._everywhere(address)), free)

    async def _everywhere(self, address: str) -> int:
        if not has_servers(get_channel_layer()):
            return 0
        try:
            with registry.asking() as server:
                async with asyncio.timeout(COUNT_TIMEOUT):
                    return await _count(server, address)
        except (redis.RedisError, OSError) as error:  # a TimeoutError is an OSError
            logger.warning("counting a failed authentication: %s", error or "no answer in time")
            return 0


async def _count(server: Server, address: str) -> int:
    client = await async_client(server)
    key = f"{layer_config().get('prefix', 'asgi')}:failures:{address}"
    pipeline = client.pipeline(transaction=True)
    pipeline.set(key, 0, ex=int(WINDOW), nx=True)
    pipeline.incr(key)
    _, count = await pipeline.execute()
    return int(count)
