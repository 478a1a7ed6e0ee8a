"""The serving processes that share a channel layer: who runs, and questions to all of them.

Each process has a list in Redis from which it takes questions, and says every two seconds that it
runs. Lists and not a group of the channel layer, since a question is then kept while a process
reconnects, and one blocking read needs no probing whether a membership works. With a layer of one
process, that process is asked directly. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

import redis
from channels.layers import get_channel_layer

from realtime.cluster.clients import async_client, registry, sync_client
from realtime.cluster.servers import Server, has_servers, layer_config, layer_servers

logger = logging.getLogger(__name__)

# Seconds between signs of life, and after how many without one a process counts as gone.
BEAT_INTERVAL = 2.0
GONE_AFTER = 6
# How long a process that has gone is still listed, and how long a question waits to be taken.
FORGET_AFTER = 60
QUESTION_TTL = 10
# Seconds for which one read waits for a question; less than a connection's time limit.
READ_TIMEOUT = 2
RETRY_INTERVAL = 1.0
# Seconds in which a question is answered, or the process is named as one that did not answer.
ANSWER_TIMEOUT = 1.5
# After the key for the answer in a question, and the process's name in an answer.
_SEPARATOR = b"\n"

# Key: the processes. Arguments: this one, seconds until forgotten, seconds until gone. Returns
# whether the others may have taken this one for gone since it was last heard of.
_BEAT = """
local now = tonumber(redis.call('TIME')[1])
local last = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return (not last or now - last >= tonumber(ARGV[3])) and 1 or 0
"""

# Key: the processes. Argument: seconds until gone.
_RUNNING = """
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. redis.call('TIME')[1] - ARGV[1], '+inf')
"""

Answer = Callable[[bytes], Awaitable[bytes]]
T = TypeVar("T")


class Unanswered(Exception):
    """Nobody can be asked: the channel layer does not answer."""


class Answers(NamedTuple):
    """What the processes answered, by name, and which of them did not answer in time."""

    given: dict[str, bytes]
    missing: list[str]


def key(name: str) -> str:
    """Return the Redis key of what the processes share under *name*."""
    return f"{layer_config().get('prefix', 'asgi')}:{name}"


def processes_key() -> str:
    """Return the key of the sorted set of processes, by when they were last heard of."""
    return key("processes")


def _questions_key(name: str) -> str:
    return key(f"process:{name}")


class Process:
    """This process among the others. One for each event loop."""

    def __init__(self, answer: Answer) -> None:
        # Unique, and tells an operator which it is.
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._answer = answer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_known = False

    async def beat(self) -> bool:
        """Say that this process runs; tell whether the others may have taken it for gone."""
        if not has_servers(get_channel_layer()):
            return False
        await registry.look_for_servers()
        arguments = (self.name, FORGET_AFTER, GONE_AFTER)
        with registry.asking() as server:
            client = await async_client(server)
            was_gone = await client.eval(_BEAT, 1, processes_key(), *arguments)
        first, self._is_known = not self._is_known, True
        return bool(was_gone) and not first

    async def listen(self) -> None:
        """Answer questions until cancelled."""
        self._loop = asyncio.get_running_loop()
        _here.add(self)
        while has_servers(get_channel_layer()):
            try:
                await self._take()
            except (redis.RedisError, OSError) as error:
                logger.debug("waiting for questions: %s", error)
                await asyncio.sleep(RETRY_INTERVAL)
            except Exception:
                logger.exception("answering a question")

    async def _take(self) -> None:
        client = await async_client(registry.server())
        taken: Any = await client.blpop([_questions_key(self.name)], timeout=READ_TIMEOUT)
        if taken is None:
            return
        answer_key, _, question = taken[1].partition(_SEPARATOR)
        answer = self.name.encode() + _SEPARATOR + await self._answer(question)
        pipeline = client.pipeline(transaction=True)
        pipeline.rpush(answer_key, answer)
        pipeline.expire(answer_key, QUESTION_TTL)
        await pipeline.execute()

    async def leave(self) -> None:
        """Let the others know at once that this process has ended; as far as they can be told."""
        _here.discard(self)
        if not self._is_known:
            return
        with contextlib.suppress(redis.RedisError, OSError):
            async with asyncio.timeout(RETRY_INTERVAL):
                client = await async_client(registry.server())
                await client.zrem(processes_key(), self.name)

    def ask_here(self, question: bytes) -> bytes:
        """Return the answer, asked from another thread. Raises ``TimeoutError``."""

        async def answer() -> bytes:
            return await self._answer(question)

        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result(ANSWER_TIMEOUT)


class Membership:
    """One of those that share some work, known to the others under a name."""

    def __init__(self, work: str, member: str) -> None:
        self._key = key(work)
        self._member = member

    async def beat(self) -> list[str]:
        """Say that this one is there; return all that are, in the order of their names.

        Raises:
            redis.RedisError, OSError: the server does not answer.
        """
        await registry.look_for_servers()
        with registry.asking() as server:
            client = await async_client(server)
            await client.eval(_BEAT, 1, self._key, self._member, FORGET_AFTER, GONE_AFTER)
            names: Any = await client.eval(_RUNNING, 1, self._key, GONE_AFTER)
        return sorted(name.decode() for name in names)

    async def leave(self) -> None:
        """Let the others know at once. Raises as :meth:`beat`."""
        client = await async_client(registry.server())
        await client.zrem(self._key, self._member)


# Those of this interpreter that listen.
_here: WeakSet[Process] = WeakSet()


def ask_all(question: bytes) -> Answers:
    """Ask every process that runs; return when all have answered or had their time.

    Blocks, so not for an event loop.

    Raises:
        Unanswered: the channel layer does not answer.
    """
    if not has_servers(get_channel_layer()):
        return _ask_here(question)
    found = Answers({}, [])
    for answers in each_server(lambda server: _ask_there(server, question)):
        found.given.update(answers.given)
        found.missing.extend(answers.missing)
    return Answers(found.given, sorted(set(found.missing) - found.given.keys()))


def each_server(question: Callable[[Server], T]) -> list[T]:
    """Return the answers of the servers where processes may have met: where one is away, another.

    Raises:
        Unanswered: none of them answers.
    """
    answers: list[T] = []
    failure: Exception | None = None
    for server in layer_servers():
        try:
            answers.append(question(server))
        except (redis.RedisError, OSError) as error:
            failure = error
    if not answers:
        raise Unanswered(str(failure) or type(failure).__name__) from failure
    return answers


def _ask_here(question: bytes) -> Answers:
    answers = Answers({}, [])
    for process in list(_here):
        try:
            answers.given[process.name] = process.ask_here(question)
        except TimeoutError:
            answers.missing.append(process.name)
    return answers


def _ask_there(server: Server, question: bytes) -> Answers:
    client = sync_client(server)
    names: Any = client.eval(_RUNNING, 1, processes_key(), GONE_AFTER)
    answer_key = key(f"answers:{secrets.token_hex(8)}")
    deadline = time.monotonic() + ANSWER_TIMEOUT
    waiting = {name.decode() for name in names}
    pipeline = client.pipeline(transaction=False)
    for name in waiting:
        pipeline.rpush(_questions_key(name), answer_key.encode() + _SEPARATOR + question)
        pipeline.expire(_questions_key(name), QUESTION_TTL)
    pipeline.execute()
    given: dict[str, bytes] = {}
    while waiting and (left := deadline - time.monotonic()) > 0:
        taken: Any = client.blpop([answer_key], timeout=max(left, 0.01))
        if taken is not None:
            name, _, answer = taken[1].partition(_SEPARATOR)
            given[name.decode()] = answer
            waiting.discard(name.decode())
    return Answers(given, sorted(waiting))
