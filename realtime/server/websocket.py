"""One WebSocket connection under Daphne: its socket, its buffers, its closing.

Subclasses Daphne's protocol where that cannot do what the contract asks: close codes with
reasons, bounds in both directions, empty messages, closing frames on protocol errors. Knows bytes
and ASGI messages, nothing of what they mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from autobahn.twisted.websocket import ConnectionDeny
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import defer, reactor, tcp
from twisted.internet.protocol import connectionDone

from realtime.delivery.transport import TRANSPORT_EXTENSION
from realtime.protocol import CloseCode, CloseReason
from realtime.server.compression import takes_shared_frames
from realtime.server.fair_queue import FRAMES
from realtime.server.receive_queue import Inbox

logger = logging.getLogger(__name__)

# What a client may send ahead before its handshake is answered.
MAX_EARLY_BYTES = 64 * 1024
# What a client may still send after the server's close frame: the rest of a large message.
MAX_BYTES_AFTER_CLOSE = 8 * 1024 * 1024
# And how many frames, or parts of them, are read for its answer.
MAX_STEPS_AFTER_CLOSE = 2000
# Seconds until one who floods is cut: time for the close frame to arrive.
FLOOD_LINGER = 2.0
PING_FRAME = b"\x89\x00"
# Control frames and parts of messages of fewer bytes than this are counted, since each costs the
# loop what a message does and no other limit counts them: so many a minute, then it is flooding.
SMALL_PART = 512
SMALL_PARTS_PER_MINUTE = 1000
# What a client that has not authenticated may hold unfinished, and all of them together.
STRANGERS_BYTES = 64 * 1024
ALL_STRANGERS_BYTES = 64 * 1024 * 1024


# Attributes of a connection that outlive it.
_KEPT = ("_inbox", "_task", "client_addr", "path", "server")

# And what the base classes keep of a handshake, which nobody asks for after it.
_OF_HANDSHAKE = {
    "_raw_query_string",
    "_wskey",
    "http_headers",
    "http_request_data",
    "http_request_host",
    "http_request_params",
    "http_request_path",
    "http_request_uri",
    "http_response_data",
    "http_status_line",
    "request",
    "websocket_extensions",
    "websocket_extensions_in_use",
    "websocket_origin",
    "websocket_protocols",
}


def lowest_transport(transport: Any) -> Any:
    """Return the TCP connection under *transport*, which may be TLS; None if there is none."""
    while transport is not None and not isinstance(transport, tcp.Connection):
        transport = getattr(transport, "transport", None)
    return transport


class _Log:
    """The base class's log without what any client could fill it with."""

    def debug(self, *args: Any, **values: Any) -> None:
        """Drop the message."""

    info = warn = debug

    def error(self, message: str = "", **values: Any) -> None:
        """Log an error of the server."""
        logger.error("%s", message.format(**values))

    critical = failure = error


class StreamProtocol(WebSocketProtocol):
    """Daphne's WebSocket protocol with bounds, close codes and a direct way to the socket.

    It is the outlet of its consumer (:class:`realtime.delivery.transport.Transport`).
    Options such as the largest message are attributes of a subclass that the factory makes, so that
    connections do not each hold them.
    """

    log = _Log()
    state = WebSocketProtocol.STATE_CLOSED
    max_buffered_bytes = 1024 * 1024
    client_addr: list[Any] | None = None
    path = ""

    deflated = False
    bytes_sent = 0
    # Called when the client is gone, before the application reads of it.
    on_lost: Callable[[], None] | None = None
    # Called when the client is closed for what it sends or does not read.
    on_ended: Callable[[CloseReason], None] | None = None
    # The application's end of this connection; None until the handshake was read.
    _task: asyncio.Task[None] | None = None
    _handshake: defer.Deferred[Any] | None = None
    # No more is read: the application has enough to do; others have their turn.
    _reading_paused = False
    _waits_for_turn = False
    # The transport adds nothing to the bytes, so that they may go past it.
    _is_plain = False
    # The TCP connection at the bottom, whose buffer is what waits; None once it is gone.
    _lowest: Any = None
    _overflowed = False
    # Closed for flooding: nothing is read any more.
    _turned_away = False
    # Whether the client has authenticated.
    _is_trusted = False
    # Bytes of unfinished messages that count as strangers'.
    _unfinished = 0
    # The small parts since a monotonic time.
    _small_parts = 0
    _small_since = 0.0
    small_parts_per_minute = SMALL_PARTS_PER_MINUTE
    _bytes_after_close = 0
    _steps_after_close = 0
    # Open, and nothing waits in the transport: bytes may go to the socket at once.
    _clear = False
    # Monotonic times: when the next ping is due, and until when something must come after the
    # last (0 once it has). The factory acts on them.
    ping_due = 0.0
    pong_due = 0.0

    # The base class compares in Python, which is slow in dictionaries.
    __hash__ = object.__hash__
    __eq__ = object.__eq__

    @classmethod
    def configured(cls, factory: Any) -> type[StreamProtocol]:
        """Return a subclass that has the factory's options as attributes.

        The base class copies them to every connection, and formats them for a log that nobody
        reads: more work than the rest of the handshake.
        """
        options = {name: getattr(factory, name) for name in cls.CONFIG_ATTRS}
        attributes = {
            name: staticmethod(value) if callable(value) else value
            for name, value in options.items()
        }
        return type("ConfiguredStreamProtocol", (cls,), attributes | {"CONFIG_ATTRS": ()})

    # Handshake

    def onConnect(self, request: Any) -> defer.Deferred[Any]:
        """Start the application; the answer waits for it to accept."""
        self.server = self.factory.server_class
        self.request = request
        self._inbox = Inbox(self.factory.turns)
        # The HTTP channel is still registered and would go on pausing and resuming.
        self.transport.unregisterProducer()
        self._lowest = lowest_transport(self.transport)
        self._is_plain = self._lowest is self.transport and not self.transport.TLS
        if self._is_plain:
            self._send_now = self.transport.getHandle().send
        scope = self._scope(request)
        self._log("connecting")
        self._handshake = defer.Deferred()
        self._inbox.put({"type": "websocket.connect"}, 0)
        application = self.server.application(scope, self._receive, self._reply)
        self._task = asyncio.ensure_future(application)
        self._task.add_done_callback(self._application_done)
        return self._handshake

    def _scope(self, request: Any) -> dict[str, Any]:
        headers = [
            (name.lower().encode("ascii"), value.encode("latin1"))
            for name, value in request.headers.items()
            if "_" not in name  # CVE-2015-0219: underscores and dashes become alike
        ]
        self.path = request.path
        self.client_addr, server_addr = self._addresses()
        protocols = dict(headers).get(b"sec-websocket-protocol", b"").decode("latin1")
        return {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "ws",
            "path": unquote(request.path),
            "raw_path": request.path.encode("ascii"),
            "root_path": self.server.root_path,
            "headers": headers,
            "query_string": self._raw_query_string,  # set by Daphne's HTTP protocol
            "client": self.client_addr,
            "server": server_addr,
            "subprotocols": [name.strip() for name in protocols.split(",") if name.strip()],
            "extensions": {"websocket.http.response": {}, TRANSPORT_EXTENSION: self},
        }

    def _addresses(self) -> tuple[Any, Any]:
        """Return the two ends of the socket; whom a proxy speaks for is not decided here."""
        peer, host = self.transport.getPeer(), self.transport.getHost()
        client = server = None
        if hasattr(peer, "host") and hasattr(peer, "port"):
            client, server = [str(peer.host), peer.port], [str(host.host), host.port]
        return client, server

    def onOpen(self) -> None:
        """Begin to watch whether the client is alive."""
        # Anew, since a dictionary does not shrink.
        self.__dict__ = {
            name: value for name, value in self.__dict__.items() if name not in _OF_HANDSHAKE
        }
        self.deflated = takes_shared_frames(self._perMessageCompress)
        self.factory.opened(self)
        self._log("connected")

    # The application's side

    async def _receive(self) -> dict[str, Any]:
        """ASGI's ``receive``."""
        message = await self._inbox.get()
        if self._unfinished:
            self._count_unfinished()
        if self._reading_paused and self._inbox.is_low():
            self._resume_reading()
        return message

    def _resume_reading(self) -> None:
        if self._turned_away:
            return
        self._reading_paused = False
        self._wait_for_turn()

    async def _reply(self, message: dict[str, Any]) -> None:
        """ASGI's ``send``."""
        kind = message["type"]
        if kind == "websocket.accept":
            self._answer(message.get("subprotocol"))
        elif kind == "websocket.close":
            self._close(message.get("code") or 1000, message.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._deny(message["status"])
        elif kind == "websocket.send":
            text, data = message.get("text"), message.get("bytes")
            if self.state == self.STATE_OPEN:
                self.sendMessage(data if text is None else text.encode(), text is None)
        elif kind != "websocket.http.response.body":
            raise ValueError(f"unknown message type {kind!r}")

    def _answer(self, subprotocol: str | None) -> None:
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.callback(subprotocol)

    def _deny(self, status: int) -> None:
        """Answer the handshake with an HTTP status."""
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.errback(ConnectionDeny(code=status, reason="WebSocket refused"))
            self._log("rejected")

    def _application_done(self, task: asyncio.Task[None]) -> None:
        """Close what an application has left open, which it only does by failing."""
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("exception inside application", exc_info=task.exception())
        self._deny(500)
        self.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)

    # In

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of the client: a sign of life, whatever they are."""
        self.pong_due = 0.0
        if self.state == self.STATE_CLOSING:
            self._bytes_after_close += len(data)
            if self._bytes_after_close > MAX_BYTES_AFTER_CLOSE:
                self.dropConnection(abort=True)
                return
        if self._handshake is not None and len(self.data) > MAX_EARLY_BYTES:
            self.dropConnection(abort=True)
            return
        self._dataReceived(data)
        if not self._is_trusted:
            self._count_unfinished()

    def _count_unfinished(self) -> None:
        """Bound what strangers together make the server keep: who has more than his share ends."""
        if self.state != self.STATE_OPEN:
            return
        held = len(self.data) + len(self._inbox)
        if self.inside_message:
            held += self.message_data_total_length
            if self.current_frame is not None:  # counted whole, though it may only have begun
                held -= self.current_frame.length - self.current_frame_masker.pointer()
        total = self.factory.count_unfinished(held - self._unfinished)
        self._unfinished = held
        if held > STRANGERS_BYTES and total > ALL_STRANGERS_BYTES:
            self._end(CloseCode.TRY_AGAIN_LATER, CloseReason.CAPACITY)

    def trust(self) -> None:
        """Count the client no longer among the strangers."""
        self._is_trusted = True
        self.factory.count_unfinished(-self._unfinished)
        self._unfinished = 0

    def onFrameData(self, payload: bytes) -> bool | None:
        """Take a frame, or a part of one; too many small ones are a flood."""
        if len(payload) < SMALL_PART:
            frame, read = self.current_frame, self.current_frame_masker.pointer()
            if frame.opcode > 7 or not frame.fin or read < frame.length:
                self._count_small_part()
        result: bool | None = super().onFrameData(payload)
        return result

    def _count_small_part(self) -> None:
        now = time.monotonic()
        if now - self._small_since > 60:
            self._small_since, self._small_parts = now, 0
        self._small_parts += 1
        if self._small_parts > self.small_parts_per_minute and self.state == self.STATE_OPEN:
            self._end(CloseCode.POLICY_VIOLATION, CloseReason.FLOODING)

    def consumeData(self) -> None:
        """Read frames, until the application has enough to do.

        Bytes that come before the handshake is answered wait; the base class would take them for
        another handshake.
        """
        if self._handshake is not None:
            return
        if self.state not in (self.STATE_OPEN, self.STATE_CLOSING):
            super().consumeData()
            return
        if self._waits_for_turn:
            return
        steps = 0
        while not self._reading_paused and self.processData() and self.state:
            steps += 1
            if self.state == self.STATE_CLOSING:
                self._steps_after_close += 1
                if self._steps_after_close > MAX_STEPS_AFTER_CLOSE:
                    self.dropConnection(abort=True)
                    return
            if steps >= FRAMES:
                self.transport.pauseProducing()
                self._wait_for_turn()
                return

    def _wait_for_turn(self) -> None:
        if not self._waits_for_turn:
            self._waits_for_turn = True
            self.factory.turns.wait(self._take_turn)

    def _take_turn(self) -> None:
        """Read some more frames of a client that has sent many at once."""
        self._waits_for_turn = False
        if self._reading_paused or self._lowest is None:
            return
        self.consumeData()
        if not (self._reading_paused or self._waits_for_turn) and self._lowest is not None:
            self.transport.resumeProducing()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Hand a message to the application; after a close nothing is looked at."""
        if self._perMessageCompress is not None:
            self._perMessageCompress._decompressor = None  # 40 KB that an idle client need not hold
        if self.state != self.STATE_OPEN:
            return
        if isBinary:
            message = {"type": "websocket.receive", "bytes": payload}
        else:
            message = {"type": "websocket.receive", "text": payload.decode("utf8")}
        self._inbox.put(message, len(payload))
        if self._inbox.is_full():
            self._reading_paused = True
            self.transport.pauseProducing()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the consumer and the application that the client is gone."""
        self.factory.closed(self)
        self.trust()
        self._clear = False
        self._handshake = None
        if self.on_lost is not None:
            self.on_lost()
        self.on_lost = self.on_ended = None
        if self._task is None:
            return
        self._inbox.clear()
        # With what this end has closed, whether the client answered that or not.
        code = self.localCloseCode if self.closedByMe else code
        self._inbox.put({"type": "websocket.disconnect", "code": code or 1005}, 0)
        self._log("disconnected")

    def connectionLost(self, reason: Any = connectionDone) -> None:
        """Let go of all that the base classes hold, much of it in cycles with this object.

        What is left serves the application until it has read that the client is gone.
        """
        super().connectionLost(reason)
        self.__dict__ = {name: self.__dict__[name] for name in _KEPT if name in self.__dict__}

    # Out

    def write(self, frames: bytes) -> None:
        """Send complete frames; a client that lets too much pile up is closed.

        Every delivery comes through here, so the usual case is the first line.
        """
        if self._clear:
            try:
                sent = self._send_now(frames)
            except OSError as error:
                sent = 0
                if not isinstance(error, BlockingIOError):
                    self._clear = False  # the transport meets the error too, and reports the loss
            self.bytes_sent += sent
            if sent == len(frames):
                return
            self._buffer(frames[sent:], 0)
        elif self.state == self.STATE_OPEN:
            self._transmit(frames)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Send bytes of the base class: handshake, control frames; in order with the others."""
        self._transmit(data)

    def buffered_bytes(self) -> int:
        """Return how many bytes wait because the client does not read."""
        transport = self._lowest
        if transport is None:
            return 0
        return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)

    def _transmit(self, data: bytes) -> None:
        """Send bytes in any state: after what waits, at once if nothing does."""
        waiting = self.buffered_bytes()
        if self.state == self.STATE_OPEN and self._is_plain and not waiting:
            self._clear = True
            self.write(data)
        else:
            self._buffer(data, waiting)

    def _buffer(self, data: bytes, waiting: int) -> None:
        """Leave bytes to the transport, behind *waiting* others; close a client over its bound.

        One for whom nothing waits may always have one more write, however large.
        """
        self._clear = False
        if not waiting or waiting + len(data) <= self.max_buffered_bytes or self._overflowed:
            self.bytes_sent += len(data)
            self.transport.write(data)
        else:
            self.overflow()

    def overflow(self) -> None:
        """Close a client that does not read what it is sent; once or more."""
        if self._overflowed:
            return
        self._overflowed = True
        self._end(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)

    def _end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the client for what only this end of its connection sees."""
        self.close(code, reason)
        if self.on_ended is not None:
            self.on_ended(reason)

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        """Send the last frame: nothing goes past what is buffered any more."""
        super().sendCloseFrame(*args, **kwargs)
        self._clear = False

    def dropConnection(self, abort: bool = False) -> None:
        """Close the socket: by a reset only if the closing handshake has failed."""
        self._clear = False
        if self.wasClean and self.buffered_bytes():
            # The client has said goodbye, so may never read what still waits for it.
            reactor.callLater(self.closeHandshakeTimeout, self.transport.abortConnection)
        super().dropConnection(abort and not self.wasClean)

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Send a close frame after what is buffered; without an answer to it, cut the socket."""
        self._close(int(code), reason.value)
        if reason is CloseReason.FLOODING:
            self._turn_away()

    def _turn_away(self) -> None:
        """Read nothing more, not even the answer to the close frame: it has all been a flood."""
        if self.state != self.STATE_CLOSING:
            return
        self.data = b""
        self._turned_away = self._reading_paused = True
        self.transport.pauseProducing()
        if self._is_plain and not self.buffered_bytes():
            with contextlib.suppress(OSError):  # it has gone already
                self.transport.getHandle().shutdown(socket.SHUT_WR)
        reactor.callLater(FLOOD_LINGER, self._cut)

    def _cut(self) -> None:
        if self._lowest is not None:
            self.dropConnection(abort=True)

    def _close(self, code: int, reason: str) -> None:
        if self.state == self.STATE_CONNECTING:
            self._deny(403)
        elif self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:123] or None)
            if self._reading_paused:
                self._resume_reading()

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        """Close for an error in the client's bytes, with the contract's reason where it has one."""
        self.failedByMe = True
        if self.state == self.STATE_OPEN:
            too_big = code == CloseCode.MESSAGE_TOO_BIG
            self._close(code, CloseReason.TOO_BIG.value if too_big else reason)
        elif self.state == self.STATE_CLOSING:
            self.dropConnection(abort=False)

    # Keepalive

    def ping(self) -> None:
        """Send a ping frame."""
        if self.state == self.STATE_OPEN:
            self._transmit(PING_FRAME)

    def check_timeouts(self) -> None:
        """Do nothing: the base class's daily close is not wanted, pings are the factory's."""

    def _log(self, action: str) -> None:
        if self.server.action_logger:
            address = ":".join(map(str, self.client_addr)) if self.client_addr else None
            self.server.log_action("websocket", action, {"path": self.path, "client": address})
