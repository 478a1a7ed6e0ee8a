"""How far each processor (a rule or a predictor) is behind, and when it last read its messages.

The processes that run processors report it to Redis, beside the list of processes. A report stays
after its process has ended, since an operator has to learn that nobody runs a processor any more.
Knows nothing of what processors do.
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
    """The state of a processor.

    ``group`` names the processes that share its work, ``source`` the subscription type that it
    reads. ``lag`` is the number of messages in the source's log that it has not taken in,
    ``read_at`` when it last took in what it had read, in seconds since 1970.
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
    """Report the processors that run here; forget those of the group that are not in *names*.

    Raises:
        redis.RedisError, OSError: the server does not answer.
    """
    with registry.asking() as server:
        client = await async_client(server)
        async with client.pipeline(transaction=False) as pipeline:
            if running:
                fields: Any = {own.processor: msgspec.json.encode(own) for own in running}
                pipeline.hset(_key(), mapping=fields)
            pipeline.hgetall(_key())
            pipeline.expire(_key(), FORGET_AFTER)
            reports = _decode((await pipeline.execute())[-2])
        long_ago = time.time() - FORGET_AFTER
        gone = [
            other.processor
            for other in reports
            if other.read_at < long_ago or (other.group == group and other.processor not in names)
        ]
        if gone:
            await client.hdel(_key(), *gone)


async def read_reports() -> list[Report]:
    """Return the reports of all processors, sorted by name. Raises as :func:`report` does."""
    if not has_servers(get_channel_layer()):
        return []
    with registry.asking() as server:
        texts: Any = await (await async_client(server)).hgetall(_key())
    return sorted(_decode(texts), key=lambda report: report.processor)


def _decode(texts: dict[bytes, bytes]) -> list[Report]:
    return [_decoder.decode(text) for text in texts.values()]
