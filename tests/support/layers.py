"""Channel layers of the tests' own process: one on a Valkey of its own, one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.test import override_settings

from realtime.cluster.clients import close_async_clients
from realtime.cluster.embedded import EmbeddedServer
from realtime.cluster.servers import layer_hosts
from tests.support import TIMEOUT

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"
IN_MEMORY = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}

# Sets variables as if the process had started with them.
Configure = Callable[..., None]


@contextmanager
def layer_of(data_dir: Path, backend: str = PUBSUB, **options: Any) -> Iterator[None]:
    """Use a data directory of one's own, with its embedded server."""
    config = {"hosts": layer_hosts(data_dir), "prefix": "realtime", **options}
    layers = {"default": {"BACKEND": backend, "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers, DATA_DIR=data_dir):
        yield


@contextmanager
def running_valkey(data_dir: Path) -> Iterator[EmbeddedServer]:
    """Run a server, as that of this process's channel layer."""
    server = EmbeddedServer(data_dir)
    server.ensure_running()
    try:
        with layer_of(data_dir):
            yield server
    finally:
        server.stop()


async def close_layer() -> None:
    """Close the running loop's connections to the server."""
    layer = get_channel_layer()
    if isinstance(layer, RedisPubSubChannelLayer):
        await layer.flush()
    await close_async_clients()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until *condition* holds."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.001)
