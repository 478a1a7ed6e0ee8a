"""Daphne's server, subclassed: its factories, keepalive and the orderly end on SIGTERM.

Knows connections and the reactor; what a restart means to a client is the node's and the
consumer's. :func:`install` makes any Daphne in this process use the factories, the ``daphne``
command's too.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import daphne.server
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketFactory
from twisted.internet import defer, reactor, task, tcp
from twisted.web import http

from realtime.compression import accept_deflate, refuse_compression
from realtime.config import WebSocketConfig, get_streaming_config
from realtime.connection import StreamProtocol, lowest_transport
from realtime.node import get_node
from realtime.turns import Turns
from realtime.uploads import LINGER, Body, arrives_in_parts, make_application

logger = logging.getLogger(__name__)

KEEPALIVE_INTERVAL = 0.25
BACKLOG = 4096
DRAIN_LOOK_INTERVAL = 0.02
# Seconds in which a worker answers the requests that came before its drain as if there were none.
LAST_ANSWERS = 0.25
# Of the time for a drain, when clients must have closed, and when this process's own end is due.
CLIENTS_SHARE = 0.8
OWN_SHARE = 0.95
SHORTEST_END = 1.0
# Seconds in which a request must have arrived, headers and body.
REQUEST_TIMEOUT = 20.0
# Bytes of a connection's first request that may come before its turn: what headers may have.
MOST_BEFORE_TURN = 16 * 1024


class StreamFactory(WebSocketFactory):
    """Makes the connections of one server and looks after all of them."""

    protocol = StreamProtocol

    def __init__(self, server: Any, /, *args: Any, **kwargs: Any) -> None:
        # Open connections in the order in which their next pings are due.
        self.connections: OrderedDict[StreamProtocol, None] = OrderedDict()
        # Those that were pinged and may not have answered, in the order of their deadlines.
        self._awaited: OrderedDict[StreamProtocol, None] = OrderedDict()
        self._keepalive = task.LoopingCall(self._keep_alive)
        self._unfinished = 0
        self.turns = Turns()
        super().__init__(server, *args, **kwargs)
        reactor.addSystemEventTrigger("before", "shutdown", self.drain)

    def setProtocolOptions(self, **options: Any) -> None:
        """Take Daphne's options, but for those that the configuration decides."""
        config = get_streaming_config().websocket
        options |= {
            "allowNullOrigin": True,
            "failByDrop": False,
            "autoPingInterval": 0,
            "autoPingTimeout": 0,
            # Autobahn's timers go off up to a second early.
            "closeHandshakeTimeout": config.close_timeout + 1,
            "perMessageCompressionAccept": accept_deflate
            if config.compression
            else refuse_compression,
        }
        super().setProtocolOptions(**options)
        self.protocol = StreamProtocol.configured(self)
        self._apply_limits(config)
        self._keepalive.start(KEEPALIVE_INTERVAL, now=False)

    def _apply_limits(self, config: WebSocketConfig) -> None:
        """Let the limits in force hold, for the connections there are too."""
        self.protocol.maxMessagePayloadSize = config.max_message_size
        self.protocol.maxFramePayloadSize = config.max_message_size
        self.protocol.max_buffered_bytes = config.max_buffered_bytes

    def opened(self, connection: StreamProtocol) -> None:
        """Begin to look after a connection."""
        self.connections[connection] = None
        connection.ping_due = time.monotonic() + get_node().policy.config.ping_interval

    def closed(self, connection: StreamProtocol) -> None:
        """Stop looking after a connection; once or more."""
        self.connections.pop(connection, None)
        self._awaited.pop(connection, None)

    def _keep_alive(self) -> None:
        config = get_node().policy.config
        self._apply_limits(config)
        now = time.monotonic()
        self._drop_silent(now)
        while self.connections:
            connection = next(iter(self.connections))
            if connection.ping_due > now:
                break
            connection.ping_due = now + config.ping_interval
            self.connections.move_to_end(connection)
            if not connection.pong_due:
                connection.pong_due = now + config.ping_timeout
                self._awaited[connection] = None
                self._awaited.move_to_end(connection)
            connection.ping()

    def _drop_silent(self, now: float) -> None:
        """Drop the connections from which nothing has come in time after a ping."""
        while self._awaited:
            connection = next(iter(self._awaited))
            if connection.pong_due > now:
                break
            del self._awaited[connection]
            if connection.pong_due:  # else something came
                connection.dropConnection(abort=True)

    def count_unfinished(self, more: int) -> int:
        """Count bytes that clients who have not authenticated make the server keep."""
        self._unfinished += more
        return self._unfinished

    def drain(self) -> defer.Deferred[Any]:
        """Take no more connections and end those there are; fires when they are gone.

        Clients get ``restarting``, then 1012, a few at a time. Those that have not closed in most
        of ``drain_timeout`` are cut, and so are HTTP requests that have no answer by then.
        """
        return defer.Deferred.fromFuture(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        node = get_node()
        started, allowed = time.monotonic(), node.policy.config.drain_timeout
        await _stop_listening()
        if getattr(self.server_class, "is_worker", False):
            await self._leave_requests_to_others(started + LAST_ANSWERS)
        await node.drain()
        deadline = started + allowed * CLIENTS_SHARE
        await asyncio.sleep(DRAIN_LOOK_INTERVAL)  # what is being sent to and fro arrives
        while self._is_busy() and time.monotonic() < deadline:  # noqa: ASYNC110 - rare, and short
            await asyncio.sleep(DRAIN_LOOK_INTERVAL)
        for connection in list(self.connections):
            connection.dropConnection(abort=True)
        for request in _requests(self.server_class):
            request.cancel()
        ends = started + max(allowed * OWN_SHARE, SHORTEST_END)
        with contextlib.suppress(TimeoutError):  # database or channel layer do not answer
            async with asyncio.timeout(ends - time.monotonic()):
                await node.close()

    async def _leave_requests_to_others(self, until: float) -> None:
        """Answer what has come, and take no more requests: the others of the host are ready.

        A process that listens itself goes on to answer on connections that are kept: that it
        drains, for one.
        """
        self.server_class.http_factory.retire()
        while _requests(self.server_class) and time.monotonic() < until:  # noqa: ASYNC110 - short
            await asyncio.sleep(DRAIN_LOOK_INTERVAL)

    def _is_busy(self) -> bool:
        """Tell whether a connection is open or an HTTP request under way."""
        return bool(self.connections or _requests(self.server_class))


class StreamRequest(WebRequest):
    """A request whose application waits while the client does not read the response."""

    # Set while the transport takes more.
    _flows: asyncio.Event | None = None
    # Of a request that is served before all of it has come.
    body: Body | None = None
    # The end of a response that came before the end of the body, when it is due.
    _late_end: Any = None

    def process(self) -> Any:
        """Serve it; where the site is mounted is not a client's to say."""
        self.requestHeaders.removeHeader(b"Daphne-Root-Path")
        return super().process()

    def begin(self, command: bytes, uri: bytes, version: bytes) -> None:
        """Serve it though its body has yet to come."""
        self.body = Body(self.channel._networkProducer)
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
        """Serve a request that is complete, unless that has begun."""
        if self.body is None:
            super().requestReceived(command, path, version)
            return
        self.body.complete()
        if self._late_end is not None:
            self._late_end.reset(0)

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Send a part of the response; the first of one that streams begins to watch."""
        if self._answers_early() and message["type"] == "http.response.start":
            self.responseHeaders.setRawHeaders(b"connection", [b"close"])
            self.channel.persistent = False
        super().handle_reply(message)
        if message.get("more_body") and self._flows is None and self.channel is not None:
            self._flows = asyncio.Event()
            self._flows.set()
            self.registerProducer(self, True)
            _give_up_on_the_dead(lowest_transport(self.transport))

    async def until_it_flows(self) -> None:
        """Wait while the client leaves too much unread; not once it is gone."""
        if self._flows is not None:
            await self._flows.wait()

    def pauseProducing(self) -> None:
        """The transport has enough."""
        if self._flows is not None:
            self._flows.clear()

    def resumeProducing(self) -> None:
        """The transport takes more, or it does not matter any more."""
        if self._flows is not None:
            self._flows.set()

    stopProducing = resumeProducing

    def _answers_early(self) -> bool:
        return self.body is not None and not self.body.is_complete and self.channel is not None

    def finish(self) -> None:
        """End the response; if more of the body is to come, when it has, or a while later."""
        if self._answers_early() and self._late_end is None:
            assert self.body is not None
            self.body.drop()
            self._late_end = reactor.callLater(LINGER, self.finish)
            return
        if self._flows is not None:
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

    A WebSocket is pinged; of an event stream's client nothing else is heard.
    """
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        config = get_node().policy.config
        milliseconds = int((config.ping_interval + config.ping_timeout) * 1000)
        connection.getHandle().setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


_reply_at_once = daphne.server.Server.handle_reply


async def _reply_when_read(server: Server, protocol: Any, message: dict[str, Any]) -> None:
    """ASGI's ``send`` for HTTP: unlike Daphne's own, it waits while the client does not read."""
    await _reply_at_once(server, protocol, message)
    if isinstance(protocol, StreamRequest):
        await protocol.until_it_flows()


class StreamChannel(http.HTTPChannel):
    """An HTTP connection whose requests have to arrive in bounded time.

    Twisted's own limit is for silence: a byte now and then would keep a connection forever, and
    one that has not become a WebSocket counts nowhere.
    """

    factory: StreamHTTPFactory

    # What has come of the first request, until it is its turn; None once it was.
    _beginning: bytes | None = b""

    def connectionMade(self) -> None:
        """Wait for the first request."""
        super().connectionMade()
        self.factory.expect(self)

    def dataReceived(self, data: bytes) -> None:
        """Take bytes of a request; the first in its turn, since a crowd may come at once.

        Until then not much is read: it may be a body that nobody wants.
        """
        if self._beginning is None:
            super().dataReceived(data)
            return
        if not self._beginning:
            self.factory.begin_in_turn(self._begin)
        self._beginning += data
        if len(self._beginning) > MOST_BEFORE_TURN:
            self._networkProducer.pauseProducing()

    def _begin(self) -> None:
        data, self._beginning = self._beginning, None
        if data and self.transport is not None:
            if len(data) > MOST_BEFORE_TURN:
                self._networkProducer.resumeProducing()
            super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        """Serve a request whose body is to be read as it comes; it may take its time."""
        super().allHeadersReceived()
        request = self.requests[-1]
        if arrives_in_parts(self, request):
            self.factory.expect_no_longer(self)
            self.setTimeout(None)
            request.begin(self._command, self._path, self._version)

    def allContentReceived(self) -> None:
        """Serve a request that is complete, handshakes among them."""
        self.factory.expect_no_longer(self)
        super().allContentReceived()

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        """Tell whether another request may follow; none does when the server is about to end."""
        follows: bool = super().checkPersistence(request, version)
        return follows and not self.factory.retiring

    def requestDone(self, request: Any) -> None:
        """Wait for another request, unless this was the last or the next has come already."""
        if self.factory.retiring:
            self.persistent = False
        if self.persistent:
            self.factory.expect(self)
        super().requestDone(request)

    def is_idle(self) -> bool:
        """Tell whether requests have been answered and none has begun since."""
        return self._beginning is None and not self.requests and not self._dataBuffer

    def connectionLost(self, reason: Any) -> None:
        """Wait no longer."""
        self._beginning = b""
        self.factory.expect_no_longer(self)
        super().connectionLost(reason)


class StreamHTTPFactory(HTTPFactory):
    """Makes HTTP connections, of which some become WebSockets."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        # Connections -> when the request they are to send must have come; the next is first.
        self._awaited: dict[StreamChannel, float] = {}
        self._watch = task.LoopingCall(self._cut_late)
        self.retiring = False

    def retire(self) -> None:
        """Let go of connections on which no request is under way; the others end with theirs.

        A proxy keeps them to use again, and would go on to ask a server that is about to end.
        """
        self.retiring = True
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
        connection._channel.__class__ = StreamChannel  # Twisted names no other way
        connection._channel.factory = self
        connection.requestFactory = StreamRequest
        return connection

    def begin_in_turn(self, begin: Callable[[], None]) -> None:
        """Let a new connection's first request be read when it is its turn."""
        self.server.ws_factory.turns.wait(begin)

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


class StreamServer(Server):
    """Daphne's server for this project."""

    def __init__(
        self,
        application: Any,
        endpoints: Iterable[str],
        *,
        on_listening: Callable[[str, int], None] | None = None,
        **options: Any,
    ) -> None:
        install()
        self._on_listening = on_listening
        self.failure = ""
        listens_to = [*map(_with_backlog, endpoints)]
        # Daphne exits without any; a worker is given its connections.
        super().__init__(application, listens_to or ["none"], **options)
        self.endpoints = listens_to
        self.is_worker = not listens_to

    def listen_success(self, port: Any) -> None:
        """Say where the server listens, once it does."""
        super().listen_success(port)
        address = port.getHost()
        if self._on_listening is not None and hasattr(address, "port"):
            self._on_listening(address.host, address.port)

    def listen_error(self, failure: Any) -> None:
        """Remember why the server cannot listen, and stop.

        The log says it too, unless there is someone who asked to know.
        """
        self.failure = failure.getErrorMessage()
        if self._on_listening is None:
            super().listen_error(failure)
        else:
            self.stop()

    def application_checker(self) -> None:
        """Forget requests that have ended.

        One that became a WebSocket is not used again but would hold itself, its HTTP channel and
        its headers in cycles until the garbage collector runs.
        """
        upgraded = [
            request
            for request, details in self.connections.items()
            if "disconnected" in details and request.application_queue is None
        ]
        super().application_checker()
        for request in upgraded:
            if request not in self.connections:
                if request.channel is not None:
                    vars(request.channel).clear()
                vars(request).clear()

    def kill_all_applications(self) -> None:
        """Leave the HTTP requests under way to the drain, which lets them end first.

        The base class cancels them at once, and fails if one has only begun.
        """


def _with_backlog(endpoint: str) -> str:
    """Let more connections wait to be accepted than Twisted's 50.

    Beyond, the system drops a client's first packet, and the client tries again after a second or
    three: a crowd that comes back together, or a short pause of the loop, is enough.
    """
    if endpoint.startswith("tcp:") and ":backlog=" not in endpoint:
        return f"{endpoint}:backlog={BACKLOG}"
    return endpoint


def _requests(server: Server) -> list[asyncio.Task[Any]]:
    """Return the applications that serve HTTP requests."""
    applications = [details.get("application_instance") for details in server.connections.values()]
    return [task for task in applications if task is not None and not task.done()]


async def _stop_listening() -> None:
    """Close the sockets this process listens on: who is told to leave must not come back here.

    Daphne does not keep them; the reactor does.
    """
    loop = asyncio.get_running_loop()
    for port in [reader for reader in reactor.getReaders() if isinstance(reader, tcp.Port)]:
        await defer.maybeDeferred(port.stopListening).asFuture(loop)


def install() -> None:
    """Make every Daphne server of this process use this module's factories, and its ASGI."""
    daphne.server.WebSocketFactory = StreamFactory
    daphne.server.HTTPFactory = StreamHTTPFactory
    daphne.server.Server.handle_reply = _reply_when_read
    daphne.server.Server.create_application = make_application
