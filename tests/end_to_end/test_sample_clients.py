"""Clients of the documented shape, as a user would write them, authenticate and receive data."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.support import TIMEOUT, Server

FILTERS = {"event_type": "click", "payload.user_id": ["u1", "u2"]}
CLICK = {"event_type": "click", "payload": {"user_id": "u2"}}
OTHERS: list[dict[str, Any]] = [
    {"event_type": "click", "payload": {"user_id": "u3"}},
    {"event_type": "view", "payload": {"user_id": "u1"}},
    {"event_type": "click"},
]
METRICS = {"cpu": 0.5}


class StreamingClient:
    """Connects, authenticates, subscribes at once; keeps what it receives."""

    def __init__(self, uri: str, token: str) -> None:
        self.uri = uri
        self.token = token
        self.seen: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def connect(self) -> None:
        """Handle messages until the connection ends."""
        async with websockets.connect(self.uri) as websocket:
            self.websocket = websocket
            await self.authenticate()
            await self.subscribe("events", FILTERS)
            await self.subscribe("metrics")
            async for message in websocket:
                await self.handle_message(json.loads(message))

    async def authenticate(self) -> None:
        """Send the token."""
        await self.send({"type": "auth", "data": {"token": self.token}})

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message."""
        await self.websocket.send(json.dumps(message))

    async def subscribe(self, sub_type: str, filters: dict[str, Any] | None = None) -> None:
        """Subscribe, without waiting for the answer."""
        data = {"type": sub_type, "filters": filters or {}}
        await self.send({"type": "subscribe", "data": data})

    async def unsubscribe(self, subscription_id: str) -> None:
        """Unsubscribe."""
        await self.send({"type": "unsubscribe", "data": {"subscription_id": subscription_id}})

    async def handle_message(self, message: dict[str, Any]) -> None:
        """Keep what came."""
        kind = message.get("type", "")
        await self.seen.put((kind, message["data"]))
        if "metrics" in message["data"]:
            await self.unsubscribe(message["subscription_id"])


async def test_a_python_client(server: Server, token: str) -> None:
    sample = StreamingClient(f"ws://127.0.0.1:{server.port}", token)
    running = asyncio.create_task(sample.connect())

    async def seen(kind: str) -> Any:
        async with asyncio.timeout(TIMEOUT):
            found, data = await sample.seen.get()
        assert found == kind, (found, data)
        return data

    assert (await seen("auth_success"))["client_id"]
    assert [(await seen("subscribed"))["type"] for _ in range(2)] == ["events", "metrics"]
    server.publish("events", *OTHERS, CLICK)
    assert await seen("data") == {"event": CLICK, "subscription_type": "events"}
    server.publish("metrics", METRICS)
    assert await seen("data") == {"metrics": METRICS, "subscription_type": "metrics"}
    await seen("unsubscribed")
    await sample.websocket.close()
    await running


@cache
def node() -> list[str]:
    """Return the command of a Node that has WebSocket; empty if there is none."""
    path = shutil.which("node")
    for options in ([], ["--experimental-websocket"]):
        command = [path or "", *options]
        probe = [*command, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if path and subprocess.run(probe, capture_output=True).returncode == 0:
            return command
    return []


async def test_a_javascript_client(server: Server, token: str) -> None:
    if not node():
        pytest.skip("no Node.js with WebSocket on PATH (20 or newer)")
    process = await asyncio.create_subprocess_exec(
        *node(),
        str(Path(__file__).with_name("sample_client.js")),
        f"ws://127.0.0.1:{server.port}",
        token,
        stdout=subprocess.PIPE,
    )
    stdout = process.stdout
    assert stdout is not None

    async def line() -> str:
        async with asyncio.timeout(TIMEOUT):
            return (await stdout.readline()).decode().strip()

    try:
        assert [await line() for _ in range(3)] == [
            "auth_success",
            "subscribed events",
            "subscribed metrics",
        ]
        server.publish("events", *OTHERS, CLICK)
        kind, _, data = (await line()).partition(" ")
        assert kind == "data"
        assert json.loads(data) == {"event": CLICK, "subscription_type": "events"}
        server.publish("metrics", METRICS)
        kind, _, data = (await line()).partition(" ")
        assert json.loads(data) == {"metrics": METRICS, "subscription_type": "metrics"}
        assert await line() == "unsubscribed"
    finally:
        process.kill()
        await process.communicate()
