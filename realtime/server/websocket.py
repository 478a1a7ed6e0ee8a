"""One WebSocket connection under Daphne: its handshake, its application and its closing.

Wires the reading side (:mod:`realtime.server.incoming`) and the writing side
(:mod:`realtime.server.outgoing`) to Autobahn. Knows bytes and ASGI messages, not what they mean.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from urllib.parse import unquote

from autobahn.twisted.websocket import ConnectionDeny
from daphne.server import reactor
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import defer
from twisted.internet.protocol import connectionDone

from realtime.delivery.transport import TRANSPORT_EXTENSION
from realtime.protocol import CloseCode, CloseReason
from realtime.server import patches
from realtime.server.incoming import SMALL_PART, Incoming
from realtime.server.outgoing import Outgoing, takes_shared_frames

logger = logging.getLogger(__name__)

# Bytes that a client may send ahead before its handshake is answered.
MAX_EARLY_BYTES = 64 * 1024
# Seconds until a client that floods is cut: time for the close frame to arrive.
FLOOD_LINGER = 2.0


class _QuietLog:
    """Autobahn's log without what any client could fill it with: only errors are logged."""

    debug = info = warn = staticmethod(lambda *args, **values: None)

    def error(self, message: str = "", **values: Any) -> None:
        logger.error("%s", message.format(**values))

    critical = failure = error


class StreamProtocol(WebSocketProtocol):
    """Daphne's WebSocket protocol with bounds, close codes and a direct way to the socket.

    ``outgoing`` is the outlet of its consumer. Options such as the largest message are attributes
    of a subclass that the factory makes, so that connections do not each hold them.
    """

    log = _QuietLog()
    state = WebSocketProtocol.STATE_CLOSED
    max_buffered_bytes = 1024 * 1024
    incoming: Incoming
    outgoing: Outgoing
    # The application's end of this connection; None until the handshake was read.
    _task: asyncio.Task[None] | None = None
    # Fires when the application has answered the handshake; None at other times.
    _handshake: defer.Deferred[Any] | None = None
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

        The base class copies them to every connection and formats them for a log: much work.
        """
        attributes: dict[str, Any] = {"CONFIG_ATTRS": ()}
        for name in cls.CONFIG_ATTRS:
            value = getattr(factory, name)
            attributes[name] = staticmethod(value) if callable(value) else value
        return type("ConfiguredStreamProtocol", (cls,), attributes)

    # Handshake

    def connectionMade(self) -> None:
        self.outgoing = Outgoing(self)
        self.incoming = Incoming(self, self.factory.fair_queue)
        super().connectionMade()

    def onConnect(self, request: Any) -> defer.Deferred[Any]:
        """Start the application; the answer waits for it to accept."""
        self.server = self.factory.server_class
        # The HTTP channel is still registered and would go on pausing and resuming.
        self.transport.unregisterProducer()
        scope = _make_scope(self, request)
        self.path, self.client_addr = request.path, scope["client"]
        self._log("connecting")
        self._handshake = defer.Deferred()
        self.incoming.put({"type": "websocket.connect"})
        application = self.server.application(scope, self.incoming.receive, self._reply)
        self._task = asyncio.ensure_future(application)
        self._task.add_done_callback(self._application_done)
        return self._handshake

    def onOpen(self) -> None:
        """Begin to watch whether the client is alive."""
        patches.forget_handshake(self)
        self.outgoing.deflated = takes_shared_frames(patches.agreed_compression(self))
        self.factory.opened(self)
        self._log("connected")

    # The application's side

    async def _reply(self, message: dict[str, Any]) -> None:
        """Do what the application asks: ASGI's ``send``."""
        kind = message["type"]
        if kind == "websocket.accept":
            handshake, self._handshake = self._handshake, None
            if handshake is not None:
                handshake.callback(message.get("subprotocol"))
        elif kind == "websocket.close":
            self.close(message.get("code") or 1000, message.get("reason") or "")
        elif kind == "websocket.http.response.start":
            self._deny(message["status"])
        elif kind == "websocket.send":
            text, data = message.get("text"), message.get("bytes")
            if self.state == self.STATE_OPEN:
                self.sendMessage(data if text is None else text.encode(), text is None)
        elif kind != "websocket.http.response.body":
            raise ValueError(f"unknown message type {kind!r}")

    def _deny(self, status: int) -> None:
        """Answer the handshake with an HTTP status, if it waits for an answer."""
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
        incoming = self.incoming
        is_too_much = (
            self.state == self.STATE_CLOSING and not incoming.is_allowed_after_close(len(data))
        ) or (self._handshake is not None and len(self.data) > MAX_EARLY_BYTES)
        if is_too_much:
            self.dropConnection(abort=True)
            return
        patches.feed(self, data)
        if not incoming.is_trusted:
            incoming.count_unfinished()

    def consumeData(self) -> None:
        """Read frames, as many as :class:`Incoming` allows.

        Bytes that come before the handshake is answered wait: they are no other handshake.
        """
        if self.state in (self.STATE_OPEN, self.STATE_CLOSING):
            self.incoming.read()
        elif self._handshake is None:
            super().consumeData()

    def onFrameData(self, payload: bytes) -> bool | None:
        if len(payload) < SMALL_PART and patches.is_control_or_partial(self):
            self.incoming.count_small_part()
        result: bool | None = super().onFrameData(payload)
        return result

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Hand a message to the application; after a close nothing is looked at."""
        patches.free_decompressor(self)
        if self.state != self.STATE_OPEN:
            return
        if isBinary:
            message = {"type": "websocket.receive", "bytes": payload}
        else:
            message = {"type": "websocket.receive", "text": payload.decode("utf8")}
        self.incoming.put(message, len(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the consumer and the application that the client is gone."""
        self._handshake = None
        self.factory.closed(self)
        self.outgoing.lose()
        # With what this end has closed, whether the client answered that or not.
        self.incoming.lose((self.localCloseCode if self.closedByMe else code) or 1005)
        if self._task is not None:
            self._log("disconnected")

    def connectionLost(self, reason: Any = connectionDone) -> None:
        """Keep nothing but the application, which has yet to read that the client is gone."""
        super().connectionLost(reason)
        patches.forget_all_but(self, "_task")

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Send bytes of the base class: handshake, control frames; in order with the others."""
        self.outgoing.send(data)

    # The end

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        super().sendCloseFrame(*args, **kwargs)
        self.outgoing.stop_direct()

    def dropConnection(self, abort: bool = False) -> None:
        """Close the socket: by a reset only if the closing handshake has failed."""
        self.outgoing.stop_direct()
        if self.wasClean and self.outgoing.buffered_bytes():
            # The client has said goodbye, so may never read what still waits for it.
            reactor.callLater(self.closeHandshakeTimeout, self.transport.abortConnection)
        super().dropConnection(abort and not self.wasClean)

    def close(self, code: int, reason: str) -> None:
        """Send a close frame after what is buffered; without an answer to it, cut the socket.

        A client that floods is read no more, so its answer is not waited for.
        """
        if self.state == self.STATE_CONNECTING:
            self._deny(403)
        elif self.state == self.STATE_OPEN:
            self.sendCloseFrame(code=int(code), reasonUtf8=reason.encode()[:123] or None)
            self.incoming.resume()
            if reason is CloseReason.FLOODING:
                self.data = b""
                self.incoming.refuse()
                self.outgoing.shut_down()
                reactor.callLater(FLOOD_LINGER, self._cut)

    def _cut(self) -> None:
        if self.state == self.STATE_CLOSING:
            self.dropConnection(abort=True)

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        """Close for an error in the client's bytes, with the contract's reason where it has one."""
        self.failedByMe = True
        if self.state == self.STATE_OPEN:
            is_too_big = code == CloseCode.MESSAGE_TOO_BIG
            self.close(code, CloseReason.TOO_BIG if is_too_big else reason)
        elif self.state == self.STATE_CLOSING:
            self.dropConnection(abort=False)

    def _log(self, action: str) -> None:
        if self.server.action_logger:
            address = ":".join(map(str, self.client_addr)) if self.client_addr else None
            self.server.log_action("websocket", action, {"path": self.path, "client": address})


def _make_scope(connection: StreamProtocol, request: Any) -> dict[str, Any]:
    """Return the ASGI scope of a connection whose handshake is *request* (Autobahn's)."""
    headers = [
        (name.lower().encode("ascii"), value.encode("latin1"))
        for name, value in request.headers.items()
        if "_" not in name  # CVE-2015-0219: underscores and dashes become alike
    ]
    protocols = dict(headers).get(b"sec-websocket-protocol", b"").decode("latin1")
    # Whom a proxy speaks for is not decided here. A Unix socket has neither host nor port.
    ends = [connection.transport.getPeer(), connection.transport.getHost()]
    has_ports = hasattr(ends[0], "host") and hasattr(ends[0], "port")
    client, server = [[str(end.host), end.port] if has_ports else None for end in ends]
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": unquote(request.path),
        "raw_path": request.path.encode("ascii"),
        "root_path": connection.server.root_path,
        "headers": headers,
        "query_string": patches.query_string(connection),
        "client": client,
        "server": server,
        "subprotocols": [name.strip() for name in protocols.split(",") if name.strip()],
        "extensions": {"websocket.http.response": {}, TRANSPORT_EXTENSION: connection.outgoing},
    }
