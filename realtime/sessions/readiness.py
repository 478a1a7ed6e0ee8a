"""Whether the database and the channel layer answer: each does within a second, or is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any

from channels.layers import get_channel_layer
from redis.asyncio import Redis

from realtime.auth.policy import current_revision
from realtime.cluster.clients import Unavailable, ask
from realtime.cluster.layer import layer_servers, no_key, uses_redis
from realtime.cluster.stores import Evictions, name_faults, read_infos
from realtime.database import Database
from realtime.monitoring.metrics import Counters

logger = logging.getLogger(__name__)

TIMEOUT = 1.0
# What a probe is told. Details, such as addresses, are in the log: anyone may ask.
DRAINING = "draining"
DATABASE = "the database does not answer"
LAYER = "the channel layer does not answer"
STORE = "a server in REDIS_URL is not fit"
# Seconds between looks at what servers say of themselves.
STORE_INTERVAL = 5.0
# A group that nobody is a member of.
_GROUP = "realtime-readiness"
# Questions whose answers nobody waits for any more, nor for their end: redis-py may take a
# cancellation for a timeout of its own, and go on waiting for a server that hangs.
_left: set[asyncio.Task[object]] = set()


async def check_backends(database: Database, is_cut_off: bool) -> list[str]:
    """Return what does not answer: :data:`DATABASE`, :data:`LAYER`, both or none.

    *is_cut_off* tells that the layer's groups bring nothing.
    """
    answers = await asyncio.gather(
        _ask(DATABASE, lambda: database.run(current_revision)),
        _ask(LAYER, lambda: _ask_layer(is_cut_off)),
    )
    return [away for away in answers if away]


class StoreWatch:
    """Looks now and then whether the servers are fit for what they are to keep, and keep it."""

    def __init__(self, stats: Counters) -> None:
        self._stats = stats
        self._looked_at = -STORE_INTERVAL
        self._faults: list[str] = []
        self._evictions = Evictions()

    async def check(self) -> list[str]:
        """Return :data:`STORE` if a server was not fit at the last look; the log says which."""
        if monotonic() - self._looked_at >= STORE_INTERVAL and uses_redis(get_channel_layer()):
            self._looked_at = monotonic()
            infos = await read_infos(TIMEOUT)
            self._faults = name_faults(infos)
            for fault in self._faults:
                logger.error("not ready: %s", fault)
            for server, count in self._evictions.count(infos).items():
                self._stats.evicted_keys += count
                logger.error("%r is full and has removed %d keys without a word", server, count)
        return [STORE] if self._faults else []


async def _ask(away: str, question: Callable[[], Awaitable[object]]) -> str:
    """Return *away* if no answer comes."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await question()
    except (Unavailable, TimeoutError) as error:
        logger.warning("not ready: %s: %s", away, error or type(error).__name__)
        return away
    return ""


async def _ask_layer(is_cut_off: bool) -> None:
    layer = get_channel_layer()
    if layer is None:
        raise Unavailable("none is configured")
    if uses_redis(layer):
        if is_cut_off:
            raise Unavailable("its groups bring nothing")
        # Of several, one that takes writes is enough: the types of the others are away everywhere.
        await _first([ask(server, _write) for server in layer_servers()])
    else:
        await layer.group_send(_GROUP, {"type": "readiness"})


async def _write(client: Redis) -> None:
    await client.delete(no_key())


async def _first(questions: list[Coroutine[Any, Any, object]]) -> None:
    """Return when one is answered; raise what the last one raised if none is."""
    asked = [asyncio.create_task(question) for question in questions]
    try:
        for number, answer in enumerate(asyncio.as_completed(asked), 1):
            try:
                await answer
                return
            except Unavailable:
                if number == len(asked):
                    raise
    finally:
        for task in asked:
            _left.add(task)
            task.add_done_callback(_forget)
            task.cancel()


def _forget(task: asyncio.Task[object]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()  # which nobody wants to know
