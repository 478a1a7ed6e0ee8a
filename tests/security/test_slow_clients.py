"""Clients that keep a connection without using it, or busy without use: each is bounded."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from realtime.server.websocket import SMALL_PARTS_PER_MINUTE
from tests.security.audit import audit
from tests.support import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    RawClient,
    Server,
    client,
    running,
    wait_until,
)

# Shorter than in use, so that the test is.
SERVER = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "streaming_site.settings"
import django
django.setup()
import realtime.server.websocket, realtime.server.http
realtime.server.http.REQUEST_TIMEOUT = 1.0
realtime.server.websocket.ALL_STRANGERS_BYTES = 250_000
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "serve", *sys.argv[1:]])
"""

LIVE = (
    "from realtime.cluster.connections import connections\n"
    "result = [each.client_id for each in connections().connections]"
)


class HastyServer(Server):
    """A server that gives a request one second, and strangers little room."""

    def program(self) -> list[str]:
        """Return the command that serves."""
        python, _, *arguments = super().program()
        return [python, "-c", SERVER, *arguments[1:]]


def is_cut(connection: socket.socket) -> bool:
    """Tell whether the other end has ended a connection."""
    connection.settimeout(0.01)
    try:
        return connection.recv(1024) == b""
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def drip(server: Server, text: bytes) -> float:
    """Send a byte now and then until cut off; return after how many seconds that was."""
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as connection:
        started = time.monotonic()
        for byte in text:
            try:
                connection.sendall(bytes([byte]))
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.1)
            if is_cut(connection):
                break
        return time.monotonic() - started


def test_a_request_that_never_ends_is_cut(data_dir: Path) -> None:
    endless = b"GET /ws/ HTTP/1.1\r\nHost: x\r\n" + b"X-Drip: drop\r\n" * 100
    body = b"POST /admin/login/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n" + b"x" * 100
    with HastyServer(data_dir) as server:
        for text in (endless, body):
            assert 0.9 < drip(server, text) < 5
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as silent:
            wait_until(lambda: is_cut(silent))
        # Kept alive after an answer, and then the same.
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as kept:
            kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert kept.recv(64 * 1024).startswith(b"HTTP/1.1 200 OK")
            kept.sendall(b"GET /healthz HTTP/1.1\r\n")
            wait_until(lambda: is_cut(kept))


async def test_one_that_has_become_a_websocket_is_not(data_dir: Path) -> None:
    with HastyServer(data_dir, require_auth="false", enable_rate_limiting="false") as server:
        async with client(server) as page:
            started = time.monotonic()
            while time.monotonic() < started + 3:
                await page.assert_silent()


def test_a_message_that_never_ends_takes_no_more_than_a_message_may(data_dir: Path) -> None:
    with (
        running(data_dir, max_message_size="4096", require_auth="false") as server,
        RawClient(server).connect() as raw,
    ):
        raw.send(TEXT & 0x7F, b"[" * 1000)  # the first of several frames
        for _ in range(4):
            raw.send(0x00, b"[" * 1000)
        raw.assert_closed(1009, "message too big")


def floods(server: Server) -> int:
    """Return how many floods the audit log has."""
    return len([line for line in audit(server) if line.get("limit") == "flooding"])


@pytest.mark.parametrize("first_byte", [PING, 0x00], ids=["pings", "parts"])
def test_a_flood_of_small_frames_is_closed(server: Server, first_byte: int) -> None:
    before = floods(server)
    with RawClient(server).connect() as raw:
        raw.send(TEXT & 0x7F, b"[")
        for _ in range(SMALL_PARTS_PER_MINUTE):
            raw.send(first_byte, b" ")
        frame = raw.read_frame()
        while frame.first_byte == PONG:
            frame = raw.read_frame()
        assert (frame.first_byte, frame.payload) == (CLOSE, b"\x03\xf0flooding")
    wait_until(lambda: floods(server) == before + 1)


def test_a_large_message_in_many_frames_is_no_flood(server: Server, token: str) -> None:
    text = b'{"type": "ping"' + b" " * 600 * SMALL_PARTS_PER_MINUTE + b"}"
    with RawClient(server).connect() as raw:
        raw.send_message({"type": "auth", "data": {"token": token}})
        assert raw.read_message()["type"] == "auth_success"
        for start in range(0, len(text), 600):
            part = text[start : start + 600]
            is_last = start + 600 >= len(text)
            raw.send((0x80 if is_last else 0) | (0 if start else 1), part)
        assert raw.read_message()["type"] == "pong"


def hold(raw: RawClient) -> None:
    """Begin a message of 100,000 bytes and do not end it."""
    raw.send(TEXT & 0x7F, b"[" + b" " * 99_999)
    for _ in range(2):  # the second is read after the server has looked at what it holds
        raw.send(PING)
        frame = raw.read_frame()
        if frame.first_byte == CLOSE:
            raise Closed(frame.payload[2:].decode())
        assert frame.first_byte == PONG


class Closed(Exception):
    """The server has closed."""


def test_what_strangers_leave_unfinished_is_bounded_together(data_dir: Path) -> None:
    with HastyServer(data_dir) as server, ExitStack() as stack:
        token = server.new_token()
        known = stack.enter_context(RawClient(server).connect())
        known.send_message({"type": "auth", "data": {"token": token}})
        assert known.read_message()["type"] == "auth_success"
        first, second, third = (stack.enter_context(RawClient(server).connect()) for _ in range(3))
        hold(first)
        hold(second)
        hold(known)
        with pytest.raises(Closed, match="server at capacity"):
            hold(third)
        third.socket.close()
        # There is always room for what is needed to authenticate, and for what was given back.
        other = stack.enter_context(RawClient(server).connect())
        other.send_message({"type": "auth", "data": {"token": token}})
        assert other.read_message()["type"] == "auth_success"
        wait_until(lambda: len(server.administer(LIVE)) == 4)
        first.send(0x80, b" ]")
        assert first.read_message()["data"]["code"] == "invalid_message"
        hold(stack.enter_context(RawClient(server).connect()))
        second.socket.close()
        wait_until(lambda: len(server.administer(LIVE)) == 4)
        hold(stack.enter_context(RawClient(server).connect()))
