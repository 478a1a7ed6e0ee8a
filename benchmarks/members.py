"""Serving processes without clients, as a Valkey sees them: members of a group, and their reports.

A member is a connection of its own, subscribed to the group of a type; what comes is counted and
dropped. ``live`` does what a process without clients does besides: it says that it runs, reports
its figures, reads those of all, and asks for the newest offset of each type.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Awaitable, Callable

from benchmarks.opening import TIMEOUT
from benchmarks.wire import LoadError

READ = 256 * 1024
# Seconds between looks. Members of a real cluster are on other machines: that theirs has to be
# woken for a message costs Valkey nothing.
LOOK_INTERVAL = 0.005
# What precedes a message in the protocol (valkey.io/topics/pubsub).
_MESSAGE = b"*3\r\n$7\r\nmessage\r\n"


class Members:
    """So many members of a group, whose Redis channel it is."""

    def __init__(self, port: int, channel: str, count: int) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            member = socket.create_connection(("127.0.0.1", port), TIMEOUT)
            member.sendall(f"SUBSCRIBE {channel}\r\n".encode())
            answer = b""
            while not answer.endswith(b":1\r\n"):
                answer += member.recv(READ)
            member.setblocking(False)
            self._sockets[member.fileno()] = member
            self._epoll.register(member, select.EPOLLIN)

    def take(self, messages: int) -> None:
        """Return when every member has received so many messages, all of the same bytes."""
        witness_fd = next(iter(self._sockets))
        witness = b""
        received = dict.fromkeys(self._sockets, 0)
        until = time.monotonic() + TIMEOUT
        while witness.count(_MESSAGE) < messages or min(received.values()) < len(witness):
            time.sleep(LOOK_INTERVAL)
            for fd, _ in self._epoll.poll(0):
                data = self._sockets[fd].recv(READ)
                received[fd] += len(data)
                if fd == witness_fd:
                    witness += data
            if time.monotonic() > until:
                raise LoadError("a member has not received what was published")
        if len(set(received.values())) != 1 or witness.count(_MESSAGE) != messages:
            raise LoadError("members received different messages")

    def close(self) -> None:
        """Leave."""
        for member in self._sockets.values():
            member.close()


async def live(count: int, seconds: float) -> None:
    """Live as so many processes for some seconds, each at moments of its own."""
    from realtime.cluster import BEAT_INTERVAL
    from realtime.cluster.clients import close_async_clients
    from realtime.delivery.broker import HEAD_INTERVAL
    from realtime.log import get_log
    from realtime.protocol import SUBSCRIPTION_TYPES

    async def look() -> None:
        await get_log().heads(SUBSCRIPTION_TYPES)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for number in range(count):
                share = number / count
                group.create_task(_every(BEAT_INTERVAL, share, _reporter()))
                group.create_task(_every(HEAD_INTERVAL, share, look))
    await close_async_clients()


async def _every(seconds: float, share: float, work: Callable[[], Awaitable[None]]) -> None:
    """Work so often, from a share of the interval on."""
    due = time.monotonic() + share * seconds
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += seconds
        await work()


def _reporter() -> Callable[[], Awaitable[None]]:
    """Return what a process does every two seconds."""
    from realtime.cluster import Membership
    from realtime.monitoring.metrics import Counters
    from realtime.monitoring.snapshot import Sampler, exchange

    process = Membership()
    sampler = Sampler(process.name, Counters(is_running=True))

    async def report() -> None:
        await process.beat()
        await exchange(await sampler.take_snapshot([], False))

    return report
