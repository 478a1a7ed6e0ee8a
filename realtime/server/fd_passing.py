"""The socket pair between a supervisor and one of its workers.

Connections go to the worker as file descriptors (unix(7), SCM_RIGHTS), each with one byte, so that
reading a byte at a time yields one connection at a time. The worker sends one byte when it is
ready, and one for each connection that has ended. Neither end ever waits.
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
    """Hand a worker a connection; tell whether there was room for it.

    If there was, the caller must close its own end.

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


class ReportSender:
    """Sends the worker's reports; those for which there is no room go with the next."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting = b""

    def send(self, report: bytes) -> None:
        """Send :data:`READY` or :data:`ENDED`."""
        self._waiting += report
        with contextlib.suppress(OSError):  # full, or nobody listens any more
            self._waiting = self._waiting[self._channel.send(self._waiting) :]
