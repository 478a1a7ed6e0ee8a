"""What those who run processors report of them: how far each is behind, and when it last read.

Kept where processes find each other, beyond the end of who reported it: that nobody runs a
processor any more is what an operator has to learn. Knows nothing of what processors do.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from channels.layers import get_channel_layer

from realtime.cluster.clients import async_client, registry
from realtime.cluster.membership import key
from realtime.cluster.servers import has_servers

# Seconds after which a processor that nobody runs is forgotten.
FORGET_AFTER = 86_400


class Report(msgspec.Struct):
    """How a processor stands.

    ``group`` names those who share it with others, ``lag`` is messages of the source's log that it
    has not taken in, ``read_at`` when it last took in what it had read, in seconds since 1970.
    """

    group: str
    processor: str
    source: str
    lag: int
    read_at: float


_decoder = msgspec.json.Decoder(Report)


def _key() -> str:
    return key("processors")


async def report(group: str, names: Collection[str], running: Sequence[Report]) -> None:
    """Report those that run here; forget those of the group that are not among *names* any more.

    Raises:
        redis.RedisError, OSError: the server does not answer.
    """
    with registry.asking() as server:
        client = await async_client(server)
        async with client.pipeline(transaction=False) as pipeline:
            if running:
                fields: Any = {one.processor: msgspec.json.encode(one) for one in running}
                pipeline.hset(_key(), mapping=fields)
            pipeline.hgetall(_key())
            pipeline.expire(_key(), FORGET_AFTER)
            known = _decode((await pipeline.execute())[-2])
        long_ago = time.time() - FORGET_AFTER
        gone = [
            one.processor
            for one in known
            if one.read_at < long_ago or (one.group == group and one.processor not in names)
        ]
        if gone:
            await client.hdel(_key(), *gone)


async def read_reports() -> list[Report]:
    """Return how all processors stand, in the order of their names. Raises as :func:`report`."""
    if not has_servers(get_channel_layer()):
        return []
    with registry.asking() as server:
        found: Any = await (await async_client(server)).hgetall(_key())
    return sorted(_decode(found), key=lambda one: one.processor)


def _decode(found: dict[bytes, bytes]) -> list[Report]:
    return [_decoder.decode(text) for text in found.values()]
