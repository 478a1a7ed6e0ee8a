"""Clients that do not read, or write too much, cost bounded memory and nobody else's time."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import ROOT, TIMEOUT, Server, client, environment, manage, running, wait_until

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which a client may leave 64 KiB unread, and send as much as it likes."""
    with running(
        tmp_path_factory.mktemp("bounded"),
        max_buffered_bytes="65536",
        enable_rate_limiting="false",
    ) as server:
        yield server


class RawClient:
    """A client that reads only when told."""

    def __init__(self, server: Server, token: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", server.port))
        key = base64.b64encode(b"0" * 16).decode()
        self.socket.sendall(
            f"GET /ws/ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.read_until(b"\r\n\r\n")
        self.send({"type": "auth", "data": {"token": token}})
        self.read_until(b"auth_success")
        self.send({"type": "subscribe", "data": {"type": "events"}})
        self.read_until(b"subscribed")

    def read_until(self, wanted: bytes) -> None:
        """Read until some bytes have come."""
        received = b""
        while wanted not in received:
            part = self.socket.recv(65_536)
            assert part, received
            received = received[-200:] + part

    def send(self, message: dict[str, object]) -> None:
        """Send a message in a frame with an empty mask."""
        self.socket.sendall(frame(message))

    def expect_slow_consumer(self) -> None:
        """Read what the server still has for this client, up to its close frame; answer that."""
        close = struct.pack("!BBH", 0x88, 15, 1013) + b"slow consumer"
        self.read_until(close)
        self.socket.sendall(b"\x88\x80" + bytes(4))
        assert self.socket.recv(1) == b""
        self.socket.close()


def frame(message: dict[str, object]) -> bytes:
    """Return a client's frame of less than 64 KiB."""
    text = json.dumps(message).encode()
    short = struct.pack("!BB", 0x81, 0x80 | len(text)) if len(text) < 126 else b""
    return (short or struct.pack("!BBH", 0x81, 0x80 | 126, len(text))) + bytes(4) + text


def resident(server: Server) -> int:
    """Return the server's resident memory in bytes."""
    return int(psutil.Process(server.process.pid).memory_info().rss)


async def test_a_client_that_never_reads_is_closed_and_nobody_else(bounded: Server) -> None:
    token = bounded.token()
    silent = [RawClient(bounded, token) for _ in range(5)]
    sent = [{"n": n, "text": "x" * 1000} for n in range(100)]
    async with client(bounded, token) as page:
        await page.subscribe("events")
        bounded.publish("events", *sent)  # warms up
        for _ in sent:
            await page.assert_data("events")
        before = resident(bounded)
        for _ in range(30):  # 3 MB, more than kernel and server keep for a client
            await asyncio.to_thread(bounded.publish, "events", *sent)
            assert [await page.assert_data("events") for _ in sent] == sent
        assert resident(bounded) < before + 20 * MEBIBYTE
    for raw in silent:
        raw.expect_slow_consumer()
    wait_until(lambda: figures(bounded)["slow_consumers"] >= len(silent))


def figures(server: Server) -> dict[str, int]:
    """Return what the server's process has reported."""
    reported: dict[str, int] = json.loads(server.manage("stream_stats", "--json").stdout)
    return reported


async def test_a_trickle_does_not_save_a_client_that_never_reads(bounded: Server) -> None:
    token = bounded.token()
    raw = RawClient(bounded, token)
    sent = [{"n": n, "text": "x" * 1000} for n in range(100)]
    async with client(bounded, token) as page:
        await page.subscribe("events")
        for _ in range(30):
            await asyncio.to_thread(bounded.publish, "events", *sent)
            for _ in sent:
                await page.assert_data("events")
            raw.send({"type": "ping"})
    raw.expect_slow_consumer()


async def test_a_flood_that_nobody_answers_is_not_read(bounded: Server) -> None:
    token = bounded.token()
    raw = RawClient(bounded, token)
    flood = frame({"type": "ping", "metadata": {"text": "x" * 900}}) * 100
    async with client(bounded, token) as page:
        before = resident(bounded)
        raw.socket.settimeout(1.0)
        sent = 0
        try:
            while sent < 200 * MEBIBYTE:
                sent += await asyncio.to_thread(raw.socket.send, flood)
        except OSError:
            pass  # the server has stopped reading, or has closed
        assert sent < 20 * MEBIBYTE
        assert resident(bounded) < before + 20 * MEBIBYTE
        await page.assert_silent()
    raw.socket.close()


def test_nothing_is_left_of_clients_that_are_gone(data_dir: Path) -> None:
    """Connect, authenticate, subscribe, receive, leave: half of them without a close frame."""
    program = data_dir / "cycles.py"
    program.write_text(CYCLES)
    manage("migrate", data_dir=data_dir)
    done = run_program(program, data_dir)
    assert done == "nothing left"


CYCLES = """
import asyncio, json, os
import django
django.setup()
from websockets.asyncio.client import connect
from realtime import WebSocketConfig, WebSocketServer, apublish
from realtime.auth.tokens import create_token

OPTIONS = [{}, {"max_rate": 0.001}, {"conflate": "n", "max_rate": 0.001, "on_overflow": "drop"}]

async def cycle(url, token, number):
    async with connect(url.replace("http", "ws") + "/ws/") as socket:
        await socket.send(json.dumps({"type": "auth", "data": {"token": token}}))
        await socket.send(json.dumps({"type": "subscribe", "data": {"type": "events",
                                      "filters": {"n": number}, **OPTIONS[number % 3]}}))
        while json.loads(await socket.recv())["type"] != "subscribed":
            pass
        await apublish("events", {"n": number})
        assert json.loads(await socket.recv())["type"] == "data"
        await apublish("events", {"n": number})  # which some of them hold back
        if number % 2:
            socket.transport.abort()

async def main():
    config = WebSocketConfig(host="127.0.0.1", port=0, enable_rate_limiting=False)
    token = (await asyncio.to_thread(create_token, "cycles"))[1]
    server = WebSocketServer(config)
    await server.start()
    try:
        async def settled():
            while (figures := server.get_stats())["active_clients"]:
                await asyncio.sleep(0.02)
            return figures["process"]
        await cycle(server.url, token, 0)
        before = await settled()
        for _ in range(10):
            await asyncio.gather(*(cycle(server.url, token, n) for n in range(30)))
        after = await settled()
        names = ("connections", "waiting", "holders", "fan_out_groups")
        assert {n: after[n] for n in names} == dict.fromkeys(names, 0), after
        for name in ("tasks", "timers"):
            while after[name] > before[name] + 2:
                await asyncio.sleep(0.1)
                after = await settled()
    finally:
        await server.stop()
    print("nothing left")

asyncio.run(asyncio.wait_for(main(), 60))
"""


def run_program(program: Path, data_dir: Path) -> str:
    """Run a program with Django's settings; return the last line it prints."""
    done = subprocess.run(
        [sys.executable, str(program)],
        env=environment(
            data_dir, DJANGO_SETTINGS_MODULE="streaming_site.settings", PYTHONPATH=str(ROOT)
        ),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_memory_of_large_messages_comes_back(bounded: Server) -> None:
    token = bounded.token()
    raw = RawClient(bounded, token)
    raw.socket.close()
    bounded.publish("events", {"text": "x" * 500_000})
    before = resident(bounded)
    for _ in range(100):
        bounded.publish("events", {"text": "x" * 500_000})
    wait_until(lambda: resident(bounded) < before + 10 * MEBIBYTE)
