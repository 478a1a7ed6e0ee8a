"""Every touch of the private parts of Daphne, Autobahn and Twisted.

Checked against Daphne 4.2.3, Autobahn 26.10.2 and Twisted 26.10.0. The names used beyond their
public interfaces are in :data:`PRIVATE_NAMES`, and so are methods that the classes of this package
override though nobody offered them for that. tests/server/test_patches.py fails when one is gone.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from autobahn.websocket.compress import PerMessageDeflate
from autobahn.websocket.protocol import WebSocketServerProtocol
from daphne.http_protocol import WebRequest
from daphne.server import Server
from twisted.internet import tcp
from twisted.web.http import HTTPChannel, _GenericHTTPChannelProtocol

# Class -> names of its methods and class attributes, and of what its instances have.
PRIVATE_NAMES: dict[type, tuple[tuple[str, ...], tuple[str, ...]]] = {
    tcp.Connection: ((), ("dataBuffer", "offset", "_tempDataLen")),
    HTTPChannel: (
        ("allHeadersReceived", "allContentReceived", "checkPersistence", "requestDone"),
        ("_command", "_path", "_version", "_networkProducer", "_dataBuffer", "length", "requests"),
    ),
    _GenericHTTPChannelProtocol: ((), ("_channel",)),
    WebSocketServerProtocol: (
        (
            *("CONFIG_ATTRS", "consumeData", "processData", "onFrameData", "sendData"),
            *("sendCloseFrame", "dropConnection", "_fail_connection", "_dataReceived"),
        ),
        ("data", "inside_message", "current_frame", "_perMessageCompress"),
    ),
    PerMessageDeflate: ((), ("_decompressor",)),
    Server: (("application_checker", "kill_all_applications"), ("connections",)),
    WebRequest: (("handle_reply", "basic_error"), ("application_queue",)),
}

# What Daphne itself does, for those who do it only at times.
handle_reply = Server.handle_reply
create_application = Server.create_application

# What Autobahn holds for a handshake, or for ways to send that are not used here: nobody asks for
# it once a connection is open.
OF_HANDSHAKE = {
    *("_raw_query_string", "_results", "_transport_details", "_valid_events", "_wskey"),
    *("http_headers", "http_request_data", "http_request_host", "http_request_params"),
    *("http_request_path", "http_request_uri", "http_response_data", "http_status_line"),
    *("send_queue", "websocket_extensions", "websocket_extensions_in_use", "websocket_origin"),
    "websocket_protocols",
}


def change_class(instance: Any, subclass: type) -> None:
    """Make an object an instance of a subclass: Twisted makes it and names no way to choose."""
    instance.__class__ = subclass


def lowest_transport(transport: Any) -> Any:
    """Return the TCP connection under *transport*, which may be TLS; None if there is none."""
    while transport is not None and not isinstance(transport, tcp.Connection):
        transport = getattr(transport, "transport", None)
    return transport


def buffered_bytes(connection: Any) -> int:
    """Return how many bytes a TCP connection of Twisted's has not written yet."""
    return int(len(connection.dataBuffer) - connection.offset + connection._tempDataLen)


# Of Twisted's protocol that can be of either version: its HTTP/1.1 connection. Of that: method,
# path and version of the request that comes; what can be told to pause; bytes of a next request.
http_channel = attrgetter("_channel")
request_line = attrgetter("_command", "_path", "_version")
producer = attrgetter("_networkProducer")
unread = attrgetter("_dataBuffer")
# Of a WebSocket: the compression agreed on or None; the query, which Daphne notes in it.
agreed_compression = attrgetter("_perMessageCompress")
query_string = attrgetter("_raw_query_string")


def feed(connection: Any, data: bytes) -> None:
    """Give a WebSocket bytes; the public way would first format them for a log nobody reads."""
    connection._dataReceived(data)


def unfinished_bytes(connection: Any) -> int:
    """Return how many bytes a WebSocket holds of messages that are not complete."""
    size = len(connection.data)
    if connection.inside_message:
        size += connection.message_data_total_length
        if connection.current_frame is not None:  # counted whole, though it may only have begun
            size -= connection.current_frame.length - connection.current_frame_masker.pointer()
    return size


def is_control_or_partial(connection: Any) -> bool:
    """Tell whether what was just read is of a control frame, or does not complete a message."""
    frame, read = connection.current_frame, connection.current_frame_masker.pointer()
    return frame.opcode > 7 or not frame.fin or read < frame.length


def free_decompressor(connection: Any) -> None:
    """Let go of the 40 KB that an idle client's decompressor holds; it is made anew if needed."""
    if connection._perMessageCompress is not None:
        connection._perMessageCompress._decompressor = None


def forget_handshake(connection: Any) -> None:
    """Let go of what only a handshake needs, by a new dictionary: one never shrinks."""
    attributes = vars(connection).items()
    connection.__dict__ = {name: value for name, value in attributes if name not in OF_HANDSHAKE}


def forget_all_but(connection: Any, name: str) -> None:
    """Let go of all that the base classes hold, much of it in cycles with the connection itself."""
    connection.__dict__ = {name: vars(connection)[name]} if name in vars(connection) else {}


def note_application(server: Server, protocol: Any, task: Any) -> None:
    server.connections[protocol]["application_instance"] = task


def applications(server: Server) -> list[Any]:
    tasks = [details.get("application_instance") for details in server.connections.values()]
    return [task for task in tasks if task is not None and not task.done()]


def upgraded_requests(server: Server) -> list[Any]:
    """Return the requests that have become WebSockets and that Daphne is about to forget."""
    return [
        request
        for request, details in server.connections.items()
        if "disconnected" in details and request.application_queue is None
    ]


def take_apart(request: Any) -> None:
    """Empty a request and its HTTP connection, which hold each other in cycles."""
    if request.channel is not None:
        vars(request.channel).clear()
    vars(request).clear()
