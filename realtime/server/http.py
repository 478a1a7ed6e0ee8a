"""HTTP connections under Daphne: requests are read in turn and in bounded time.

Subclasses Twisted's and Daphne's classes. Every WebSocket begins as such a connection; event
streams and uploads stay one. Knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
import io
import socket
import time
from collections.abc import Callable
from typing import Any

from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import reactor
from twisted.internet import task
from twisted.web import http

from realtime.server import patches
from realtime.server.body import LINGER, Body, arrives_in_parts
from realtime.sessions.node import get_node

# Seconds in which a request must have arrived, headers and body.
REQUEST_TIMEOUT = 20.0
# Bytes of a connection's first request that may come before its turn: what headers may have.
MOST_BEFORE_TURN = 16 * 1024


class StreamRequest(WebRequest):
    """A request whose application waits while the client does not read the response."""

    # Set while the transport takes more of a response that streams; None for other responses.
    _has_room: asyncio.Event | None = None
    # The body, if the request is served before all of it has come.
    body: Body | None = None
    # The timer that ends a response which was complete before the body was.
    _late_end: Any = None

    def process(self) -> Any:
        """Serve the request; a client may not say where the site is mounted."""
        self.requestHeaders.removeHeader(b"Daphne-Root-Path")
        return super().process()

    def begin(self, command: bytes, uri: bytes, version: bytes) -> None:
        """Serve the request before its body has come."""
        self.body = Body(patches.producer(self.channel))
        self.content: Any
        self.content.close()  # a file, which a body goes into otherwise
        self.content = io.BytesIO()
        super().requestReceived(command, uri, version)

    def handleContentChunk(self, data: bytes) -> None:
        """Take a part of the body."""
        if self.body is None:
            super().handleContentChunk(data)
        else:
            self.body.feed(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Serve a request that is complete, unless it is being served already."""
        if self.body is None:
            super().requestReceived(command, path, version)
            return
        self.body.complete()
        if self._late_end is not None:
            self._late_end.reset(0)

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Send a part of the response; begin to watch the client when the response streams."""
        if self._is_answered_early() and message["type"] == "http.response.start":
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
            self.channel.persistent = False
        super().handle_reply(message)
        if message.get("more_body") and self._has_room is None and self.channel is not None:
            self._has_room = asyncio.Event()
            self._has_room.set()
            self.registerProducer(self, True)
            _give_up_on_the_dead(patches.lowest_transport(self.transport))

    async def until_it_has_room(self) -> None:
        """Wait while the client leaves too much unread, but not once it is gone."""
        if self._has_room is not None:
            await self._has_room.wait()

    def pauseProducing(self) -> None:
        """Note that the client leaves too much unread."""
        if self._has_room is not None:
            self._has_room.clear()

    def resumeProducing(self) -> None:
        """Note that the client reads, or that it is gone."""
        if self._has_room is not None:
            self._has_room.set()

    stopProducing = resumeProducing

    def _is_answered_early(self) -> bool:
        return self.body is not None and not self.body.is_complete and self.channel is not None

    def finish(self) -> None:
        """End the response; if the body has not come yet, when it has, or after some seconds."""
        if self._is_answered_early() and self._late_end is None:
            assert self.body is not None
            self.body.drop()
            self._late_end = reactor.callLater(LINGER, self.finish)
            return
        if self._has_room is not None:
            self.unregisterProducer()
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        """Let the application go on, to read that the client is gone."""
        if self._late_end is not None and self._late_end.active():
            self._late_end.cancel()
        self.resumeProducing()
        super().connectionLost(reason)


def _give_up_on_the_dead(connection: Any) -> None:
    """Let the system end a connection that no longer acknowledges what it is sent.

    WebSockets are pinged instead; the client of an event stream sends nothing.
    """
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        config = get_node().policy.config
        milliseconds = int((config.ping_interval + config.ping_timeout) * 1000)
        connection.getHandle().setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


async def reply_when_read(server: Any, protocol: Any, message: dict[str, Any]) -> None:
    """ASGI's ``send`` for HTTP: unlike Daphne's own, it waits while the client does not read."""
    await patches.handle_reply(server, protocol, message)
    if isinstance(protocol, StreamRequest):
        await protocol.until_it_has_room()


class StreamChannel(http.HTTPChannel):
    """An HTTP connection whose requests have to arrive in bounded time.

    Twisted's own limit is for silence: a byte now and then would keep a connection forever, and
    one that has not become a WebSocket counts nowhere.
    """

    factory: StreamHTTPFactory

    # What has come of the first request before its turn; None once it had its turn.
    _beginning: bytes | None = b""

    def connectionMade(self) -> None:
        """Wait for the first request."""
        super().connectionMade()
        self.factory.expect(self)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of a request; the first request waits for its turn in the fair queue.

        Many clients may come at once. Until its turn not much of a request is read, since it may be
        a body that nobody wants.
        """
        if self._beginning is None:
            super().dataReceived(data)
            return
        if not self._beginning:
            self.factory.begin_in_turn(self._begin)
        self._beginning += data
        if len(self._beginning) > MOST_BEFORE_TURN:
            patches.producer(self).pauseProducing()

    def _begin(self) -> None:
        data, self._beginning = self._beginning, None
        if data and self.transport is not None:
            if len(data) > MOST_BEFORE_TURN:
                patches.producer(self).resumeProducing()
            super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        """Serve a request whose body is read as it comes, however long that takes."""
        super().allHeadersReceived()
        request = self.requests[-1]
        if arrives_in_parts(self, request):
            self.factory.expect_no_longer(self)
            self.setTimeout(None)
            request.begin(*patches.request_line(self))

    def allContentReceived(self) -> None:
        """Serve a request that is complete, handshakes among them."""
        self.factory.expect_no_longer(self)
        super().allContentReceived()

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Tell whether another request may follow; none does when the server is about to end."""
        follows: bool = super().checkPersistence(request, version)
        return follows and not self.factory.is_retiring

    def requestDone(self, request: Any) -> None:
        """Wait for another request, unless this was the last or the next has come already."""
        if self.factory.is_retiring:
            self.persistent = False
        if self.persistent:
            self.factory.expect(self)
        super().requestDone(request)

    def is_idle(self) -> bool:
        """Tell whether requests have been answered and none has begun since."""
        return self._beginning is None and not self.requests and not patches.unread(self)

    def connectionLost(self, reason: Any) -> None:
        """Forget the connection."""
        self._beginning = b""
        self.factory.expect_no_longer(self)
        super().connectionLost(reason)


class StreamHTTPFactory(HTTPFactory):
    """Makes HTTP connections, of which some become WebSockets."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        # Connection -> when its next request must have come; the earliest is first.
        self._awaited: dict[StreamChannel, float] = {}
        self._watch = task.LoopingCall(self._cut_late)
        self.is_retiring = False

    def retire(self) -> None:
        """Close connections on which no request is under way; the others end with their requests.

        A proxy keeps connections to use them again, and would go on to ask a server that is about
        to end.
        """
        self.is_retiring = True
        for channel in list(self._awaited):
            if channel.is_idle():
                channel.loseConnection()

    def startFactory(self) -> None:
        """Begin to look for late requests."""
        super().startFactory()
        self._watch.start(1.0, now=False)

    def stopFactory(self) -> None:
        """Stop looking."""
        super().stopFactory()
        if self._watch.running:
            self._watch.stop()

    def buildProtocol(self, addr: Any) -> Any:
        """Return a connection."""
        connection = super().buildProtocol(addr)
        channel = patches.http_channel(connection)
        patches.change_class(channel, StreamChannel)
        channel.factory = self
        connection.requestFactory = StreamRequest
        return connection

    def begin_in_turn(self, begin: Callable[[], None]) -> None:
        """Let a new connection's first request be read when it is its turn."""
        self.server.ws_factory.fair_queue.add(begin)

    def expect(self, channel: StreamChannel) -> None:
        """Give a connection time to send a request."""
        self._awaited.pop(channel, None)
        self._awaited[channel] = time.monotonic() + REQUEST_TIMEOUT

    def expect_no_longer(self, channel: StreamChannel) -> None:
        """Expect no request of a connection; once or more."""
        self._awaited.pop(channel, None)

    def _cut_late(self) -> None:
        now = time.monotonic()
        while self._awaited:
            channel, deadline = next(iter(self._awaited.items()))
            if deadline > now:
                break
            del self._awaited[channel]
            channel.forceAbortClient()
