"""Daphne's server, subclassed: its factories, keepalive and the orderly end on SIGTERM.

Knows connections and the reactor; nothing of what a restart means to a client, which the node and
the consumer know. :func:`install` makes any Daphne in this process use the factories, also that of
the ``daphne`` command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from daphne import server as daphne_server
from daphne.server import Server, reactor
from daphne.ws_protocol import WebSocketFactory
from twisted.internet import defer, task, tcp

from realtime.config import WebSocketConfig, get_streaming_config
from realtime.server import patches
from realtime.server.http import StreamHTTPFactory, make_application, reply_when_read
from realtime.server.incoming import FairQueue
from realtime.server.outgoing import accept_deflate
from realtime.server.websocket import StreamProtocol
from realtime.sessions.node import get_node

logger = logging.getLogger(__name__)

KEEPALIVE_INTERVAL = 0.25
BACKLOG = 4096
DRAIN_LOOK_INTERVAL = 0.02
# Seconds in which a worker that drains still answers the requests that have come before.
LAST_ANSWERS = 0.25
# Shares of the time for a drain after which clients must have closed, and this process must end.
CLIENTS_SHARE = 0.8
OWN_SHARE = 0.95
SHORTEST_END = 1.0


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
        self.fair_queue = FairQueue()
        super().__init__(server, *args, **kwargs)
        reactor.addSystemEventTrigger("before", "shutdown", self.drain)

    def setProtocolOptions(self, **options: Any) -> None:
        """Take Daphne's options, except those that the configuration decides."""
        config = get_streaming_config().websocket
        options |= {
            "allowNullOrigin": True,
            "failByDrop": False,
            "autoPingInterval": 0,
            "autoPingTimeout": 0,
            # Autobahn's timers go off up to a second early.
            "closeHandshakeTimeout": config.close_timeout + 1,
            "perMessageCompressionAccept": accept_deflate if config.compression else lambda _: None,
        }
        super().setProtocolOptions(**options)
        self.protocol = StreamProtocol.configured(self)
        self._apply_limits(config)
        self._keepalive.start(KEEPALIVE_INTERVAL, now=False)

    def _apply_limits(self, config: WebSocketConfig) -> None:
        """Apply the limits in force, also to connections that are open already."""
        self.protocol.maxMessagePayloadSize = config.max_message_size
        self.protocol.maxFramePayloadSize = config.max_message_size
        self.protocol.max_buffered_bytes = config.max_buffered_bytes

    def opened(self, connection: StreamProtocol) -> None:
        self.connections[connection] = None
        connection.ping_due = time.monotonic() + get_node().policy.config.ping_interval

    def closed(self, connection: StreamProtocol) -> None:
        self.connections.pop(connection, None)
        self._awaited.pop(connection, None)

    def _keep_alive(self) -> None:
        """Ping the connections whose time has come, and drop those that have not answered."""
        config = get_node().policy.config
        self._apply_limits(config)
        now = time.monotonic()
        while self._awaited:
            connection = next(iter(self._awaited))
            if connection.pong_due > now:
                break
            del self._awaited[connection]
            if connection.pong_due:  # else something came
                connection.dropConnection(abort=True)
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
            connection.outgoing.ping()

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
        # Clients that are told to leave must not come back. The reactor has the sockets.
        for port in [reader for reader in reactor.getReaders() if isinstance(reader, tcp.Port)]:
            await defer.maybeDeferred(port.stopListening).asFuture(asyncio.get_running_loop())
        if getattr(self.server_class, "is_worker", False):
            # Requests that have come are answered; other workers are ready for those that follow.
            self.server_class.http_factory.retire()
            while patches.applications(self.server_class):
                if time.monotonic() >= started + LAST_ANSWERS:
                    break
                await asyncio.sleep(DRAIN_LOOK_INTERVAL)
        await node.drain.run()
        deadline = started + allowed * CLIENTS_SHARE
        await asyncio.sleep(DRAIN_LOOK_INTERVAL)  # bytes that are under way arrive
        while self.connections or patches.applications(self.server_class):
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(DRAIN_LOOK_INTERVAL)
        for connection in list(self.connections):
            connection.dropConnection(abort=True)
        for request in patches.applications(self.server_class):
            request.cancel()
        ends = started + max(allowed * OWN_SHARE, SHORTEST_END)
        with contextlib.suppress(TimeoutError):  # database or channel layer do not answer
            async with asyncio.timeout(ends - time.monotonic()):
                await node.close()


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
        # Daphne exits without any; a worker gets its connections from the supervisor.
        super().__init__(application, listens_to or ["none"], **options)
        self.endpoints = listens_to
        self.is_worker = not listens_to

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        address = port.getHost()
        if self._on_listening is not None and hasattr(address, "port"):
            self._on_listening(address.host, address.port)

    def listen_error(self, failure: Any) -> None:
        """Remember why the server cannot listen, and stop; log it if no caller reports it."""
        self.failure = failure.getErrorMessage()
        if self._on_listening is None:
            super().listen_error(failure)
        else:
            self.stop()

    def application_checker(self) -> None:
        """Forget requests that have ended; those that became WebSockets hold cycles."""
        upgraded = patches.upgraded_requests(self)
        super().application_checker()
        for request in upgraded:
            if request not in self.connections:
                patches.take_apart(request)

    def kill_all_applications(self) -> None:
        """Do nothing: the drain lets the HTTP requests under way end first."""


def _with_backlog(endpoint: str) -> str:
    """Let more connections wait to be accepted than Twisted's 50, as when a crowd comes back.

    When more wait, the system drops a client's first packet: it tries again seconds later.
    """
    if endpoint.startswith("tcp:") and ":backlog=" not in endpoint:
        return f"{endpoint}:backlog={BACKLOG}"
    return endpoint


def install() -> None:
    """Make every Daphne server of this process use this package's connections, and its ASGI.

    Daphne takes no other factories as arguments, and its command no other server class.
    """
    daphne_server.WebSocketFactory = StreamFactory
    daphne_server.HTTPFactory = StreamHTTPFactory
    Server.handle_reply = reply_when_read
    Server.create_application = make_application
