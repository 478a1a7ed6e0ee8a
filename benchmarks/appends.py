"""What a Valkey takes in at most: the calls of ``publish``, prepared beforehand and sent in a row.

A publisher in Python cannot keep a Valkey busy, so this sends what it would send, many at a time on
one connection for each shard, without waiting for each answer.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Sequence

import redis

from benchmarks import message
from benchmarks.opening import TIMEOUT
from benchmarks.wire import LoadError

# Bytes on their way to a server, about.
PIECE = 64 * 1024
# An answer: an epoch of 16 characters, an offset of 20 digits, 13 of a time, colons between them.
_ANSWER = len(b"$51\r\n") + 51 + len(b"\r\n")


class Appends:
    """Calls that append to the log of a type and announce it, on the server that has the type."""

    def __init__(self, port: int, kind: str, calls: int, batch: int) -> None:
        # The very calls that RedisLog.append makes.
        from realtime.log.redis import APPEND, append_call
        from realtime.protocol import encode_payload
        from realtime.publishing.publication import Publication

        with redis.Redis(port=port) as client:
            digest = client.script_load(APPEND.text)
        commands = []
        for number in range(calls):
            events = map(message.event, range(number * batch, (number + 1) * batch))
            append = Publication(kind, [encode_payload(event) for event in events], None).append
            _, keys, arguments = append_call(append)
            commands.append(_command(["EVALSHA", digest, len(keys), *keys, *arguments]))
        self._calls = memoryview(b"".join(commands))
        self._sent = 0
        self._due = calls * _ANSWER
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self.socket.setblocking(False)

    def step(self) -> int:
        """Take what has been answered, send more; return what to wait for: nothing at the end."""
        with contextlib.suppress(BlockingIOError):
            answers = self.socket.recv(PIECE)
            # An error begins with a minus sign, which no position has.
            if not answers or b"-" in answers:
                raise LoadError(f"a call failed: {answers!r}")
            self._due -= len(answers)
        with contextlib.suppress(BlockingIOError):
            self._sent += self.socket.send(self._calls[self._sent : self._sent + PIECE])
        if not self._due:
            return 0
        return select.EPOLLIN | (select.EPOLLOUT if self._sent < len(self._calls) else 0)


def send_all(shards: Sequence[Appends]) -> float:
    """Send every call to its shard; return the seconds until the last answer."""
    waiting = {shard.socket.fileno(): shard for shard in shards}
    epoll = select.epoll()
    for fd in waiting:
        epoll.register(fd, select.EPOLLIN | select.EPOLLOUT)
    start = time.monotonic()
    while waiting:
        for fd, _ in epoll.poll(TIMEOUT):
            if following := waiting[fd].step():
                epoll.modify(fd, following)
            else:
                epoll.unregister(fd)
                del waiting[fd]
    seconds = time.monotonic() - start
    for shard in shards:
        shard.socket.close()
    return seconds


def _command(parts: Sequence[object]) -> bytes:
    """Write a command as the server reads it (valkey.io/topics/protocol)."""
    texts = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    lines = [b"*%d" % len(texts)]
    for text in texts:
        lines += [b"$%d" % len(text), text]
    return b"\r\n".join([*lines, b""])
