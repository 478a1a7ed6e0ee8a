"""What the processes that share a channel layer know of each other, and this process among them.

:func:`get_cluster` decides whether they meet in Redis or whether this process is alone: nothing
else asks that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer

from realtime.cluster.clients import Unavailable
from realtime.cluster.contract import PROCESSES, Answer, Beat, LocalCluster
from realtime.cluster.layer import uses_redis
from realtime.cluster.redis import RedisCluster

# Seconds between signs of life.
BEAT_INTERVAL = 2.0
# Seconds for which a member that leaves waits for the others to take note of it.
LEAVE_TIMEOUT = 1.0

_redis_cluster = RedisCluster()
_local_clusters: WeakKeyDictionary[Any, LocalCluster] = WeakKeyDictionary()
# Without a channel layer a process is alone too.
_without_layer = LocalCluster()


def get_cluster() -> LocalCluster | RedisCluster:
    """Return the cluster that belongs to the configured channel layer."""
    layer = get_channel_layer()
    if layer is None:
        return _without_layer
    if uses_redis(layer):
        return _redis_cluster
    return _local_clusters.setdefault(layer, LocalCluster())


class Membership:
    """A member among those that share some work, or serve clients. One for each event loop."""

    def __init__(self, work: str = PROCESSES) -> None:
        # Unique, and tells an operator which process it is.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._work = work
        self._has_beaten = False

    async def beat(self) -> Beat:
        """Say that this member is there, each :data:`BEAT_INTERVAL`. Raises ``Unavailable``."""
        beat = await get_cluster().beat(self._work, self.name)
        if not self._has_beaten:  # nobody knew of it
            beat = beat._replace(was_gone=False)
        self._has_beaten = True
        return beat

    async def leave(self) -> None:
        """Let the others know at once that this member is gone; as far as they can be told."""
        if self._has_beaten:
            with contextlib.suppress(Unavailable, TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT):
                    await get_cluster().leave(self._work, self.name)

    async def listen(self, answer: Answer) -> None:
        """Answer the questions to this process until cancelled."""
        await get_cluster().listen(self.name, answer)
