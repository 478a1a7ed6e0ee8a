"""Which compression is agreed on in a handshake."""

from __future__ import annotations

import pytest
from autobahn.websocket.compress import PerMessageDeflate, PerMessageDeflateOffer

from realtime.server.outgoing import accept_deflate, takes_shared_frames


def agree(*parameters: dict[str, list[str | bool]]) -> tuple[str, PerMessageDeflate]:
    """Return the answer's extension, and the compression, for offers with these parameters."""
    acceptance = accept_deflate([PerMessageDeflateOffer.parse(each) for each in parameters])
    assert acceptance is not None
    answer = acceptance.get_extension_string()
    return answer, PerMessageDeflate.create_from_offer_accept(True, acceptance)


@pytest.mark.parametrize("parameters", [{}, {"client_max_window_bits": [True]}])
def test_neither_end_keeps_a_window(parameters: dict[str, list[str | bool]]) -> None:
    answer, compression = agree(parameters)
    assert answer == ("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
    assert compression.server_no_context_takeover and compression.client_no_context_takeover
    assert takes_shared_frames(compression)


def test_a_smaller_window_takes_no_shared_frames() -> None:
    answer, compression = agree({"server_max_window_bits": ["10"]})
    assert answer.endswith("; server_max_window_bits=10")
    assert not takes_shared_frames(compression)


def test_an_offer_of_the_full_window_is_preferred() -> None:
    answer, compression = agree({"server_max_window_bits": ["9"]}, {})
    assert "window_bits" not in answer
    assert takes_shared_frames(compression)


def test_no_compression() -> None:
    assert accept_deflate([]) is None
    assert accept_deflate(["another extension"]) is None
    assert not takes_shared_frames(None)
