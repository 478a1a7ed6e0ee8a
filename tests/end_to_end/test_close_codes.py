"""How connections end: codes and reasons for errors in the bytes, faults, silence."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import Iterator

import pytest

from tests.support import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    OtherServer,
    RawClient,
    Server,
    client,
    running,
)

CONTINUATION = 0x80
UNFINISHED = 0x7F  # without the bit that ends a message


@pytest.fixture(scope="module")
def lively(server: Server) -> Iterator[Server]:
    """A server that pings each second and does not wait long for anything."""
    with running(server.data_dir, ping_interval="1", ping_timeout="2", close_timeout="1") as lively:
        yield lively


@pytest.fixture(scope="module")
def faulty(server: Server) -> Iterator[Server]:
    """Daphne with an application that fails on request."""
    program = ("-m", "daphne", "-p", "{port}", "tests.end_to_end.faulty:application")
    with OtherServer(server.data_dir, *program) as faulty:
        faulty.may_fail = True
        yield faulty


def bytes_of_a_bad_client() -> dict[str, tuple[int, list[tuple[int, bytes]]]]:
    """Return the close code for frames (first byte, payload) that no client may send."""
    return {
        "a reserved bit": (1002, [(TEXT | 0x40, b"{}")]),
        "another reserved bit": (1002, [(TEXT | 0x20, b"{}")]),
        "all reserved bits": (1002, [(TEXT | 0x70, b"{}")]),
        "a reserved opcode": (1002, [(0x83, b"")]),
        "a reserved control opcode": (1002, [(0x8B, b"")]),
        "a fragmented ping": (1002, [(PING & UNFINISHED, b"")]),
        "a long ping": (1002, [(PING, bytes(126))]),
        "a long close": (1002, [(CLOSE, struct.pack("!H", 1000) + b"x" * 124)]),
        "a continuation of nothing": (1002, [(CONTINUATION, b"x")]),
        "a message inside another": (1002, [(TEXT & UNFINISHED, b"{"), (TEXT, b"{}")]),
        "half a close code": (1002, [(CLOSE, b"\x03")]),
        "an unknown close code": (1002, [(CLOSE, struct.pack("!H", 999))]),
        "a close code not for the wire": (1002, [(CLOSE, struct.pack("!H", 1005))]),
        "text that is no UTF-8": (1007, [(TEXT, b'{"type": "\xff"}')]),
        "text that ends inside a character": (1007, [(TEXT, b'"\xe2\x82')]),
        "a surrogate as UTF-8": (1007, [(TEXT, b'"\xed\xa0\x80"')]),
        "no UTF-8 in the second fragment": (
            1007,
            [(TEXT & UNFINISHED, b'"\xe2\x82'), (CONTINUATION, b'\xff"')],
        ),
        "a reason that is no UTF-8": (1007, [(CLOSE, struct.pack("!H", 1000) + b"\xff")]),
    }


@pytest.mark.parametrize("name", bytes_of_a_bad_client())
@pytest.mark.parametrize("authenticated", [False, True])
async def test_errors_in_the_bytes(
    server: Server, token: str, name: str, authenticated: bool
) -> None:
    code, frames = bytes_of_a_bad_client()[name]
    async with client(server, token) as bystander:
        with RawClient(server).connect() as raw:
            if authenticated:
                raw.send_message({"type": "auth", "data": {"token": token}})
                assert raw.read_message()["type"] == "auth_success"
            for first_byte, payload in frames:
                raw.send(first_byte, payload)
            raw.send_message({"type": "ping"})  # not looked at
            assert raw.assert_closed(code)
            raw.say_goodbye()
        await bystander.assert_silent()


def test_frames_must_be_masked(server: Server) -> None:
    with RawClient(server).connect() as raw:
        raw.send(TEXT, b'{"type": "ping"}', masked=False)
        assert raw.assert_closed(1002)
        raw.say_goodbye()


def test_a_client_may_close(server: Server) -> None:
    for payload in (b"", struct.pack("!H", 1000), struct.pack("!H", 4000) + "tschüß".encode()):
        with RawClient(server).connect() as raw:
            raw.send(CLOSE, payload)
            assert raw.read_frame().first_byte == CLOSE
            assert raw.socket.recv(1) == b""  # an orderly end, no reset


def test_control_frames_between_fragments(server: Server) -> None:
    with RawClient(server).connect() as raw:
        raw.send(TEXT & UNFINISHED, b'{"type": ')
        raw.send(PING, b"are you there?")
        assert raw.read_frame() == (PONG, b"are you there?")
        raw.send(PONG, b"an answer to no question")
        raw.send(CONTINUATION & UNFINISHED)
        raw.send(CONTINUATION, b'"ping"}')
        assert raw.read_message()["type"] == "pong"


def test_bytes_that_come_one_by_one(server: Server) -> None:
    with RawClient(server).connect() as raw:
        frame = bytes([BINARY, 0x80 | 16, 1, 2, 3, 4])
        frame += bytes(b ^ (n % 4 + 1) for n, b in enumerate(b'{"type": "ping"}'))
        for byte in frame:
            raw.socket.sendall(bytes([byte]))
        assert raw.read_message()["type"] == "pong"


@pytest.mark.parametrize(
    "path",
    [
        b"/nothing",
        b"/ws/events",
        b"/WS/",
        b"/ws//",
        b"//",
        b"/admin/",
        b"/healthz",
        b"/ws/../ws/",
        b"/%ff%00",
        b"/%C3%A9",
        b"/" + b"x" * 10_000,
    ],
)
def test_other_paths_are_not_found(server: Server, path: bytes) -> None:
    with RawClient(server, path) as raw:
        answer = raw.shake_hands()
        assert answer.startswith(b"HTTP/1.1 404 "), answer
    with RawClient(server).connect() as raw:
        raw.send_message({"type": "ping"})
        assert raw.read_message()["type"] == "pong"


@pytest.mark.parametrize(
    "path", [b"/\xff\xfe", b"/ws/\xc3\xa9", b"/ws/ ", b"ws", b"*", b"", b"http://["]
)
def test_paths_that_are_none(server: Server, path: bytes) -> None:
    with RawClient(server, path) as raw:
        answer = raw.shake_hands()
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")), answer


@pytest.mark.parametrize(
    "headers",
    [
        (b"X-\xff: 1",),
        (b"X-Text: \xff\xfe",),
        (b"X_Under: 1", b"X-Under: 2"),
        (b"Sec-WebSocket-Protocol: a, b", b"Cookie: a=b", b"Authorization: Bearer x"),
        (b"X-Forwarded-For: 1.2.3.4", b"Daphne-Root-Path: /elsewhere"),
        (b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99",),
        (b"Sec-WebSocket-Extensions: ;;;,=",),
    ],
)
def test_headers_of_all_kinds(server: Server, headers: tuple[bytes, ...]) -> None:
    with RawClient(server) as raw:
        answer = raw.shake_hands(*headers)
        if answer.startswith(b"HTTP/1.1 101 "):
            raw.send_message({"type": "ping"})
            assert raw.read_message()["type"] == "pong"
        else:
            assert answer.startswith(b"HTTP/1.1 400 "), answer


class TestFaults:
    """Faults of the server: 1011."""

    async def test_a_fault_in_a_consumer(self, faulty: Server, token: str) -> None:
        async with client(faulty, token) as page, client(faulty, token) as other:
            await page.send({"type": "ping", "metadata": {"fault": True}})
            await page.assert_nothing_but_closed(1011, "internal error")
            await other.assert_silent()

    @pytest.mark.parametrize("path", ["/raises", "/returns"])
    async def test_an_application_that_ends(self, faulty: Server, path: str) -> None:
        async with client(faulty, path=path) as page:
            await page.send("end")
            await page.assert_nothing_but_closed(1011, "internal error")

    def test_an_application_that_fails_before_it_accepts(self, faulty: Server) -> None:
        with RawClient(faulty, b"/early") as raw:
            assert raw.shake_hands().startswith(b"HTTP/1.1 500 ")


class TestKeepalive:
    """``ping_interval``, ``ping_timeout`` and ``close_timeout``."""

    async def test_pings_and_what_becomes_of_those_who_do_not_answer(
        self, lively: Server, server: Server, token: str
    ) -> None:
        async with client(lively, token) as page:  # answers pings by itself
            await page.subscribe("events")
            await asyncio.to_thread(self.keep_alive_and_fall_silent, lively)
            # In a thread, so that this client goes on answering pings.
            await asyncio.to_thread(server.publish, "events", {"n": 1})
            assert await page.assert_data("events") == {"n": 1}

    @staticmethod
    def keep_alive_and_fall_silent(server: Server) -> None:
        with RawClient(server).connect() as silent, RawClient(server).connect() as alive:
            times = [time.monotonic()]
            for _ in range(3):
                ping = alive.read_frame()
                assert ping.first_byte == PING
                times.append(time.monotonic())
                alive.send(PONG, ping.payload)
            for before, after in itertools.pairwise(times):
                assert 0.5 < after - before < 3
            # Pinged as often as the other at first, but cut long since.
            assert silent.drain().count(b"\x89\x00") in (1, 2, 3)
            alive.send_message({"type": "ping"})
            assert alive.read_message()["type"] == "pong"

    def test_who_does_not_answer_a_close_frame_is_cut(self, lively: Server) -> None:
        with RawClient(lively).connect() as raw:
            started = time.monotonic()
            raw.send(0x83)
            raw.assert_closed(1002)
            raw.assert_end()
            assert 1 <= time.monotonic() - started < 5
