"""Agreeing on permessage-deflate (RFC 7692) in a handshake. The compressing is done in ``hub``."""

from __future__ import annotations

from typing import Any

from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept


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
