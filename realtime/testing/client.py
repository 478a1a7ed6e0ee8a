"""A WebSocket client for tests: it shows every message as it came, and asserts what comes next."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from realtime.protocol import PAYLOAD_KEYS

# Seconds that anything may take before a test gives up.
TIMEOUT = 10.0

# A place in a log, as messages carry it: {"epoch": ..., "offset": ...}.
Position = dict[str, Any]
# Stands for any payload.
ANY: Any = object()


class Client:
    """A connection. Unlike :class:`realtime.client.StreamingClient` it never comes back."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: Mapping[str, Any] | str | bytes) -> None:
        """Send a message; text and bytes as they are."""
        await self.socket.send(json.dumps(message) if isinstance(message, Mapping) else message)

    async def receive(self, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(timeout):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def call(self, message: Mapping[str, Any] | str | bytes) -> dict[str, Any]:
        """Send a message and return the next one received."""
        await self.send(message)
        return await self.receive()

    async def authenticate(self, token: str) -> dict[str, Any]:
        """Authenticate, successfully; return the answer."""
        reply = await self.call({"type": "auth", "data": {"token": token}})
        assert reply["type"] == "auth_success", reply
        return reply

    async def subscribe(self, kind: str, filters: Any = None, **fields: Any) -> str:
        """Subscribe, successfully; return the subscription's id.

        *fields* are those of the message besides ``data``, such as ``subscription_id``.
        """
        data = {"type": kind} | ({} if filters is None else {"filters": filters})
        reply = await self.call({"type": "subscribe", "data": data, **fields})
        assert reply["type"] == "subscribed", reply
        subscription_id: str = reply["subscription_id"]
        return subscription_id

    async def subscribed(self, kind: str, **data: Any) -> dict[str, Any]:
        """Subscribe, successfully, with ``resume`` or ``rewind``; return the answer's data."""
        reply = await self.call({"type": "subscribe", "data": {"type": kind} | data})
        assert reply["type"] == "subscribed", reply
        answer: dict[str, Any] = reply["data"]
        return answer

    async def positions(self) -> dict[str, Position]:
        """Return the position of each subscription, from the answer to a ping."""
        reply = await self.call({"type": "ping"})
        assert reply["type"] == "pong", reply
        positions: dict[str, Position] = reply.get("data", {}).get("positions", {})
        return positions

    async def assert_data(self, kind: str, payload: Any = ANY) -> Any:
        """Return the payload of the next message, a ``data`` message of this subscription type.

        If a payload is given, it must be equal to that.
        """
        message = await self.receive()
        assert message["type"] == "data", message
        data = message["data"]
        assert data["subscription_type"] == kind, message
        received = data[PAYLOAD_KEYS[kind]]
        assert payload is ANY or received == payload, f"received {received}"
        return received

    async def assert_positions(self, positions: Sequence[Position]) -> None:
        """Check that the next messages are the ``data`` messages of these positions."""
        for position in positions:
            message = await self.receive()
            assert message["type"] == "data" and message["metadata"] == position, message

    async def assert_error(self, code: str) -> dict[str, Any]:
        """Return the data of the next message, an ``error`` of this code."""
        message = await self.receive()
        assert message["type"] == "error" and message["data"]["code"] == code, message
        data: dict[str, Any] = message["data"]
        return data

    async def assert_silent(self, after: Any = None) -> None:
        """Check that the server has nothing for this client.

        With what :func:`realtime.publish` returned, check that nothing came of that and of what was
        published before, however long the server takes; it needs a subscription of that type.
        Without, check that nothing was sent before the answer to a ping.
        """
        deadline = time.monotonic() + TIMEOUT
        while not _have_reached(positions := await self.positions(), after):
            assert time.monotonic() < deadline, f"has come as far as {positions}"
            await asyncio.sleep(0.01)

    async def assert_closed(
        self, code: int, reason: str | None = None, timeout: float = TIMEOUT
    ) -> None:
        """Read until the server closes, and check how it does."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as closed:
            received = closed.rcvd
        assert received is not None, "the connection was cut without a close frame"
        assert received.code == code, f"closed with {received.code}: {received.reason}"
        assert reason in (None, received.reason), f"closed because: {received.reason}"

    async def assert_nothing_but_closed(self, code: int, reason: str) -> None:
        """Check that the server closes, and sends no message before."""
        with contextlib.suppress(ConnectionClosed):
            message = await self.receive()
            raise AssertionError(f"received {message}")
        await self.assert_closed(code, reason)


def _have_reached(positions: Mapping[str, Position], after: Any) -> bool:
    """Tell whether any subscription has come as far as a position."""
    if after is None:
        return True
    epoch, offset = (after["epoch"], after["offset"]) if isinstance(after, Mapping) else after
    return any(
        position["epoch"] == epoch and position["offset"] >= offset
        for position in positions.values()
    )


@contextlib.asynccontextmanager
async def connect(url: str, token: str | None = None, **options: Any) -> AsyncIterator[Client]:
    """Connect, and authenticate if a token is given.

    *options* are those of ``websockets.connect``, such as ``origin`` or ``additional_headers``.
    """
    options = {"compression": None, "max_size": None} | options
    async with connect_websocket(url, **options) as socket:
        client = Client(socket)
        if token is not None:
            await client.authenticate(token)
        yield client
