"""The log in Valkey or Redis: a stream of each type, beside the group of the same type.

Log and group are on the same server, so that one call appends messages and sends them. Messages
that are appended together make one entry of the stream, packed as they travel in the group message.
An entry's id is the offset of its last message and the time in milliseconds, so the first entry
from an offset on holds the message at that offset::

    id          3-1700000000000     4-1700000000250     7-1700000000500
    messages    [1, 2, 3]           [4]                 [5, 6, 7]
                                                         ^ XRANGE from 5 begins with this entry
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from redis.asyncio import Redis as AsyncRedis

from realtime.cluster.clients import Script, Unavailable, ask, ask_blocking
from realtime.cluster.layer import group_address, key, no_key
from realtime.cluster.servers import Server
from realtime.config import get_streaming_config
from realtime.log.contract import (
    READ_BYTES,
    READ_ENTRIES,
    Append,
    Appended,
    Chunk,
    Entry,
    new_epoch,
    read_position,
    unpack,
)
from realtime.protocol import Position

APPEND, _READ, _LENGTH, _RENEW = (
    Script("realtime.log", name) for name in ("append_once", "read", "length", "renew")
)


class RedisLog:
    """A stream of each type in the server that carries the type's group.

    What asks all types asks each server once, all at the same time; the others make one round trip.
    """

    def append(self, append: Append) -> Appended:
        server, keys, arguments = append_call(append)
        reply = ask_blocking(server, lambda client: APPEND.write(client, keys, *arguments))
        return to_appended(reply)

    async def aappend(self, append: Append) -> Appended:
        server, keys, arguments = append_call(append)
        reply = await ask(server, lambda client: APPEND.awrite(client, keys, *arguments))
        return to_appended(reply)

    async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
        bounds = (*_retention(), at_most or READ_ENTRIES, READ_BYTES)
        return _to_chunk(await self._call(_READ, kind, after, *bounds))

    async def heads(self, kinds: Iterable[str]) -> dict[str, Position]:
        replies = await _ask_each(
            kinds, lambda pipeline, kind: pipeline.hmget(log_keys(kind)[0], "epoch", "offset")
        )
        return {kind: to_head(reply) for kind, reply in replies.items()}

    async def lengths(self, kinds: Iterable[str]) -> dict[str, int]:
        bounds = _retention()
        return await _ask_each(
            kinds,
            lambda pipeline, kind: pipeline.eval(
                _LENGTH.text, 2, *log_keys(kind), new_epoch(), *bounds
            ),
        )

    async def renew(self, kind: str, seen: Position) -> None:
        await self._call(_RENEW, kind, *seen)

    async def _call(self, script: Script, kind: str, *arguments: Any) -> Any:
        server, keys = group_address(kind)[0], log_keys(kind)
        return await ask(server, lambda client: script.acall(client, keys, new_epoch(), *arguments))


def log_keys(kind: str) -> list[str]:
    """Return the keys of a type's log: the hash of ``open.lua``, the stream of messages."""
    # The braces keep a type's keys together where keys are spread over servers.
    stem = key(f"{{{kind}}}")
    return [f"{stem}:head", f"{stem}:log"]


def append_call(append: Append) -> tuple[Server, list[str], list[Any]]:
    """Return the server, keys and arguments of ``append_once.lua`` for an append."""
    server, channel = group_address(append.kind)
    keys = log_keys(append.kind)
    keys.append(f"{keys[0]}:once:{append.once}")
    return server, keys, [append.once_ttl, *append_arguments(append, channel)]


def append_arguments(append: Append, channel: str) -> list[Any]:
    """Return the arguments of ``append()`` in ``append.lua``: its second and those after it."""
    config = get_streaming_config().websocket
    arguments: list[Any] = [new_epoch(), config.history_size, config.history_ttl]
    arguments.append(channel)
    for batch in append.batches:
        arguments += (len(batch.bodies), batch.packed, batch.before, batch.between, batch.after)
    return arguments


def _retention() -> tuple[int, int]:
    config = get_streaming_config().websocket
    return config.history_size, config.history_ttl


def to_appended(reply: bytes) -> Appended:
    """Read what ``append()`` in ``append.lua`` returns."""
    epoch, offset, milliseconds = reply.decode().split(":")
    return Appended(Position(epoch, int(offset)), int(milliseconds) / 1000)


def to_head(reply: list[Any]) -> Position:
    """Return the newest position, from the fields ``epoch`` and ``offset`` of a log's hash."""
    epoch, offset = reply
    return Position((epoch or b"").decode(), int(offset or 0))


async def _ask_each(kinds: Iterable[str], add: Callable[[Any, str], Any]) -> dict[str, Any]:
    """Ask each server about its types; return the answers by type, of those that answer.

    *add* adds the question about a type to a pipeline.
    """

    by_kind: dict[str, Any] = {}
    by_server: dict[Server, list[str]] = {}
    for kind in kinds:
        by_server.setdefault(group_address(kind)[0], []).append(kind)

    async def ask_server(server: Server, its_kinds: list[str]) -> None:
        async def question(client: AsyncRedis) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for kind in its_kinds:
                add(pipeline, kind)
            pipeline.delete(no_key())  # a replica, whose answers may be old, refuses this
            return (await pipeline.execute())[:-1]

        with contextlib.suppress(Unavailable):
            by_kind.update(zip(its_kinds, await ask(server, question), strict=True))

    await asyncio.gather(*(ask_server(server, its) for server, its in by_server.items()))
    return by_kind


def _to_chunk(reply: list[Any]) -> Chunk:
    """Read what ``read.lua`` returns; drop what the first entry holds before the wanted offset."""
    epoch, head, wanted, time, earlier, *ids_and_bodies = reply
    entries: list[Entry] = []
    first = head + 1
    for entry_id, packed in zip(ids_and_bodies[::2], ids_and_bodies[1::2], strict=True):
        last, _, milliseconds = entry_id.partition(b"-")
        bodies = unpack(packed)
        if not entries:
            first = max(wanted, int(last) - len(bodies) + 1)
            bodies = bodies[first - int(last) - 1 :]
        timestamp = int(milliseconds) / 1000
        entries += [Entry(timestamp, body) for body in bodies]
    ends = [read_position(text) for text in earlier.decode().split(",") if text]
    return Chunk(epoch.decode(), head, first, entries, time / 1000, ends)
