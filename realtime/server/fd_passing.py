"""The socket pair between a supervisor and one of its workers: connections one way, ends the other.

Connections go as file descriptors (unix(7), SCM_RIGHTS), one with each byte, so that whoever reads
a byte at a time gets them one by one. The worker answers a byte when it can serve, and one for each
connection that has ended. Neither end ever waits.
"""

from __future__ import annotations

import contextlib
import socket

CONNECTION = b"c"
READY = b"r"
ENDED = b"e"
READ = 65_536


def new_pair() -> tuple[socket.socket, socket.socket]:
    """Return the supervisor's end and the worker's."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


def hand_over(channel: socket.socket, connection: socket.socket) -> bool:
    """Give a worker a connection, to be closed here; tell whether there was room for it.

    Raises:
        OSError: the worker has ended.
    """
    try:
        socket.send_fds(channel, [CONNECTION], [connection.fileno()])
    except BlockingIOError:
        return False
    return True


def take_over(channel: socket.socket) -> int | None:
    """Return the descriptor of the next connection; ``None`` if there is none now.

    Raises:
        EOFError: the supervisor has ended.
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


class Answers:
    """The worker's answers; what there is no room for goes with the next."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting = b""

    def say(self, what: bytes) -> None:
        """Answer."""
        self._waiting += what
        with contextlib.suppress(OSError):  # full, or nobody listens any more
            self._waiting = self._waiting[self._channel.send(self._waiting) :]
