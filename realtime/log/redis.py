"""The log in Valkey or Redis: a stream of each type, beside the group of the same type.

On the same server, so that one call appends and announces.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache, partial
from time import monotonic
from typing import Any

import redis
from redis.asyncio import Redis as AsyncRedis

from realtime.cluster.clients import async_client, sync_client
from realtime.cluster.servers import CONNECT_TIMEOUT, Server, group_address, layer_config
from realtime.config import get_streaming_config
from realtime.log.contract import (
    READ_BYTES,
    READ_ENTRIES,
    Append,
    Chunk,
    Entry,
    LogUnavailable,
    new_epoch,
    read_position,
    unpack,
)
from realtime.protocol import Position

# Messages that are appended together make one entry of the stream, packed as they travel in the
# group message. Its id is the offset of its last message and the time in milliseconds, so the
# first entry from a given offset on holds that offset.

# append(at) appends what the arguments from ``at`` on say: a new epoch, history_size, history_ttl,
# milliseconds, the Redis channel; then for each entry the number of messages, the messages, and the
# group message's parts around the position, or two empty strings. Keys: the hash of epoch and
# newest offset, the stream. Returns the first position.
APPEND_FUNCTION = """
local function append(at)
  local epoch = redis.call('HGET', KEYS[1], 'epoch')
  if not epoch then
    epoch = ARGV[at]
    redis.call('HSET', KEYS[1], 'epoch', epoch)
    redis.call('DEL', KEYS[2])
  end
  local size, ttl, now, channel = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local position, before, last
  for i = at + 5, #ARGV, 4 do
    last = redis.call('HINCRBY', KEYS[1], 'offset', ARGV[i])
    local first = last - ARGV[i] + 1
    redis.call('XADD', KEYS[2], 'MINID', '~', string.format('%d', math.max(0, last - size + 1)),
               string.format('%d-%s', last, now), 'm', ARGV[i + 1])
    local here = epoch .. ':' .. string.format('%020d', first)
    position = position or here
    before = before or first
    if ARGV[i + 3] ~= '' then
      redis.call('PUBLISH', channel, ARGV[i + 2] .. here .. ARGV[i + 3] .. ARGV[i + 1])
    end
  end
  redis.call('EXPIRE', KEYS[2], ttl)
  -- Now and then, remove what is too old: more than is added meanwhile.
  if math.floor(before / 64) ~= math.floor((last + 1) / 64) then
    local expired = now - 1000 * ttl
    for i = 1, 128 do
      local id = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1][1]
      if tonumber(string.match(id, '-(%d+)')) >= expired then break end
      redis.call('XDEL', KEYS[2], id)
    end
  end
  return position
end
"""

# Keys: those of append(), what is remembered of this call. Arguments: how long to remember this
# call, in seconds, and those of append().
_APPEND = (
    APPEND_FUNCTION
    + """
local known = redis.call('GET', KEYS[3])
if known and string.match(known, '^(.*):') == redis.call('HGET', KEYS[1], 'epoch') then
  return known
end
local position = append(2)
redis.call('SET', KEYS[3], position, 'EX', ARGV[1])
return position
"""
)

# Arguments: a new epoch, the offset after which to read, history_size, the oldest time that is
# retained, the most messages and bytes. The last entry may pass them.
_READ = """
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'epoch', epoch, 'offset', 0)
  redis.call('DEL', KEYS[2])
end
local head = tonumber(redis.call('HGET', KEYS[1], 'offset'))
local from = math.max(tonumber(ARGV[2]), head - ARGV[3]) + 1
local result = {epoch, head, from}
local left, room = tonumber(ARGV[5]), tonumber(ARGV[6])
while left > 0 and room > 0 and from <= head do
  local part = redis.call('XRANGE', KEYS[2], string.format('%d', from), '+', 'COUNT', 16)
  for _, entry in ipairs(part) do
    local last, time = string.match(entry[1], '(%d+)-(%d+)')
    -- What follows a message that is retained is retained too, whatever its publisher's clock.
    local is_retained = #result > 3 or tonumber(time) >= tonumber(ARGV[4])
    if is_retained and left > 0 and room > 0 then
      result[#result + 1] = entry[1]
      result[#result + 1] = entry[2][2]
      room = room - #entry[2][2]
      left = left - (last - from + 1)
    end
    from = last + 1
  end
  if #part < 16 then break end
end
return result
"""

# Arguments: history_size, the oldest time that is retained. Halves the range in which the first
# retained message is: times grow with offsets, but for what publishers' clocks differ.
_LENGTH = """
local head = tonumber(redis.call('HGET', KEYS[1], 'offset') or 0)
-- The offset from which the next entry is retained, *from* or one after; false if it has expired.
local function begins(from)
  local entry = redis.call('XRANGE', KEYS[2], string.format('%d', from), '+', 'COUNT', 1)[1]
  if not entry then return head + 1 end
  local last, time = string.match(entry[1], '(%d+)-(%d+)')
  if tonumber(time) < tonumber(ARGV[2]) then return false end
  local kind, high, low = string.byte(entry[2][2], 1, 3)  -- of a MessagePack array
  return math.max(from, last - (kind == 0xdc and high * 256 + low or kind - 0x90) + 1)
end
local expired, retained = math.max(0, head - ARGV[1]) + 1, head + 1
local first = begins(expired)
while not first and retained - expired > 1 do
  local middle = math.floor((expired + retained) / 2)
  if begins(middle) then retained = middle else expired = middle end
end
return math.max(0, head - (first or retained) + 1)
"""

_RENEW = """
local head = redis.call('HMGET', KEYS[1], 'epoch', 'offset')
if head[1] == ARGV[2] and tonumber(head[2]) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'offset', 0)
  redis.call('DEL', KEYS[2])
end
"""


class RedisLog:
    """A stream of each type in the server that carries the type's group."""

    def append(self, what: Append) -> Position:
        """Append in one round trip, announcements and all."""
        server, channel = group_address(what.kind)
        started = monotonic()
        try:
            try:
                reply = _append_script(server)(*_append_arguments(what, channel))
            except redis.ConnectionError:
                if not _may_try_again(started):
                    raise
                reply = _append_script(server)(*_append_arguments(what, channel))
        except (redis.RedisError, OSError) as error:
            raise LogUnavailable(str(error)) from error
        return _to_position(reply)

    async def aappend(self, what: Append) -> Position:
        """Append in one round trip; the coroutine form of :meth:`append`."""
        server, channel = group_address(what.kind)
        arguments = _append_arguments(what, channel)
        return _to_position(await ask(server, partial(_call, _APPEND, arguments)))

    async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
        """Read in one round trip; begin the log if there is none."""
        config = get_streaming_config().websocket
        expired = int(1000 * (time.time() - config.history_ttl))
        arguments = (after, config.history_size, expired, at_most or READ_ENTRIES, READ_BYTES)
        return _to_chunk(await self._run(kind, _READ, *arguments))

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Ask each server once, all at the same time."""
        replies = await _ask_each(kinds, _heads)
        return {
            kind: Position((epoch or b"").decode(), int(offset or 0))
            for kind, (epoch, offset) in replies.items()
        }

    async def lengths(self, kinds: Iterable[str]) -> dict[str, int]:
        """Ask each server once, all at the same time."""
        return await _ask_each(kinds, _lengths)

    async def renew(self, kind: str, seen: Position) -> None:
        """Begin a new epoch unless another process has done so."""
        await self._run(kind, _RENEW, seen.epoch, seen.offset)

    async def _run(self, kind: str, text: str, *arguments: Any) -> Any:
        server, _ = group_address(kind)
        given = log_keys(kind), (new_epoch(), *arguments)
        return await ask(server, partial(_call, text, given))


async def _ask_each(kinds: Iterable[str], question: Callable[..., Any]) -> dict[str, Any]:
    """Ask each server about its types; return the answers, without those of who gives none."""
    by_server: dict[Server, list[str]] = {}
    for kind in kinds:
        by_server.setdefault(group_address(kind)[0], []).append(kind)
    questions = (ask(server, partial(question, its)) for server, its in by_server.items())
    answers = await asyncio.gather(*questions, return_exceptions=True)
    found: dict[str, Any] = {}
    for its, replies in zip(by_server.values(), answers, strict=True):
        if isinstance(replies, LogUnavailable):
            continue
        if isinstance(replies, BaseException):
            raise replies
        found.update(zip(its, replies, strict=True))
    return found


async def ask(server: Server, question: Callable[[AsyncRedis], Awaitable[Any]]) -> Any:
    """Ask a server something that may be asked twice: a connection may have died meanwhile."""
    started = monotonic()
    try:
        client = await async_client(server)
        try:
            return await question(client)
        except redis.ConnectionError:
            if not _may_try_again(started):
                raise
            return await question(client)
    except (redis.RedisError, OSError) as error:
        raise LogUnavailable(str(error)) from error


def _may_try_again(started: float) -> bool:
    """Tell whether an attempt failed soon enough for another one."""
    return monotonic() < started + CONNECT_TIMEOUT


async def _call(text: str, arguments: tuple[Any, Any], client: AsyncRedis) -> Any:
    return await client.register_script(text)(*arguments)


async def _heads(kinds: Sequence[str], client: AsyncRedis) -> list[list[bytes | None]]:
    pipeline = client.pipeline(transaction=False)
    for kind in kinds:
        pipeline.hmget(log_keys(kind)[0], "epoch", "offset")
    replies: list[list[bytes | None]] = await pipeline.execute()
    return replies


async def _lengths(kinds: Sequence[str], client: AsyncRedis) -> list[int]:
    config = get_streaming_config().websocket
    expired = int(1000 * (time.time() - config.history_ttl))
    pipeline = client.pipeline(transaction=False)
    for kind in kinds:
        pipeline.eval(_LENGTH, 2, *log_keys(kind), config.history_size, expired)
    replies: list[int] = await pipeline.execute()
    return replies


@lru_cache(maxsize=8)
def _append_script(server: Server) -> Callable[..., Any]:
    return sync_client(server).register_script(_APPEND)


def log_keys(kind: str) -> list[str]:
    """Return the keys of a type's log: the hash of epoch and newest offset, the stream."""
    # The braces keep a type's keys together where keys are spread over servers.
    stem = f"{layer_config().get('prefix', 'asgi')}:{{{kind}}}"
    return [f"{stem}:head", f"{stem}:log"]


def _append_arguments(what: Append, channel: str) -> tuple[list[str], list[Any]]:
    keys = log_keys(what.kind)
    arguments = [what.once_ttl, *append_arguments(what, channel)]
    return [*keys, f"{keys[0]}:once:{what.once}"], arguments


def append_arguments(what: Append, channel: str) -> list[Any]:
    """Return the arguments of ``append()`` in :data:`APPEND_FUNCTION`."""
    config = get_streaming_config().websocket
    milliseconds = int(1000 * what.timestamp)
    arguments: list[Any] = [new_epoch(), config.history_size, config.history_ttl, milliseconds]
    arguments.append(channel)
    for batch in what.batches:
        arguments += (len(batch.bodies), batch.packed, batch.before, batch.after)
    return arguments


def _to_position(reply: bytes) -> Position:
    return read_position(reply.decode())


def _to_chunk(reply: list[Any]) -> Chunk:
    epoch, head, wanted, *rest = reply
    entries: list[Entry] = []
    first = head + 1
    for entry_id, packed in zip(rest[::2], rest[1::2], strict=True):
        last, _, milliseconds = entry_id.partition(b"-")
        bodies = unpack(packed)
        if not entries:
            first = max(wanted, int(last) - len(bodies) + 1)
            bodies = bodies[first - int(last) - 1 :]
        timestamp = int(milliseconds) / 1000
        entries += [Entry(timestamp, body) for body in bodies]
    return Chunk(epoch.decode(), head, first, entries)
