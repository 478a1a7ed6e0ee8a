"""HTTP connections under Daphne: requests are read in turn and in bounded time.

Every WebSocket begins as such a connection; event streams and uploads stay one. Daphne reads all of
a body before it calls the application. For the requests that :func:`arrives_in_parts` selects, the
application is called when the headers are there, and a client waits while it takes no bytes.
"""

from __future__ import annotations

import asyncio
import io
import socket
import time
from functools import partial
from typing import Any

from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import reactor
from twisted.internet import task
from twisted.web import http

from realtime.server import patches
from realtime.sessions.node import get_node

# Seconds in which a request must have arrived, headers and body.
REQUEST_TIMEOUT = 20.0
# Bytes of a connection's first request that may come before its turn: what headers may have.
MOST_BEFORE_TURN = 16 * 1024
# Paths whose bodies are handed to the application as they arrive, as on the request line.
PATHS = b"/api/publish/"
# Bytes of a body that may wait for the application before no more are read.
MOST_WAITING = 256 * 1024
# Seconds for which a body that was answered early is still read, and thrown away: a connection
# that is closed while bytes are under way is reset, and the answer is lost (RFC 9112, section 9.6).
LINGER = 5.0


def arrives_in_parts(channel: Any, request: Any) -> bool:
    """Tell whether the request whose headers have come is served before its body has."""
    command, path, _ = patches.request_line(channel)
    return bool(
        command == b"POST"
        and path.startswith(PATHS)
        and channel.length != 0
        and not request.requestHeaders.hasHeader(b"Upgrade")
    )


class Body:
    """A body under way. Daphne uses it in place of the queue that an application reads."""

    def __init__(self, source: Any) -> None:
        # The connection, which can be told to pause.
        self._source = source
        self._waiting = bytearray()
        # How many bytes may wait. None until the application asks: it may not want the body.
        self._most = 0
        self._has_news = asyncio.Event()
        self._is_gone = False
        self._is_unwanted = False
        self._is_paused = False
        self.is_complete = False

    def feed(self, part: bytes) -> None:
        if self._is_unwanted:
            return
        self._waiting += part
        if len(self._waiting) > self._most and not self._is_paused:
            self._is_paused = True
            self._source.pauseProducing()
        self._has_news.set()

    def complete(self) -> None:
        self.is_complete = True
        self._has_news.set()

    def drop(self) -> None:
        self._is_unwanted = True
        self._take()

    def put_nowait(self, message: dict[str, Any]) -> None:
        """Take a message of Daphne's: only that the client is gone, the body is known here."""
        if message["type"] == "http.disconnect":
            self._is_gone = True
            self._has_news.set()

    async def receive(self) -> dict[str, Any]:
        """Wait for more of the body and return it: ASGI's ``receive``."""
        self._most = MOST_WAITING
        while not (self._waiting or self.is_complete or self._is_gone):
            self._has_news.clear()
            await self._has_news.wait()
        if not self._waiting and self._is_gone:
            return {"type": "http.disconnect"}
        more = not self.is_complete
        return {"type": "http.request", "body": self._take(), "more_body": more}

    def _take(self) -> bytes:
        taken = bytes(self._waiting)
        self._waiting.clear()
        if self._is_paused:
            self._is_paused = False
            self._source.resumeProducing()
        return taken


class StreamRequest(WebRequest):
    """A request whose application waits while the client does not read the response."""

    # Set while the transport takes more of a response that streams, and once the client is gone;
    # None for other responses.
    has_room: asyncio.Event | None = None
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
        if self.body is None:
            super().handleContentChunk(data)
        else:
            self.body.feed(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
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
        if message.get("more_body") and self.has_room is None and self.channel is not None:
            self.has_room = asyncio.Event()
            self.has_room.set()
            self.registerProducer(self, True)
            connection = patches.lowest_transport(self.transport)
            if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
                # WebSockets are pinged; the client of an event stream sends nothing. The system
                # ends a connection that no longer acknowledges what it is sent.
                config = get_node().policy.config
                timeout = int((config.ping_interval + config.ping_timeout) * 1000)
                option = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                connection.getHandle().setsockopt(*option, timeout)

    def pauseProducing(self) -> None:
        if self.has_room is not None:
            self.has_room.clear()

    def resumeProducing(self) -> None:
        if self.has_room is not None:
            self.has_room.set()

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
        if self.has_room is not None:
            self.unregisterProducer()
        super().finish()

    def connectionLost(self, reason: Any) -> None:
        """Let the application go on, to read that the client is gone."""
        if self._late_end is not None and self._late_end.active():
            self._late_end.cancel()
        self.resumeProducing()
        super().connectionLost(reason)


def make_application(server: Any, protocol: Any, scope: dict[str, Any]) -> Any:
    """Call the application for a request; return what Daphne puts its messages into."""
    body = getattr(protocol, "body", None)
    if body is None:
        return patches.create_application(server, protocol, scope)
    scope.setdefault("asgi", {"version": "3.0"})
    application = server.application(
        scope=scope, receive=body.receive, send=partial(server.handle_reply, protocol)
    )
    patches.note_application(server, protocol, asyncio.ensure_future(application))
    return body


async def reply_when_read(server: Any, protocol: Any, message: dict[str, Any]) -> None:
    """ASGI's ``send`` for HTTP: unlike Daphne's own, it waits while the client does not read."""
    await patches.handle_reply(server, protocol, message)
    if isinstance(protocol, StreamRequest) and protocol.has_room is not None:
        await protocol.has_room.wait()


class StreamChannel(http.HTTPChannel):
    """An HTTP connection whose requests have to arrive in bounded time.

    Twisted's own limit is for silence: a byte now and then would keep a connection forever.
    """

    factory: StreamHTTPFactory

    # What has come of the first request before its turn; None once it had its turn.
    _beginning: bytes | None = b""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.expect(self)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of a request; the first waits for its turn, until which not much is read."""
        if self._beginning is None:
            super().dataReceived(data)
            return
        if not self._beginning:
            self.factory.server.ws_factory.fair_queue.add(self._begin)
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

        Else a proxy, which keeps connections, would go on to ask a server that is about to end.
        """
        self.is_retiring = True
        for channel in list(self._awaited):
            if channel.is_idle():
                channel.loseConnection()

    def startFactory(self) -> None:
        super().startFactory()
        self._watch.start(1.0, now=False)

    def stopFactory(self) -> None:
        super().stopFactory()
        if self._watch.running:
            self._watch.stop()

    def buildProtocol(self, addr: Any) -> Any:
        connection = super().buildProtocol(addr)
        channel = patches.http_channel(connection)
        patches.change_class(channel, StreamChannel)
        channel.factory = self
        connection.requestFactory = StreamRequest
        return connection

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
