"""A Valkey and its replica behind one address, and what can happen to them.

Notes what a log held before it is emptied, and which epochs lose messages in a failover.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import redis

from realtime.log.contract import read_position, unpack
from realtime.protocol import Position
from realtime.testing.proxy import Proxy
from realtime.testing.redis_server import RedisServer
from realtime.torture.history import Chapter, Entry, History

Answer = TypeVar("Answer")

# Seconds until a server that was started again must have the other's data.
PATIENCE = 30.0
# What is written is with the system before it is confirmed: a killed server loses nothing.
OPTIONS = {"appendonly": "yes", "appendfsync": "no", "repl-diskless-sync-delay": "0"}


class Store:
    """The pair. Its methods are faults; one happens at a time.

    ``keys`` are those of each type's log: the hash with its state and the stream of messages.
    """

    def __init__(self, directory: Path) -> None:
        self._primary, self._replica = (
            RedisServer(directory / name, **OPTIONS) for name in ("a", "b")
        )
        self.proxy = Proxy(self._primary.port)
        self.keys: Mapping[str, Sequence[str]] = {}
        self.histories: dict[str, History] = {}
        # How often it was emptied.
        self._emptied = 0
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run both, and the proxy through which everybody else comes."""
        with contextlib.ExitStack() as stack:
            for server in (self._primary, self._replica):
                await asyncio.to_thread(stack.enter_context, server)
            await self._follow()
            async with self.proxy:
                yield

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/0"

    def watch(self, keys: Mapping[str, Sequence[str]]) -> None:
        """Note the history of these logs."""
        self.keys = keys
        self.histories = {kind: History() for kind in keys}

    # Faults

    async def cut(self) -> None:
        """Reset all connections."""
        self.proxy.reset()

    async def swallow(self) -> None:
        """Have all connections lead nowhere, without a word."""
        self.proxy.swallow()

    async def stop(self, seconds: float) -> None:
        """Have the primary hang."""
        async with self._lock:
            self._primary.pause()
            try:
                await asyncio.sleep(seconds)
            finally:
                self._primary.resume()

    async def kill(self) -> None:
        """Kill the primary and start it again."""
        async with self._lock:
            await asyncio.to_thread(self._primary.start)
            await self._until(self._is_following)

    async def fail_over(self) -> None:
        """Kill the primary, and promote the replica, which has everything."""
        async with self._lock:
            await self._promote_all()
            await self._replace()

    async def move(self) -> None:
        """Promote the replica. The primary becomes its replica, and connections stay."""
        async with self._lock:
            await self._promote_all()
            self._swap()
            await self._follow()

    async def lose_tail(self, seconds: float) -> None:
        """Promote the replica, and kill the primary only when it has confirmed some more."""
        async with self._lock:
            await self._until(self._is_following)
            await self._ask(self._replica, lambda client: client.replicaof("NO", "ONE"))
            await asyncio.sleep(seconds)
            await self._pause_writes()
            servers = (self._primary, self._replica)
            old, new = [await self._ask(server, self._read) for server in servers]
            for kind, chapter in old.items():
                self.histories[kind].lose(chapter, new.get(kind))
            await self._replace()

    async def empty(self) -> None:
        """Remove all data, and note what the logs held."""
        async with self._lock:
            chapters = await self._ask(self._primary, lambda client: self._read(client, empty=True))
            self._emptied += 1
            for kind, chapter in chapters.items():
                self.histories[kind].add(chapter)

    async def read(self) -> dict[str, History]:
        """Return the histories of all logs until now."""
        async with self._lock:
            chapters = await self._ask(self._primary, self._read)
        histories = copy.deepcopy(self.histories)
        for kind, chapter in chapters.items():
            histories[kind].add(chapter)
        return histories

    # How

    async def _promote_all(self) -> None:
        """Have the primary take no writes, and the replica have all, as a primary."""
        await self._until(self._is_following)
        await self._pause_writes()
        await self._until(self._has_all)
        await self._ask(self._replica, lambda client: client.replicaof("NO", "ONE"))

    async def _pause_writes(self) -> None:
        pause = int(PATIENCE * 1000)
        await self._ask(self._primary, lambda client: client.client_pause(pause, all=False))

    async def _replace(self) -> None:
        """Kill the primary; the address leads to the one that was the replica."""
        self._primary.kill()
        self._swap()
        self.proxy.reset()
        await asyncio.to_thread(self._replica.start)
        await self._follow()

    def _swap(self) -> None:
        self._primary, self._replica = self._replica, self._primary
        self.proxy.target = self._primary.port

    async def _follow(self) -> None:
        """Have the other server follow the primary; return when it does."""
        port = str(self._primary.port)
        await self._ask(self._replica, lambda client: client.replicaof("127.0.0.1", port))
        await self._ask(self._replica, lambda client: client.client_unpause())
        await self._until(self._is_following)

    async def _is_following(self) -> bool:
        info = await self._ask(self._replica, lambda client: client.info("replication"))
        return bool(
            info["role"] == "slave"
            and info["master_link_status"] == "up"
            and not info["master_sync_in_progress"]
        )

    async def _has_all(self) -> bool:
        offsets = {
            (await self._ask(server, lambda client: client.info("replication")))[name]
            for server, name in (
                (self._primary, "master_repl_offset"),
                (self._replica, "slave_repl_offset"),
            )
        }
        return len(offsets) == 1

    def _read(self, client: redis.Redis, *, empty: bool = False) -> dict[str, Chapter]:
        """Return what the logs hold, and remove all data if that is asked for."""
        with client.pipeline(transaction=True) as pipeline:
            for state, messages in self.keys.values():
                pipeline.hgetall(state)
                pipeline.xrange(messages)
            if empty:
                pipeline.flushall()
            replies = pipeline.execute()
        pairs = zip(self.keys, replies[::2], replies[1::2], strict=False)
        return {
            kind: _to_chapter(state, messages, self._emptied)
            for kind, state, messages in pairs
            if state
        }

    async def _ask(self, server: RedisServer, question: Callable[[redis.Redis], Answer]) -> Answer:
        def ask() -> Answer:
            with server.client() as client:
                return question(client)

        return await asyncio.to_thread(ask)

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the replica: {condition.__name__} is not so")
            await asyncio.sleep(0.02)


def _to_chapter(state: Mapping[bytes, bytes], messages: Sequence[Any], number: int) -> Chapter:
    """Read a log as it is stored."""
    earlier = [
        read_position(text) for text in state.get(b"earlier", b"").decode().split(",") if text
    ]
    entries: list[Entry] = []
    for name, fields in messages:
        milliseconds = int(name.partition(b"-")[2])
        entries += [
            Entry(milliseconds / 1000, msgspec.json.decode(body)) for body in unpack(fields[b"m"])
        ]
    last = Position(state[b"epoch"].decode(), int(state[b"offset"]))
    if last.offset != len(entries):
        raise AssertionError(f"a log at {last} holds {len(entries)} messages")
    return Chapter([*reversed(earlier), last], entries, number)
