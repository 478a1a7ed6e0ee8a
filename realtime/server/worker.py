"""The worker's side of ``serve --workers``: serves the connections that its supervisor accepts.

Knows Twisted's connections and the channel to the supervisor; nothing of what is served, which is
the same as in a process that listens itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from daphne.server import reactor
from twisted.internet import tcp

from realtime.server import patches
from realtime.server.supervisor import ENDED, READY

# Connections that are taken before the event loop serves others.
AT_ONCE = 16


def take_over(channel: socket.socket) -> int | None:
    """Return the descriptor of the next connection, if there is one.

    Raises ``EOFError`` when the supervisor has ended.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    except BlockingIOError:
        return None
    except OSError:
        raise EOFError from None
    if not data:
        raise EOFError
    return descriptors[0] if descriptors else None


class ReportSender:
    """Sends the worker's reports; those for which there is no room go with the next."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting = b""

    def send(self, report: bytes) -> None:
        self._waiting += report
        with contextlib.suppress(OSError):  # full, or nobody listens any more
            self._waiting = self._waiting[self._channel.send(self._waiting) :]


class HandedConnection(tcp.Server):
    """A connection that was handed over; the supervisor is told when it ends."""

    reports: ReportSender

    def connectionLost(self, reason: Any) -> None:
        super().connectionLost(reason)
        self.reports.send(ENDED)


class Worker:
    """Takes connections from the supervisor until it ends, or until the server stops."""

    def __init__(self, descriptor: int, server: Any, stop: Callable[[], None]) -> None:
        self._channel = socket.socket(fileno=descriptor)
        self._channel.setblocking(False)
        self._reports = ReportSender(self._channel)
        self._server = server
        self._stop = stop
        self._loop: asyncio.AbstractEventLoop | None = None
        reactor.addSystemEventTrigger("before", "shutdown", self.close)

    def start(self) -> None:
        """Say that this process can serve, and begin to take connections."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel, self._take)
        self._reports.send(READY)

    def close(self) -> None:
        if self._channel.fileno() >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._channel)
            self._channel.close()

    def _take(self) -> None:
        try:
            for _ in range(AT_ONCE):
                descriptor = take_over(self._channel)
                if descriptor is None:
                    return
                self._adopt(descriptor)
        except EOFError:  # nobody is there who would start this worker again
            self.close()
            self._stop()

    def _adopt(self, descriptor: int) -> None:
        try:
            with socket.socket(fileno=descriptor) as taken:
                # Twisted duplicates the descriptor.
                connection = reactor.adoptStreamConnection(
                    descriptor, taken.family, self._server.http_factory
                )
        except OSError:  # the client has left already
            self._reports.send(ENDED)
        else:
            patches.change_class(connection, HandedConnection)
            connection.reports = self._reports
