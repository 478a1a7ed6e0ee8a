"""The private parts of Daphne, Autobahn and Twisted are there, and are used in one file."""

from __future__ import annotations

import ast
import asyncio
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflate
from autobahn.websocket.protocol import WebSocketServerProtocol as AutobahnProtocol
from daphne.http_protocol import HTTPFactory, WebRequest
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor, tcp
from twisted.internet.testing import StringTransport
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol

from realtime.server import patches
from realtime.server.daphne import StreamServer
from realtime.server.http import StreamChannel, StreamRequest
from realtime.server.websocket import StreamProtocol
from tests.support import ROOT


@pytest.fixture
def connection() -> Iterator[Any]:
    """A TCP connection of Twisted's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield tcp.Connection(ours, None, reactor)


class DirectWebSocket(WebSocketServerProtocol):  # type: ignore[misc] # Autobahn has no types
    """A WebSocket of Autobahn's that sends as this project's do, without its queue."""

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        self.transport.write(data)


HANDSHAKE = (
    "GET /ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Origin: http://localhost\r\n\r\n"
)


def websocket() -> Any:
    """Return a WebSocket that is open."""
    factory = WebSocketServerFactory("ws://localhost")
    factory.protocol = DirectWebSocket
    protocol = factory.buildProtocol(None)
    protocol.makeConnection(StringTransport())
    protocol._raw_query_string = b""  # which Daphne sets
    protocol.dataReceived(HANDSHAKE.encode())
    assert protocol.state == protocol.STATE_OPEN
    return protocol


def http_protocol(server: Any = None) -> Any:
    """Return an HTTP connection of Twisted's."""
    protocol = HTTPFactory(server).buildProtocol(None)
    protocol.makeConnection(StringTransport())
    return protocol


def daphne_server() -> Any:
    """Return a server of Daphne's as it is once it runs."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    server = Server(application, endpoints=["none"])
    server.connections = {}
    return server


@pytest.mark.parametrize("owner", patches.PRIVATE_NAMES, ids=lambda owner: owner.__name__)
def test_private_names(owner: type, connection: Any) -> None:
    """Each name is an attribute of the class, or of an instance of it."""
    of_class, of_instances = patches.PRIVATE_NAMES[owner]
    for name in of_class:
        assert hasattr(owner, name), name
    server = daphne_server()
    channel = http_protocol(server)._channel
    channel.dataReceived(b"GET / HTTP/1.1\r\nHost:")
    assert patches.request_line(channel) == (b"GET", b"/", b"HTTP/1.1")
    instances: dict[type, Any] = {
        tcp.Connection: connection,
        HTTPChannel: channel,
        _GenericHTTPChannelProtocol: http_protocol(),
        AutobahnProtocol: websocket(),
        PerMessageDeflate: PerMessageDeflate(True, False, False, 15, 15, 8),
        Server: server,
        WebRequest: WebRequest(http_protocol(server)._channel),
    }
    for name in of_instances:
        assert hasattr(instances[owner], name), name


@pytest.mark.parametrize(
    ("ours", "theirs", "others"),
    [
        (StreamProtocol, WebSocketProtocol, {"_fail_connection"}),
        (StreamChannel, HTTPChannel, set[str]()),
        (StreamRequest, WebRequest, {"process", "handle_reply", "finish"}),
        (StreamServer, Server, {"listen_success", "listen_error", "application_checker"}),
    ],
)
def test_what_is_overridden_is_there(ours: type, theirs: type, others: set[str]) -> None:
    """A method in the libraries' style that nothing calls any more would go unnoticed."""
    hooks = {name for name in vars(ours) if re.fullmatch("[a-z]+[A-Z][A-Za-z]+", name)} | others
    hooks -= {"pauseProducing", "resumeProducing", "stopProducing"}  # of an interface
    assert hooks <= vars(ours).keys()
    assert not {name for name in hooks if not hasattr(theirs, name)}


def test_what_daphne_has_replaced() -> None:
    import daphne.server

    for name in ("WebSocketFactory", "HTTPFactory"):
        assert hasattr(daphne.server, name)
    assert patches.handle_reply.__qualname__ == "Server.handle_reply"
    assert patches.create_application.__qualname__ == "Server.create_application"


async def test_the_applications_that_daphne_runs() -> None:
    server, request = daphne_server(), object()
    server.protocol_connected(request)
    assert patches.applications(server) == []
    queue = patches.create_application(server, request, {"type": "http"})
    [task] = patches.applications(server)
    await queue.put({"type": "http.request"})
    await task
    assert patches.applications(server) == []
    patches.note_application(server, request, asyncio.current_task())
    assert patches.applications(server) == [asyncio.current_task()]


def test_attributes_of_a_handshake() -> None:
    """Most are there in a handshake, and none is missed after it."""
    protocol = websocket()
    gone = patches.OF_HANDSHAKE - vars(protocol).keys()
    assert not gone, f"Autobahn has them no more: {gone}"
    patches.forget_handshake(protocol)
    assert not patches.OF_HANDSHAKE & vars(protocol).keys()
    protocol.dataReceived(b"\x89\x80\x00\x00\x00\x00")  # a ping
    assert protocol.transport.value().endswith(b"\x8a\x00")
    patches.forget_all_but(protocol, "state")
    assert list(vars(protocol)) == ["state"]
    patches.forget_all_but(protocol, "no such name")
    assert not vars(protocol)


def test_buffered_bytes(connection: Any) -> None:
    assert patches.buffered_bytes(connection) == 0
    connection.connected = True
    connection.write(b"x" * 10)
    assert patches.buffered_bytes(connection) == 10


def test_the_lowest_transport(connection: Any) -> None:
    class Tls:
        transport = connection

    assert patches.lowest_transport(connection) is connection
    assert patches.lowest_transport(Tls()) is connection
    assert patches.lowest_transport(StringTransport()) is None
    assert patches.lowest_transport(None) is None


@pytest.mark.parametrize(
    ("frames", "unfinished"),
    [
        (b"", 0),
        (b"\x01\x83\x00\x00\x00\x00abc", 3),  # the first part of a message
        (b"\x81\x85\x00\x00\x00\x00ab", 2),  # the first bytes of a frame
        (b"\x81", 1),  # half a head
    ],
)
def test_unfinished_bytes(frames: bytes, unfinished: int) -> None:
    protocol = websocket()
    patches.feed(protocol, frames)
    assert patches.unfinished_bytes(protocol) == unfinished


def test_private_parts_are_used_in_one_file() -> None:
    """Elsewhere in the room an underscore belongs to the object itself, or to an override."""
    for path in sorted((ROOT / "realtime/server").glob("*.py")):
        if path.name == "patches.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                owner = ast.unparse(node.value)
                is_own = owner in ("self", "super()") or node.attr in ("__hash__", "__eq__")
                assert is_own, f"{path.name}: {owner}.{node.attr}"
