"""Clients that keep a connection without using it: each is bounded in time or in bytes."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from tests.support import TEXT, TIMEOUT, RawClient, Server, client, running, wait_until

# Shorter than in use, so that the test is.
SERVER = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "streaming_site.settings"
import django
django.setup()
import realtime.server
realtime.server.REQUEST_TIMEOUT = 1.0
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "serve", *sys.argv[1:]])
"""


class HastyServer(Server):
    """A server that gives a request one second."""

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
                await page.expect_silence()


def test_a_message_that_never_ends_takes_no_more_than_a_message_may(data_dir: Path) -> None:
    with (
        running(data_dir, max_message_size="4096", require_auth="false") as server,
        RawClient(server).connect() as raw,
    ):
        raw.send(TEXT & 0x7F, b"[" * 1000)  # the first of several frames
        for _ in range(4):
            raw.send(0x00, b"[" * 1000)
        raw.expect_close(1009, "message too big")
