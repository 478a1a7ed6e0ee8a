"""What is sent on one WebSocket connection: straight to the socket, or into a bounded buffer.

Knows frames, whether they may be compressed, and the transport; nothing of what the frames say.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

from realtime.protocol import CloseCode, CloseReason
from realtime.server import patches

PING_FRAME = b"\x89\x00"


@dataclass(slots=True, eq=False)
class Outgoing:
    """The outlet of a consumer (:class:`realtime.delivery.transport.Transport`).

    While nothing waits in the transport's buffer, frames go past it to the socket. A client that
    lets more than ``max_buffered_bytes`` of its connection pile up is closed.
    """

    # The protocol; None once the client is gone, so that the two do not keep each other.
    _connection: Any
    # The TCP connection at the bottom, whose buffer holds what waits.
    _tcp: Any = field(init=False)
    # Sends past the transport; None for TLS, where that is not possible.
    _send_now: Any = field(init=False)
    # The connection is open and nothing waits: bytes may go to the socket at once.
    _is_direct: bool = False
    _is_overflowed: bool = False
    # Whether the client takes compressed frames that all share.
    deflated: bool = False
    bytes_sent: int = 0
    # Called when the client is gone, before the application reads of it.
    on_lost: Callable[[], None] | None = None
    # Called when the client is closed for what it sends or does not read.
    on_ended: Callable[[CloseReason], None] | None = None

    def __post_init__(self) -> None:
        transport = self._connection.transport
        self._tcp = patches.lowest_transport(transport)
        is_plain = self._tcp is transport and self._tcp is not None and not self._tcp.TLS
        self._send_now = self._tcp.getHandle().send if is_plain else None

    def write(self, frames: bytes) -> None:
        """Send complete frames, mostly at once; drop them if the connection is not open."""
        if self._is_direct:
            try:
                sent: int = self._send_now(frames)
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
        return 0 if self._tcp is None else patches.buffered_bytes(self._tcp)

    def overflow(self) -> None:
        """Close a client that does not read what it is sent; once or more."""
        if not self._is_overflowed:
            self._is_overflowed = True
            self.end(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the client for what only this end of the connection sees."""
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

    def ping(self) -> None:
        if self._is_open():
            self.send(PING_FRAME)

    def stop_direct(self) -> None:
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


class _DeflateAccept(PerMessageDeflateOfferAccept):
    """Accepts permessage-deflate without context takeover in either direction.

    So a message is compressed once for all clients, and an idle client holds no window.
    """

    def get_extension_string(self) -> str:
        """Return the parameters of the answer; a server may add these unasked (RFC 7692, 7.1.1)."""
        answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
        window = self.offer.request_max_window_bits
        return f"{answer}; server_max_window_bits={window}" if window else answer


def accept_deflate(offers: list[Any]) -> _DeflateAccept | None:
    """Return the acceptance of the first offer that does not ask for a smaller window, or of any.

    A client with a smaller window gets its messages uncompressed: all share the compressed frames.
    """
    offers = [offer for offer in offers if isinstance(offer, PerMessageDeflateOffer)]
    if not offers:
        return None
    best = min(offers, key=lambda offer: bool(offer.request_max_window_bits))
    window = best.request_max_window_bits or None
    return _DeflateAccept(
        best, request_no_context_takeover=True, no_context_takeover=True, window_bits=window
    )


def takes_shared_frames(compression: Any) -> bool:
    """Tell whether a connection can take the frames that all share: they need the full window."""
    return compression is not None and compression.server_max_window_bits in (0, 15)
