"""The ASGI scope of a WebSocket, made from its handshake."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from realtime.delivery.transport import TRANSPORT_EXTENSION
from realtime.server import patches


def make_scope(connection: Any, request: Any) -> dict[str, Any]:
    """Return the scope of a connection whose handshake is *request* (Autobahn's)."""
    headers = [
        (name.lower().encode("ascii"), value.encode("latin1"))
        for name, value in request.headers.items()
        if "_" not in name  # CVE-2015-0219: underscores and dashes become alike
    ]
    client, server = socket_addresses(connection.transport)
    protocols = dict(headers).get(b"sec-websocket-protocol", b"").decode("latin1")
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
        "extensions": {
            "websocket.http.response": {},
            TRANSPORT_EXTENSION: connection.outgoing,
        },
    }


def socket_addresses(transport: Any) -> tuple[Any, Any]:
    """Return the client's and the server's ``[host, port]``; None for each if there are none.

    Whom a proxy speaks for is not decided here.
    """
    peer, host = transport.getPeer(), transport.getHost()
    if not (hasattr(peer, "host") and hasattr(peer, "port")):
        return None, None
    return [str(peer.host), peer.port], [str(host.host), host.port]
