"""The log of each subscription type: dense offsets from 1 and an epoch, kept for a while.

What is appended here is published; the channel layer only makes it fast. Knows storage and
retention, nothing of subscriptions. :class:`RedisLog` keeps a stream beside the type's group, on
the same server, so that one call appends and announces; :class:`MemoryLog` serves Channels'
in-memory layer, within one process.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from time import monotonic
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import msgspec
import redis
from channels.layers import get_channel_layer
from redis.asyncio import Redis as AsyncRedis

from realtime.config import get_streaming_config
from realtime.protocol import Position
from realtime.redis import (
    CONNECT_TIMEOUT,
    async_client,
    group_address,
    layer_config,
    sync_client,
)

# Messages and bytes of one read, about: a few milliseconds of work for server and reader.
READ_ENTRIES = 256
READ_BYTES = 1024 * 1024


class LogUnavailable(Exception):
    """The log does not answer, or there is none."""


class Entry(NamedTuple):
    """One message as it was appended; ``timestamp`` in seconds since 1970."""

    timestamp: float
    body: bytes


class Chunk(NamedTuple):
    """Consecutive entries of a log.

    ``head`` is the offset of the newest message. ``first`` is that of the first entry; what is
    missing before it is no longer retained. Without entries it is ``head + 1``.
    """

    epoch: str
    head: int
    first: int
    entries: list[Entry]


class Batch(NamedTuple):
    """Messages that travel and are kept as one piece.

    ``before`` and ``after`` are the group message around its position, up to ``packed``, for a
    log that can send it; else empty.
    """

    bodies: Sequence[bytes]
    packed: bytes
    before: bytes = b""
    after: bytes = b""


@dataclass(frozen=True)
class Append:
    """Messages to be appended together.

    ``once`` identifies them: within ``once_ttl`` seconds the same again appends nothing and gives
    the first position. So an attempt whose answer was lost may be repeated.
    """

    kind: str
    batches: Sequence[Batch]
    timestamp: float
    once: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    once_ttl: int = 30


class Log(Protocol):
    """The logs of all types. Every method raises :class:`LogUnavailable`."""

    def append(self, what: Append) -> Position:
        """Append and return the first message's position; from any thread."""

    async def aappend(self, what: Append) -> Position:
        """Append and return the first message's position."""

    async def read(self, kind: str, after: int) -> Chunk:
        """Return what is retained after an offset, or as much as one read gives."""

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Return the newest position of each type; epoch "" if there is no log."""

    async def renew(self, kind: str, seen: Position) -> None:
        """Begin a new epoch if the log has lost the message at *seen*, which was there."""


def get_log() -> Log:
    """Return the log that belongs to the configured channel layer."""
    layer = get_channel_layer()
    if layer is None:
        raise LogUnavailable("no channel layer is configured")
    if layer_config().get("hosts"):
        return RedisLog()
    return _memory_logs.setdefault(layer, MemoryLog())


def position_text(position: Position) -> str:
    """Write a position in a fixed width, as group messages carry it."""
    return f"{position.epoch}:{position.offset:020d}"


def read_position(text: str) -> Position:
    """Read what :func:`position_text` wrote."""
    epoch, _, offset = text.partition(":")
    return Position(epoch, int(offset))


# As wide as any position, to be replaced by one.
NO_POSITION = position_text(Position("0" * 16, 0))


def pack(bodies: Sequence[bytes]) -> bytes:
    """Make one piece of payloads."""
    return _packer.encode(bodies)


def unpack(packed: bytes) -> list[bytes]:
    """Return what :func:`pack` was given."""
    return _unpacker.decode(packed)


_packer = msgspec.msgpack.Encoder()
_unpacker = msgspec.msgpack.Decoder(list[bytes])


def _new_epoch() -> str:
    return secrets.token_hex(8)


# Valkey and Redis

# Messages that are appended together make one entry of the stream, packed as they travel in the
# group message. Its id is the offset of its last message and the time in milliseconds, so the
# first entry from a given offset on holds that offset.

# Keys: the hash of epoch and newest offset, the stream, what is remembered of this call.
# Arguments: a new epoch, history_size, history_ttl, milliseconds, how long to remember this call,
# the Redis channel; then for each entry the number of messages, the messages, and the group
# message's parts around the position, or two empty strings.
_APPEND = """
local known = redis.call('GET', KEYS[3])
if known then return known end
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
  redis.call('DEL', KEYS[2])
end
local position, before, last
for i = 7, #ARGV, 4 do
  last = redis.call('HINCRBY', KEYS[1], 'offset', ARGV[i])
  local first = last - ARGV[i] + 1
  redis.call('XADD', KEYS[2], 'MINID', '~', string.format('%d', math.max(0, last - ARGV[2] + 1)),
             string.format('%d-%s', last, ARGV[4]), 'm', ARGV[i + 1])
  local here = epoch .. ':' .. string.format('%020d', first)
  position = position or here
  before = before or first
  if ARGV[i + 3] ~= '' then
    redis.call('PUBLISH', ARGV[6], ARGV[i + 2] .. here .. ARGV[i + 3] .. ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('SET', KEYS[3], position, 'EX', ARGV[5])
-- Now and then, remove what is too old: more than is added meanwhile.
if math.floor(before / 64) ~= math.floor((last + 1) / 64) then
  local expired = ARGV[4] - 1000 * ARGV[3]
  for i = 1, 128 do
    local id = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1][1]
    if tonumber(string.match(id, '-(%d+)')) >= expired then break end
    redis.call('XDEL', KEYS[2], id)
  end
end
return position
"""

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
        url, channel = group_address(what.kind)
        started = monotonic()
        try:
            try:
                reply = _append_script(url)(*_append_arguments(what, channel))
            except redis.ConnectionError:
                if not _may_try_again(started):
                    raise
                reply = _append_script(url)(*_append_arguments(what, channel))
        except (redis.RedisError, OSError) as error:
            raise LogUnavailable(str(error)) from error
        return _to_position(reply)

    async def aappend(self, what: Append) -> Position:
        """Append in one round trip; the coroutine form of :meth:`append`."""
        url, channel = group_address(what.kind)
        arguments = _append_arguments(what, channel)
        return _to_position(await _ask(url, partial(_call, _APPEND, arguments)))

    async def read(self, kind: str, after: int) -> Chunk:
        """Read in one round trip; begin the log if there is none."""
        config = get_streaming_config().websocket
        expired = int(1000 * (time.time() - config.history_ttl))
        arguments = (after, config.history_size, expired, READ_ENTRIES, READ_BYTES)
        return _to_chunk(await self._run(kind, _READ, *arguments))

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Ask each server once."""
        by_server: dict[str, list[str]] = {}
        for kind in kinds:
            by_server.setdefault(group_address(kind)[0], []).append(kind)
        found: dict[str, Position] = {}
        for url, its_kinds in by_server.items():
            replies = await _ask(url, partial(_heads, its_kinds))
            for kind, (epoch, offset) in zip(its_kinds, replies, strict=True):
                found[kind] = Position((epoch or b"").decode(), int(offset or 0))
        return found

    async def renew(self, kind: str, seen: Position) -> None:
        """Begin a new epoch unless another process has done so."""
        await self._run(kind, _RENEW, seen.epoch, seen.offset)

    async def _run(self, kind: str, text: str, *arguments: Any) -> Any:
        url, _ = group_address(kind)
        given = _keys(kind), (_new_epoch(), *arguments)
        return await _ask(url, partial(_call, text, given))


async def _ask(url: str, question: Callable[[AsyncRedis], Awaitable[Any]]) -> Any:
    """Ask a server something that may be asked twice: a connection may have died meanwhile."""
    started = monotonic()
    try:
        client = await async_client(url)
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
        pipeline.hmget(_keys(kind)[0], "epoch", "offset")
    replies: list[list[bytes | None]] = await pipeline.execute()
    return replies


@lru_cache(maxsize=8)
def _append_script(url: str) -> Callable[..., Any]:
    return sync_client(url).register_script(_APPEND)


def _keys(kind: str) -> list[str]:
    # The braces keep a type's keys together where keys are spread over servers.
    stem = f"{layer_config().get('prefix', 'asgi')}:{{{kind}}}"
    return [f"{stem}:head", f"{stem}:log"]


def _append_arguments(what: Append, channel: str) -> tuple[list[str], list[Any]]:
    config = get_streaming_config().websocket
    head, stream = _keys(what.kind)
    arguments: list[Any] = [
        _new_epoch(),
        config.history_size,
        config.history_ttl,
        int(1000 * what.timestamp),
        what.once_ttl,
        channel,
    ]
    for batch in what.batches:
        arguments += (len(batch.bodies), batch.packed, batch.before, batch.after)
    return [head, stream, f"{head}:once:{what.once}"], arguments


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


# In memory


class _Stream:
    """The log of one type."""

    def __init__(self) -> None:
        self.epoch = _new_epoch()
        self.head = 0
        # The newest entries; the last has the offset ``head``.
        self.entries: deque[Entry] = deque()

    def trim(self, now: float) -> None:
        """Forget what is no longer retained."""
        config = get_streaming_config().websocket
        expired = now - config.history_ttl
        while self.entries and (
            len(self.entries) > config.history_size or self.entries[0].timestamp < expired
        ):
            self.entries.popleft()


class MemoryLog:
    """The logs of one process, for a channel layer that does not leave it either."""

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        # Type and identification of an append -> its position and when to forget it.
        self._known: dict[tuple[str, str], tuple[Position, float]] = {}
        self._forget_at = 1000
        # Publishers may be in other threads than readers.
        self._lock = threading.Lock()

    def append(self, what: Append) -> Position:
        """Append; announcing is the caller's."""
        key = what.kind, what.once
        with self._lock:
            now = time.time()
            known = self._known.get(key)
            if known is not None and known[1] > now:
                return known[0]
            self._forget(now)
            stream = self._stream(what.kind)
            position = Position(stream.epoch, stream.head + 1)
            for batch in what.batches:
                stream.entries.extend(Entry(what.timestamp, body) for body in batch.bodies)
                stream.head += len(batch.bodies)
            stream.trim(now)
            self._known[key] = position, now + what.once_ttl
            return position

    def _forget(self, now: float) -> None:
        """Drop identifications that are due, once there are twice as many as were left before."""
        if len(self._known) >= self._forget_at:
            self._known = {key: known for key, known in self._known.items() if known[1] > now}
            self._forget_at = 2 * len(self._known) + 1000

    async def aappend(self, what: Append) -> Position:
        """Append; announcing is the caller's."""
        return self.append(what)

    async def read(self, kind: str, after: int) -> Chunk:
        """Return what is retained after an offset, within the bounds of one read."""
        with self._lock:
            stream = self._stream(kind)
            stream.trim(time.time())
            oldest = stream.head - len(stream.entries) + 1
            first = min(max(after + 1, oldest), stream.head + 1)
            entries = []
            room = READ_BYTES
            for offset in range(first, min(first + READ_ENTRIES, stream.head + 1)):
                if room <= 0:
                    break
                entries.append(stream.entries[offset - oldest])
                room -= len(entries[-1].body)
            return Chunk(stream.epoch, stream.head, first, entries)

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        """Return the newest position of each type."""
        with self._lock:
            streams = {kind: self._stream(kind) for kind in kinds}
            return {kind: Position(stream.epoch, stream.head) for kind, stream in streams.items()}

    async def renew(self, kind: str, seen: Position) -> None:
        """Begin a new epoch if the log has lost the message at *seen*."""
        with self._lock:
            stream = self._stream(kind)
            if stream.epoch == seen.epoch and stream.head < seen.offset:
                self._streams[kind] = _Stream()

    def _stream(self, kind: str) -> _Stream:
        return self._streams.setdefault(kind, _Stream())


_memory_logs: WeakKeyDictionary[Any, MemoryLog] = WeakKeyDictionary()
