"""What is sent on one WebSocket connection: straight to the socket, or into a bounded buffer.

Knows frames and the transport; nothing of what the frames say.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from realtime.protocol import CloseCode, CloseReason
from realtime.server import patches

PING_FRAME = b"\x89\x00"


class Outgoing:
    """The outlet of a consumer (:class:`realtime.delivery.transport.Transport`).

    While nothing waits in the transport's buffer, frames go past it to the socket. A client that
    lets more than ``max_buffered_bytes`` of its connection pile up is closed.
    """

    __slots__ = (
        "_connection",
        "_is_direct",
        "_is_overflowed",
        "_send_now",
        "_tcp",
        "bytes_sent",
        "deflated",
        "on_ended",
        "on_lost",
    )

    def __init__(self, connection: Any) -> None:
        # The protocol; None once the client is gone, so that the two do not keep each other.
        self._connection = connection
        # The TCP connection at the bottom, whose buffer holds what waits.
        self._tcp = patches.lowest_transport(connection.transport)
        # Sends past the transport, which for TLS is not possible.
        is_plain = self._tcp is connection.transport and self._tcp is not None
        self._send_now = self._tcp.getHandle().send if is_plain and not self._tcp.TLS else None
        # The connection is open and nothing waits: bytes may go to the socket at once.
        self._is_direct = False
        self._is_overflowed = False
        # Whether the client takes compressed frames that all share.
        self.deflated = False
        self.bytes_sent = 0
        # Called when the client is gone, before the application reads of it.
        self.on_lost: Callable[[], None] | None = None
        # Called when the client is closed for what it sends or does not read.
        self.on_ended: Callable[[CloseReason], None] | None = None

    def write(self, frames: bytes) -> None:
        """Send complete frames, mostly at once; drop them if the connection is not open."""
        if self._is_direct:
            try:
                sent: int = self._send_now(frames)  # type: ignore[misc] # set where it is direct
            except OSError as error:
                sent = 0
                if not isinstance(error, BlockingIOError):
                    self._is_direct = False  # the transport meets the error too, and reports it
            self.bytes_sent += sent
            if sent == len(frames):
                return
            self._buffer(frames[sent:], 0)
        elif self._is_open():
            self.send(frames)

    def send(self, data: bytes) -> None:
        """Send bytes in any state of the connection, after everything that waits."""
        waiting = self.buffered_bytes()
        if self._send_now is not None and not waiting and self._is_open():
            self._is_direct = True
            self.write(data)
        else:
            self._buffer(data, waiting)

    def _is_open(self) -> bool:
        connection = self._connection
        return connection is not None and connection.state == connection.STATE_OPEN

    def _buffer(self, data: bytes, waiting: int) -> None:
        """Leave bytes to the transport, behind *waiting* others; close a client over its bound.

        A client for which nothing waits may always have one more write, however large.
        """
        self._is_direct = False
        connection = self._connection
        limit = connection.max_buffered_bytes
        if not waiting or waiting + len(data) <= limit or self._is_overflowed:
            self.bytes_sent += len(data)
            connection.transport.write(data)
        else:
            self.overflow()

    def buffered_bytes(self) -> int:
        """Return how many bytes wait because the client does not read."""
        return 0 if self._tcp is None else patches.buffered_bytes(self._tcp)

    def overflow(self) -> None:
        """Close a client that does not read what it is sent; once or more."""
        if not self._is_overflowed:
            self._is_overflowed = True
            self.end(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the client for what only this end of its connection sees."""
        self.close(code, reason)
        if self.on_ended is not None:
            self.on_ended(reason)

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Send a close frame after what is buffered; without an answer to it, cut the socket."""
        if self._connection is not None:
            self._connection.close(code, reason)

    def trust(self) -> None:
        """Take the client for one that has authenticated."""
        if self._connection is not None:
            self._connection.incoming.trust()

    # For the protocol

    def ping(self) -> None:
        """Send a ping frame, if the connection is open."""
        if self._is_open():
            self.send(PING_FRAME)

    def stop_direct(self) -> None:
        """Send nothing past the transport any more: the connection is being closed."""
        self._is_direct = False

    def shut_down(self) -> None:
        """End the stream towards the client now, if nothing waits before its end."""
        if self._send_now is not None and not self.buffered_bytes():
            with contextlib.suppress(OSError):  # the client has left already
                self._tcp.getHandle().shutdown(socket.SHUT_WR)

    def lose(self) -> None:
        """Tell the consumer that the client is gone; drop what is written from now on."""
        self._is_direct = False
        if self.on_lost is not None:
            self.on_lost()
        self.on_lost = self.on_ended = None
        self._connection = self._tcp = self._send_now = None
