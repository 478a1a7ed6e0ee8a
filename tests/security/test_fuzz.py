"""Frames and messages made by chance: nothing fails, and everybody else is served as before.

``FUZZ_EXAMPLES=20000 pytest tests/security/test_fuzz.py`` goes on for minutes.
"""

from __future__ import annotations

import json
import os
import socket
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.protocol import SUBSCRIPTION_TYPES
from tests.support import CLOSE, RawClient, Server

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
WORDS = [*SUBSCRIPTION_TYPES, "auth", "ping", "subscribe", "unsubscribe", "type", "data", "filters"]
WORDS += ["token", "subscription_id", "metadata", "resume", "rewind", "epoch", "offset", "seconds"]
WORDS += ["count", "in", "not", "eq", "gt", "a.b", "a", "$gt", "", "\0", "\ud800", "x" * 70_000]
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate"

words = st.sampled_from(WORDS)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)
subscriptions = st.fixed_dictionaries(
    {"type": st.sampled_from(SUBSCRIPTION_TYPES)},
    optional={"filters": values, "resume": values, "rewind": values},
)
messages = st.fixed_dictionaries(
    {"type": st.sampled_from(["auth", "ping", "subscribe", "unsubscribe"])},
    optional={
        "data": subscriptions | values,
        "subscription_id": scalars,
        "metadata": values,
        "timestamp": scalars,
    },
)
texts = st.one_of(
    messages.map(lambda message: json.dumps(message).encode()),
    values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.binary(max_size=300),
    st.integers(1, 3000).map(lambda depth: b"[" * depth),
)


def deflated(text: bytes) -> bytes:
    """Return *text* as permessage-deflate has it."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame, mostly a whole message; now and then any first byte, length or end."""
    payload = draw(texts)
    first = draw(st.sampled_from([0x81] * 6 + [0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0xC1]))
    if draw(st.integers(0, 9)) == 0:
        first = draw(st.integers(0, 255))
    if first & 0x40:
        payload = draw(st.sampled_from([payload, deflated(payload), deflated(b"x" * 2_000_000)]))
    length = len(payload)
    if draw(st.integers(0, 19)) == 0:
        length = draw(
            st.sampled_from([0, length + 1, 125, 65_535, 2**20 + 1, 2**63 - 1, 2**64 - 1])
        )
    mask = draw(st.binary(min_size=4, max_size=4)) if draw(st.integers(0, 19)) else b""
    if length < 126:
        size = bytes([length])
    elif length < 65_536:
        size = b"\x7e" + length.to_bytes(2, "big")
    else:
        size = b"\x7f" + length.to_bytes(8, "big")
    size = bytes([size[0] | (0x80 if mask else 0)]) + size[1:]
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if mask else payload
    return bytes([first]) + size + mask + masked


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Return *data* in pieces."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)]


@pytest.mark.parametrize("authenticated", [False, True])
def test_nothing_fails(server: Server, token: str, authenticated: bool) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=EXAMPLES < 1000,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(frames(), min_size=1, max_size=12), st.lists(st.integers(0, 2**20), max_size=4))
    def fuzz(sent: list[bytes], places: list[int]) -> None:
        with RawClient(server) as raw:
            assert raw.shake_hands(DEFLATE).startswith(b"HTTP/1.1 101 ")
            if authenticated:
                raw.send_message({"type": "auth", "data": {"token": token}})
                assert raw.read_message()["type"] == "auth_success"
            try:
                for piece in cut(b"".join(sent), places):
                    raw.socket.sendall(piece)
                raw.socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the server has seen enough
            check(raw.drain())

    fuzz()
    log = server.log()
    assert "Traceback" not in log and "ERROR" not in log, log


def check(received: bytes) -> None:
    """Check that the server has sent whole frames, and messages of its own."""
    while len(received) >= 2:
        first, length = received[0], received[1]
        start = 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(received[2:start], "big")
        payload, received = received[start : start + length], received[start + length :]
        if first == 0x81 and len(payload) == length:
            message: dict[str, Any] = json.loads(payload)
            assert message["type"] in ANSWERS, message
        else:
            assert first in (0xC1, 0x8A, 0x89, CLOSE, 0x81), hex(first)


ANSWERS = {"auth_success", "auth_failed", "subscribed", "unsubscribed", "pong", "error", "data"}
