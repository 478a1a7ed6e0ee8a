"""Keeps the embedded server of a serving process running, and its data on the disk."""

from __future__ import annotations

import asyncio
import logging

from realtime.cluster.embedded import EmbeddedServer, EmbeddedServerError

logger = logging.getLogger(__name__)

# Seconds between looks, and how often what was written is brought to the disk.
LOOK_INTERVAL = 2.0
SYNC_INTERVAL = 1.0


def start(server: EmbeddedServer) -> None:
    """Start the server if it does not run; log that it has ended, and that it cannot be started.

    On the calling thread on purpose: the server ends with the thread that started it.
    """
    if server.has_run and not server.is_running():
        logger.warning("the embedded server is gone: starting it again")
    try:
        server.ensure_running()
    except EmbeddedServerError as error:
        logger.error("%s", error)


async def keep_running(server: EmbeddedServer) -> None:
    """Start the server whenever it is gone, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_INTERVAL)
        start(server)


async def keep_synced(server: EmbeddedServer) -> None:
    """Bring what the server has written to the disk, until cancelled."""
    while True:
        await asyncio.sleep(SYNC_INTERVAL)
        try:
            await asyncio.to_thread(server.sync)
        except Exception:
            logger.exception("writing to the disk")
