"""What processors must not lose, in Redis, beside the log they publish to.

One call saves how far a processor has read, its state, and appends what it publishes: all of it or
nothing. A lease says which process runs a processor; each that takes it over raises a generation,
and who has an old one saves nothing any more. So no message counts twice, whatever a process
believes. Knows nothing of what processors do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from redis import RedisError
from redis.asyncio import Redis

from realtime.analytics.processing.contract import AnyProcessor, Changes
from realtime.cluster.clients import sync_client
from realtime.cluster.membership import key
from realtime.cluster.servers import Server, group_address
from realtime.log import LogUnavailable, read_position
from realtime.log.redis import APPEND_FUNCTION, append_arguments, ask, log_keys
from realtime.protocol import Position
from realtime.publishing import Publication

# Seconds without a sign of life after which another process takes a processor over.
LEASE = 6.0
# Seconds for which the state of a processor that nobody runs is kept.
KEPT = 30 * 86_400
# Before the names of a processor's own fields.
_FIELD = "f:"

# Keys: the state, the lease. Arguments: who takes it, milliseconds of the lease, the definition,
# 1 to keep the state of another one. Returns nothing if another has it, else the state.
_CLAIM = """
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then return nil end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
if redis.call('HGET', KEYS[1], 'definition') ~= ARGV[3] then
  local kept = redis.call('HMGET', KEYS[1], 'generation', 'epoch', 'taken')
  if ARGV[4] == '0' then redis.call('DEL', KEYS[1]) end
  redis.call('HSET', KEYS[1], 'definition', ARGV[3], 'generation', kept[1] or 0)
  if kept[2] then redis.call('HSET', KEYS[1], 'epoch', kept[2], 'offset', kept[3]) end
end
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HDEL', KEYS[1], 'sequence')
return redis.call('HGETALL', KEYS[1])
"""

# Key: the lease. Arguments: who has it, milliseconds, 0 to give it up. Tells whether he had it.
_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""

# Keys: those of append(), the state. Arguments: generation, number of this call, epoch and offset
# read up to, offset taken in, seconds to keep the state, how many arguments set fields (names and
# values) and how many remove some; these; then those of append(), if there is anything to append.
# Returns -1 to who has an old generation, 0 if this call has been carried out before, else 1.
_SAVE = (
    APPEND_FUNCTION
    + """
local known = redis.call('HMGET', KEYS[3], 'generation', 'sequence', 'epoch', 'taken')
if known[1] ~= ARGV[1] then return -1 end
if tonumber(known[2] or 0) >= tonumber(ARGV[2]) then return 0 end
-- Who restores a state that is behind takes in again what has been taken in before.
local taken = tonumber(ARGV[5])
if known[3] == ARGV[3] then taken = math.max(taken, tonumber(known[4] or 0)) end
redis.call('HSET', KEYS[3], 'sequence', ARGV[2], 'epoch', ARGV[3], 'offset', ARGV[4],
           'taken', string.format('%d', taken))
redis.call('EXPIRE', KEYS[3], ARGV[6])
local at = 9
for i = at, at + ARGV[7] - 1, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
at = at + ARGV[7]
for i = at, at + ARGV[8] - 1 do redis.call('HDEL', KEYS[3], ARGV[i]) end
at = at + ARGV[8]
if #ARGV >= at then return append(at) end
"""
)


class Fenced(Exception):
    """Another process has taken the processor over."""


@dataclass
class Hold:
    """A processor that this process runs, and how far it has read."""

    processor: AnyProcessor
    generation: int
    # What has been taken in, and what has been saved. None before the first message is read.
    position: Position | None
    saved: Position | None
    sequence: int = 0
    saved_at: float = 0.0
    # While a processor that waits is at work.
    task: asyncio.Task[None] | None = None
    # Where the log of its source ended, and when it had taken in what was read then, in seconds
    # since 1970; 0 before it has.
    head: int = 0
    read_at: float = 0.0

    @property
    def needs_saving(self) -> bool:
        """Whether anything has happened since the last save."""
        return self.position != self.saved or self.processor.urgent

    @property
    def lag(self) -> int:
        """Messages that it has not taken in."""
        return 0 if self.position is None else max(0, self.head - self.position.offset)


def _place(processor: AnyProcessor) -> tuple[Server, str, list[str]]:
    """Return the server, the Redis channel and the keys of log, state and lease."""
    kind = processor.target or processor.source
    server, channel = group_address(kind)
    stem = key(f"{{{kind}}}:processor:{processor.name}")
    return server, channel, [*log_keys(kind), stem, f"{stem}:lease"]


async def claim(processor: AnyProcessor, owner: str) -> Hold | None:
    """Take a processor over and restore it; ``None`` if another process has it.

    Raises:
        realtime.log.LogUnavailable: its server does not answer.
    """
    server, _, keys = _place(processor)
    keeps_state = getattr(processor, "keeps_state", False)
    arguments = (owner, int(LEASE * 1000), processor.definition, int(keeps_state))
    reply: Any = await ask(server, partial(_evaluate, _CLAIM, keys[2:], arguments))
    if reply is None:
        return None
    state = {name.decode(): value for name, value in zip(reply[::2], reply[1::2], strict=True)}
    position = None
    if "epoch" in state:
        position = Position(state["epoch"].decode(), int(state["offset"]))
    fields = {name[len(_FIELD) :]: state[name] for name in state if name.startswith(_FIELD)}
    processor.restore(fields)
    return Hold(processor, int(state["generation"]), position, position)


async def renew(processor: AnyProcessor, owner: str, *, give_up: bool = False) -> bool:
    """Keep the lease or give it up; tell whether this process had it."""
    server, _, keys = _place(processor)
    milliseconds = 0 if give_up else int(LEASE * 1000)
    return bool(await ask(server, partial(_evaluate, _RENEW, keys[3:], (owner, milliseconds))))


async def save(hold: Hold) -> None:
    """Save what has changed and publish, in one step.

    Raises:
        Fenced: another process has taken the processor over; nothing was saved.
        realtime.log.LogUnavailable: it may or may not have been saved: the processor must be
            claimed anew, which restores what was.
    """
    assert hold.position is not None
    processor, position = hold.processor, hold.position
    taken = position.offset
    changes = processor.save()
    if changes.upto is not None:
        position = Position(position.epoch, changes.upto)
    server, channel, keys = _place(processor)
    hold.sequence += 1
    publication = None
    arguments = [hold.generation, hold.sequence, *position, taken, *_field_arguments(changes)]
    if changes.outputs:
        assert processor.target is not None
        publication = Publication(processor.target, list(changes.outputs), None)
        arguments += append_arguments(publication.append, channel)
    reply: Any = await ask(server, partial(_evaluate, _SAVE, keys[:3], arguments))
    if reply == -1:
        raise Fenced(processor.name)
    hold.saved, hold.saved_at = position, time.monotonic()
    if publication is not None and isinstance(reply, bytes) and not publication.is_announced:
        await publication.announce(read_position(reply.decode()))


def _field_arguments(changes: Changes) -> list[Any]:
    sets: list[Any] = []
    for name, value in changes.fields.items():
        sets += (_FIELD + name, value)
    removed = [_FIELD + name for name in changes.removed]
    return [KEPT, len(sets), len(removed), *sets, *removed]


async def _evaluate(
    script: str, keys: Sequence[str], arguments: Sequence[Any], client: Redis
) -> Any:
    return await client.register_script(script)(keys, arguments)


class Standing(NamedTuple):
    """Who runs a processor, how far it has read, where its source is, and one field of its state.

    ``None`` where there is nothing yet; an epoch is "" if the source has no log.
    """

    owner: str | None
    position: Position | None
    head: Position
    field: bytes | None

    @property
    def behind(self) -> int | None:
        """How many messages it has not read; ``None`` if nobody knows."""
        if self.position is None or self.position.epoch != self.head.epoch:
            return None
        return max(0, self.head.offset - self.position.offset)


def read_standing(processor: AnyProcessor, field: str) -> Standing:
    """Return how a processor stands, whoever runs it; from any thread.

    Raises:
        realtime.log.LogUnavailable: a server does not answer.
    """
    server, _, keys = _place(processor)
    try:
        with sync_client(server).pipeline(transaction=False) as pipeline:
            pipeline.get(keys[3])
            pipeline.hmget(keys[2], "epoch", "offset", _FIELD + field)
            owner, (epoch, offset, found) = pipeline.execute()
        source_server, _ = group_address(processor.source)
        head_key = log_keys(processor.source)[0]
        head: Any = sync_client(source_server).hmget(head_key, "epoch", "offset")
    except (RedisError, OSError) as error:
        raise LogUnavailable(str(error)) from error
    return Standing(
        None if owner is None else owner.decode(),
        None if epoch is None else Position(epoch.decode(), int(offset)),
        Position((head[0] or b"").decode(), int(head[1] or 0)),
        found,
    )


async def read_state(processor: AnyProcessor) -> Mapping[str, bytes]:
    """Return what is saved of a processor, whoever runs it."""
    server, _, keys = _place(processor)

    async def read(client: Redis) -> Any:
        return await client.hgetall(keys[2])

    found: dict[bytes, bytes] = await ask(server, read)
    return {name.decode(): value for name, value in found.items()}
