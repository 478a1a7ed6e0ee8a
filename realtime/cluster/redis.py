"""The cluster of processes that meet in Redis or Valkey.

A type's log and group have a server of their own and can be nowhere else. What processes know of
each other is written anew every two seconds, so it may move when a server goes away: it is on the
first of the channel layer's servers that answers.

Each process has a list from which it takes questions; a question names the list that its answers go
to. They are lists and not a group of the channel layer, since a list keeps a question while its
process reconnects, and reading from it needs no probe that shows whether a membership works.

::

    who asks                      Redis                            process P
    RPUSH  ->  process:P   [answers:1f0c NEWLINE question]  ->  BLPOP
    BLPOP  <-  answers:1f0c  [P NEWLINE answer]             <-  RPUSH
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeVar

import redis
from redis.asyncio import Redis as AsyncRedis

from realtime.cluster.clients import Script, Unavailable, ask, ask_blocking, is_misled
from realtime.cluster.contract import (
    ANSWER_TIMEOUT,
    CONNECTIONS_TTL,
    FORGET_AFTER,
    GONE_AFTER,
    PROCESSES,
    Answer,
    Answers,
    Beat,
)
from realtime.cluster.layer import key, layer_servers, no_key
from realtime.cluster.servers import Server

logger = logging.getLogger(__name__)

# Seconds in which a server that was away answers if it is back.
PING_TIMEOUT = 0.5
# Seconds that something that is counted while a client waits may take.
COUNT_TIMEOUT = 1.0
RETRY_INTERVAL = 1.0
# Seconds that a question waits to be taken, and an answer too.
QUESTION_TTL = 10
# Seconds for which one read waits for a question; less than a connection's time limit.
READ_TIMEOUT = 2
# After the list for the answers in a question, and after the process's name in an answer.
_SEPARATOR = b"\n"

_BEAT, _EXCHANGE, _ACQUIRE = (
    Script("realtime.cluster", name) for name in ("beat", "exchange", "acquire")
)

T = TypeVar("T")


class RedisCluster:
    """What processes share in the channel layer's servers; :class:`.LocalCluster` tells what.

    Each call of a server is one round trip.
    """

    is_shared = True

    def __init__(self) -> None:
        # Servers that did not answer when they were last asked.
        self._away: set[Server] = set()

    # Presence

    async def beat(self, work: str, member: str) -> Beat:
        """Write when the member was last there; look whether servers are back."""
        self._away.intersection_update(layer_servers())
        await asyncio.gather(*map(self._ping, self._away))
        was_gone, *names = await self._call(_BEAT, [work], member, GONE_AFTER, FORGET_AFTER)
        return Beat(sorted(name.decode() for name in names), bool(was_gone))

    async def leave(self, work: str, member: str) -> None:
        await self._ask(lambda client: client.zrem(key(work), member))

    # Questions

    async def listen(self, process: str, answer: Answer) -> None:
        while True:
            try:
                await ask(self._server(), lambda client: take_question(client, process, answer))
            except Unavailable as error:
                logger.debug("waiting for questions: %s", error)
                await asyncio.sleep(RETRY_INTERVAL)
            except Exception:
                logger.exception("answering a question")

    def ask_all(self, question: bytes) -> Answers:
        """Ask on each server: while one is away, processes listen on different ones."""
        by_process: dict[str, bytes] = {}
        missing: set[str] = set()
        for answers in _ask_each(lambda client: ask_processes(client, question)):
            by_process |= answers.by_process
            missing.update(answers.missing)
        return Answers(by_process, sorted(missing - by_process.keys()))

    # Figures

    async def exchange(self, process: str, figures: bytes) -> list[bytes]:
        """Write the process's figures and read all, in one round trip."""
        arguments = (process, figures, GONE_AFTER, FORGET_AFTER)
        return list(await self._call(_EXCHANGE, [PROCESSES, "figures"], *arguments))

    def read_figures(self) -> list[bytes]:
        """Read from each server: while one is away, processes report to different ones."""
        keys, bounds = [key(PROCESSES), key("figures")], (GONE_AFTER, FORGET_AFTER)
        parts = _ask_each(lambda client: _EXCHANGE.call(client, keys, "", b"", *bounds))
        return [figures for part in parts for figures in part]

    # Counting

    async def count(self, name: str, seconds: int) -> int:
        """Count in a key that expires when its period ends."""

        async def count(client: AsyncRedis) -> int:
            pipeline = client.pipeline(transaction=True)
            pipeline.set(key(name), 0, ex=seconds, nx=True)
            pipeline.incr(key(name))
            return int((await pipeline.execute())[1])

        return await self._ask(count, COUNT_TIMEOUT)

    async def acquire(self, holder: str, connection: str, process: str, limit: int) -> bool:
        """Count the holder's connections and add one, in one step."""
        names = [f"connections:{holder}", PROCESSES]
        arguments = (connection, process, limit, GONE_AFTER, CONNECTIONS_TTL)
        return bool(await self._call(_ACQUIRE, names, *arguments, seconds=COUNT_TIMEOUT))

    async def set_connections(self, process: str, changes: Mapping[tuple[str, str], bool]) -> None:

        async def write(client: AsyncRedis) -> None:
            pipeline = client.pipeline(transaction=False)
            for (holder, connection), is_held in changes.items():
                name, member = key(f"connections:{holder}"), f"{connection} {process}"
                if is_held:
                    pipeline.sadd(name, member)
                    pipeline.expire(name, CONNECTIONS_TTL)
                else:
                    pipeline.srem(name, member)
            await pipeline.execute()

        await self._ask(write)

    # Tables

    async def read_rows(self, table: str) -> dict[str, bytes]:
        rows: Any = await self._ask(lambda client: client.hgetall(key(table)))
        return {name.decode(): row for name, row in rows.items()}

    async def write_rows(
        self, table: str, rows: Mapping[str, bytes], removed: Collection[str], seconds: int
    ) -> None:

        async def write(client: AsyncRedis) -> None:
            pipeline = client.pipeline(transaction=False)
            for name, row in rows.items():
                pipeline.hset(key(table), name, row)
            if removed:
                pipeline.hdel(key(table), *removed)
            pipeline.expire(key(table), seconds)
            await pipeline.execute()

        await self._ask(write)

    # Servers

    def _server(self) -> Server:
        """Return the server to ask; the first of all if none is expected to answer."""
        servers = layer_servers()
        return next((server for server in servers if server not in self._away), servers[0])

    async def _call(
        self, script: Script, names: list[str], *arguments: Any, seconds: float | None = None
    ) -> Any:
        keys = list(map(key, names))
        return await self._ask(lambda client: script.acall(client, keys, *arguments), seconds)

    async def _ask(
        self, question: Callable[[AsyncRedis], Awaitable[T]], seconds: float | None = None
    ) -> T:
        """Ask the server; one that does not answer in time is avoided until it does."""
        server = self._server()
        try:
            async with asyncio.timeout(seconds):
                return await ask(server, question)
        except TimeoutError as error:
            self._away.add(server)
            raise Unavailable("no answer in time") from error
        except Unavailable as error:
            cause = error.__cause__
            if is_misled(cause) or not isinstance(cause, redis.ResponseError):  # an answer
                self._away.add(server)
            raise

    async def _ping(self, server: Server) -> None:
        """Find out whether a server is back."""
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(PING_TIMEOUT):
                await ask(server, lambda client: client.delete(no_key()))
                self._away.discard(server)


def _ask_each(question: Callable[[redis.Redis], T]) -> list[T]:
    """Return the answers of all servers that answer. Raises if none does."""
    answers: list[T] = []
    failure: Unavailable | None = None
    for server in layer_servers():
        try:
            answers.append(ask_blocking(server, question))
        except Unavailable as error:
            failure = error
    if failure is not None and not answers:
        raise failure
    return answers


async def take_question(client: AsyncRedis, process: str, answer: Answer) -> None:
    """Wait for a question to a process, and answer it if one comes."""
    taken: Any = await client.blpop([key(f"process:{process}")], timeout=READ_TIMEOUT)
    if taken is None:
        return
    answer_key, _, question = taken[1].partition(_SEPARATOR)
    pipeline = client.pipeline(transaction=True)
    pipeline.rpush(answer_key, process.encode() + _SEPARATOR + await answer(question))
    pipeline.expire(answer_key, QUESTION_TTL)
    await pipeline.execute()


def ask_processes(client: redis.Redis, question: bytes) -> Answers:
    """Ask all processes that a server knows; blocks until all have answered or had their time."""
    deadline = time.monotonic() + ANSWER_TIMEOUT
    seconds, _ = client.time()
    names: Any = client.zrangebyscore(key(PROCESSES), f"({seconds - GONE_AFTER}", "+inf")
    waiting = {name.decode() for name in names}
    answer_key = key(f"answers:{secrets.token_hex(8)}")
    pipeline = client.pipeline(transaction=False)
    for name in waiting:
        pipeline.rpush(key(f"process:{name}"), answer_key.encode() + _SEPARATOR + question)
        pipeline.expire(key(f"process:{name}"), QUESTION_TTL)
    pipeline.execute()
    by_process: dict[str, bytes] = {}
    while waiting and (left := deadline - time.monotonic()) > 0:
        taken: Any = client.blpop([answer_key], timeout=max(left, 0.01))
        if taken is not None:
            name, _, answer = taken[1].partition(_SEPARATOR)
            by_process[name.decode()] = answer
            waiting.discard(name.decode())
    return Answers(by_process, sorted(waiting))
