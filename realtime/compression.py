"""Agreeing on permessage-deflate (RFC 7692) in a handshake. Compressing is the hub's."""

from __future__ import annotations

from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept


class _DeflateAccept(PerMessageDeflateOfferAccept):
    """Accepts permessage-deflate without context takeover in either direction.

    So a message is compressed once for all clients, and an idle client holds no window.
    """

    def get_extension_string(self) -> str:
        """Return the parameters of the answer; a server may add these unasked (RFC 7692, 7.1.1)."""
        return "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def accept_deflate(offers: list[Any]) -> _DeflateAccept | None:
    """Return the acceptance of a client's first usable offer.

    One that asks for a smaller window is not: frames are shared by all clients.
    """
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer) and not offer.request_max_window_bits:
            return _DeflateAccept(offer, request_no_context_takeover=True, no_context_takeover=True)
    return None


def refuse_compression(offers: list[Any]) -> None:
    """Accept no offer."""
