"""What each serving process reports of itself, and the totals of all processes.

A process writes its snapshot into Redis every two seconds, after its sign of life, and reads those
of the others in the same step; those of processes that have gone are left out. With a channel layer
of one process there is only that process. Knows nothing of which numbers there are
(:mod:`realtime.monitoring.metrics`) and of when they are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from channels.layers import get_channel_layer

from realtime.cluster.clients import async_client, registry, sync_client
from realtime.cluster.membership import FORGET_AFTER, GONE_AFTER, each_server, key, processes_key
from realtime.cluster.servers import Server, has_servers
from realtime.monitoring.metrics import METRICS, Histogram

# Keys: the processes, their snapshots. Arguments: the process that writes and its snapshot, or two
# empty texts to read only; seconds until a process counts as gone and until it is forgotten.
# Returns the snapshots of the processes that run.
_EXCHANGE = """
if ARGV[1] ~= '' then
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
    redis.call('EXPIRE', KEYS[2], ARGV[4])
end
local all = redis.call('HGETALL', KEYS[2])
local since = redis.call('TIME')[1] - ARGV[3]
local running = {}
for at = 1, #all, 2 do
    local heard = tonumber(redis.call('ZSCORE', KEYS[1], all[at]) or 0)
    if heard > since then
        running[#running + 1] = all[at + 1]
    elseif heard == 0 and ARGV[1] ~= '' then
        redis.call('HDEL', KEYS[2], all[at])
    end
end
return running
"""


class Snapshot(msgspec.Struct):
    """What one process reports: counters since it started, current numbers, rates of 2 seconds.

    ``at`` and ``started`` are in seconds since 1970. ``lag`` is the mean time from publishing to
    writing in seconds, of the messages of the last two seconds, or ``None`` without any;
    ``loop_lag`` is how late the event loop was, ``round_trip`` how long the channel layer took for
    its last answer, in seconds. ``buffered`` is bytes that clients have not taken.
    """

    process: str
    host: str
    pid: int
    at: float
    started: float
    draining: bool
    connections: int
    subscriptions: dict[str, int]
    buffered: int
    resident: int
    received_per_second: float
    published_per_second: float
    delivered_per_second: float
    lag: float | None
    loop_lag: float
    round_trip: float
    counters: dict[str, int]
    # Name -> subscription type -> count.
    by_type: dict[str, dict[str, int]]
    closes: dict[int, int]
    distributions: dict[str, Histogram]
    # Subscription type -> messages in the log. During an upgrade there are processes without it.
    log: dict[str, int] = {}

    def numbers(self) -> dict[str, Any]:
        """Return all numbers under the fields of their metrics, as far as this process has them."""
        own = msgspec.structs.asdict(self)
        return own | self.counters | self.by_type | self.distributions


_decoder = msgspec.json.Decoder(Snapshot)


def _arguments(own: Snapshot | None) -> tuple[Any, ...]:
    name = own.process if own else ""
    text = msgspec.json.encode(own) if own else b""
    return 2, processes_key(), key("figures"), name, text, GONE_AFTER, FORGET_AFTER


async def exchange(own: Snapshot) -> list[Snapshot]:
    """Report a process's snapshot; return those of all processes.

    Raises:
        redis.RedisError, OSError: the server does not answer.
    """
    if not has_servers(get_channel_layer()):
        return [own]
    with registry.asking() as server:
        client = await async_client(server)
        return _decode(await client.eval(_EXCHANGE, *_arguments(own)))


def read_all() -> list[Snapshot]:
    """Return the snapshots of all running processes; blocks.

    Raises:
        realtime.cluster.membership.Unanswered: the channel layer does not answer.
    """
    if not has_servers(get_channel_layer()):
        return []
    latest: dict[str, Snapshot] = {}
    for snapshots in each_server(_read):
        for snapshot in snapshots:
            other = latest.get(snapshot.process)
            if other is None or other.at < snapshot.at:
                latest[snapshot.process] = snapshot
    return sorted(latest.values(), key=attrgetter("process"))


def _read(server: Server) -> list[Snapshot]:
    reply: Any = sync_client(server).eval(_EXCHANGE, *_arguments(None))
    return _decode(reply)


def _decode(texts: Iterable[bytes]) -> list[Snapshot]:
    return sorted(map(_decoder.decode, texts), key=attrgetter("process"))


def add_up(snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """Return the totals of processes: what each metric of the table adds up to, and some more.

    ``lag`` is the mean over all deliveries, or ``None`` without any.
    """
    numbers = [snapshot.numbers() for snapshot in snapshots]
    late = [snapshot for snapshot in snapshots if snapshot.lag is not None]
    weight = sum(snapshot.delivered_per_second for snapshot in late)
    weighted = sum((snapshot.lag or 0) * snapshot.delivered_per_second for snapshot in late)
    return {
        "processes": len(snapshots),
        "hosts": len({snapshot.host for snapshot in snapshots}),
        "lag": weighted / weight if weight else None,
        **{
            metric.field: metric.add_up(
                [own[metric.field] for own in numbers if metric.field in own]
            )
            for metric in METRICS
            if metric.total
        },
    }
