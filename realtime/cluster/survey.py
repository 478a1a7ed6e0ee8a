"""Questions to all processes over lists in Redis; nothing of what is asked.

Each process has a list from which it takes questions; a question names the list that its answers go
to. They are lists and not a group of the channel layer, since a list keeps a question while its
process reconnects, and reading from it needs no probe that shows whether a membership works.

::

    who asks                      Redis                            process P
    RPUSH  ->  process:P   [answers:1f0c NEWLINE question]  ->  BLPOP
    BLPOP  <-  answers:1f0c  [P NEWLINE answer]             <-  RPUSH
"""

from __future__ import annotations

import secrets
import time
from typing import Any

import redis
from redis.asyncio import Redis as AsyncRedis

from realtime.cluster.contract import ANSWER_TIMEOUT, GONE_AFTER, PROCESSES, Answer, Answers
from realtime.cluster.layer import key

# Seconds that a question waits to be taken, and an answer too.
QUESTION_TTL = 10
# Seconds for which one read waits for a question; less than a connection's time limit.
READ_TIMEOUT = 2
# After the list for the answers in a question, and after the process's name in an answer.
_SEPARATOR = b"\n"


def _questions_key(process: str) -> str:
    return key(f"process:{process}")


async def take_question(client: AsyncRedis, process: str, answer: Answer) -> None:
    """Wait for a question to a process, and answer it if one comes."""
    taken: Any = await client.blpop([_questions_key(process)], timeout=READ_TIMEOUT)
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
        pipeline.rpush(_questions_key(name), answer_key.encode() + _SEPARATOR + question)
        pipeline.expire(_questions_key(name), QUESTION_TTL)
    pipeline.execute()
    by_process: dict[str, bytes] = {}
    while waiting and (left := deadline - time.monotonic()) > 0:
        taken: Any = client.blpop([answer_key], timeout=max(left, 0.01))
        if taken is not None:
            name, _, answer = taken[1].partition(_SEPARATOR)
            by_process[name.decode()] = answer
            waiting.discard(name.decode())
    return Answers(by_process, sorted(waiting))
