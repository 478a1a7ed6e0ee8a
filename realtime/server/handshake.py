"""The handshake of a WebSocket: its ASGI scope, and whether it agrees on permessage-deflate."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept

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
    """Return the acceptance of a client's best offer.

    The best is the first that does not ask for a smaller window. A client with a smaller window
    gets its messages uncompressed, since all clients share the compressed frames.
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


def refuse_compression(offers: list[Any]) -> None:
    """Accept no offer."""
