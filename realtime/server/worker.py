"""The worker's side of ``serve --workers``: serves the connections that its supervisor takes.

Knows Twisted's connections and the channel to the supervisor; everything else is as in a process
that listens itself.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from daphne.server import reactor as installed_reactor
from twisted.internet import tcp

from realtime.server.fd_passing import ENDED, READY, Answers, take_over

# Twisted's reactor is what was installed as one.
reactor: Any = installed_reactor
# Connections taken before others have their turn.
AT_ONCE = 16


class Handed(tcp.Server):
    """A connection that was handed over; its end is told."""

    answers: Answers

    def connectionLost(self, reason: Any) -> None:
        """Tell the supervisor that there is room for another."""
        super().connectionLost(reason)
        self.answers.say(ENDED)


class Worker:
    """Takes connections from the supervisor until it ends, or until the server stops."""

    def __init__(self, descriptor: int, server: Any, stop: Callable[[], None]) -> None:
        self._channel = socket.socket(fileno=descriptor)
        self._channel.setblocking(False)
        self._answers = Answers(self._channel)
        self._server = server
        self._stop = stop
        reactor.addSystemEventTrigger("before", "shutdown", self.close)

    def start(self) -> None:
        """Say that this process can serve, and begin to take connections."""
        asyncio.get_running_loop().add_reader(self._channel, self._take)
        self._answers.say(READY)

    def close(self) -> None:
        """Take no more."""
        if self._channel.fileno() >= 0:
            reactor._asyncioEventloop.remove_reader(self._channel)
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
                # Twisted makes a descriptor of its own.
                connection = reactor.adoptStreamConnection(
                    descriptor, taken.family, self._server.http_factory
                )
        except OSError:  # the client has left already
            self._answers.say(ENDED)
            return
        connection.__class__ = Handed  # Twisted names no other way
        connection.answers = self._answers
