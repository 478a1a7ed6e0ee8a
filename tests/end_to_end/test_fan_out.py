"""Fan-out: every byte as it should be, in order, compressed or not, through small buffers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
)

from tests.support import Client, RawClient, Server, client, running


def payloads(count: int, size: int) -> list[dict[str, Any]]:
    """Return numbered payloads whose text is about *size* bytes and compresses somewhat."""
    return [{"n": n, "text": f"payload {n} " * (size // 10)} for n in range(count)]


@asynccontextmanager
async def small_client(server: Server, token: str, **options: Any) -> AsyncIterator[Client]:
    """Connect with a receive buffer so small that the server's writes are cut into pieces."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    async with connect(server.url, sock=raw, max_size=None, **options) as connection:
        page = Client(connection)
        await page.authenticate(token)
        yield page


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("size", [100, 3000, 100_000])
async def test_every_client_gets_the_same_payloads_in_order(
    server: Server, token: str, compression: Any, size: int
) -> None:
    sent = payloads(8, size)
    options = {"compression": compression}
    async with (
        small_client(server, token, **options) as derived,
        small_client(server, token, **options) as chosen,
        small_client(server, token, **options) as filtered,
        client(server, token) as plain,
    ):
        await derived.subscribe("events")
        await chosen.subscribe("events", subscription_id="my:own-id")
        await filtered.subscribe("events", {"n": [1, 6]})
        await plain.subscribe("events")
        server.publish("events", *sent)
        for page in (derived, chosen, plain):
            assert [await page.assert_data("events") for _ in sent] == sent
        assert [await filtered.assert_data("events") for _ in range(2)] == [sent[1], sent[6]]
        for page in (derived, chosen, filtered, plain):
            await page.assert_silent()


async def test_a_compressed_message_ends_with_the_clients_own_id(
    server: Server, token: str
) -> None:
    async with small_client(server, token, compression="deflate") as page:
        first = await page.subscribe("alerts", subscription_id="a")
        second = await page.subscribe("alerts", {"n": 0}, subscription_id="b" * 64)
        server.publish("alerts", *payloads(1, 5000))
        ids = {(await page.receive())["subscription_id"] for _ in range(2)}
        assert ids == {first, second}


async def test_replies_keep_their_place_between_deliveries(server: Server, token: str) -> None:
    async with small_client(server, token) as page, client(server, token) as witness:
        await page.subscribe("metrics")
        await witness.subscribe("metrics")
        # The client reads nothing yet, so that deliveries wait in the server's buffer.
        await asyncio.to_thread(server.publish, "metrics", *payloads(5, 30_000))
        for _ in range(5):
            await witness.assert_data("metrics")  # it comes after the other
        await page.send({"type": "ping"})
        kinds = [(await page.receive())["type"] for _ in range(6)]
        assert kinds == ["data"] * 5 + ["pong"]


async def test_an_event_loop_in_a_long_fan_out_still_answers(server: Server, token: str) -> None:
    count = 20
    async with many_clients(server, token, 300) as pages, client(server, token) as bystander:
        for page in pages:
            await page.send({"type": "subscribe", "data": {"type": "predictions"}})
            assert (await page.receive())["type"] == "subscribed"
        publishing = asyncio.create_task(
            asyncio.to_thread(server.publish, "predictions", *payloads(count, 2000))
        )
        answered = 0
        while not publishing.done():
            await bystander.assert_silent()
            answered += 1
        assert answered
        for page in pages:
            for n in range(count):
                assert (await page.assert_data("predictions"))["n"] == n


@asynccontextmanager
async def many_clients(server: Server, token: str, count: int) -> AsyncIterator[list[Client]]:
    """Connect *count* clients that authenticate."""
    connections = await asyncio.gather(
        *(connect(server.url, compression=None, max_size=None) for _ in range(count))
    )
    pages = [Client(connection) for connection in connections]
    await asyncio.gather(*(page.authenticate(token) for page in pages))
    try:
        yield pages
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


async def test_a_client_with_a_smaller_window_gets_messages_uncompressed(
    server: Server, token: str
) -> None:
    deflate = [ClientPerMessageDeflateFactory(server_max_window_bits=10)]
    async with connect(server.url, extensions=deflate, compression=None) as connection:
        [agreed] = connection.protocol.extensions
        assert isinstance(agreed, PerMessageDeflate)
        assert agreed.remote_max_window_bits == 10
        page = Client(connection)
        await page.authenticate(token)
        await page.subscribe("events")
        server.publish("events", {"text": "x" * 10_000})
        assert await page.assert_data("events") == {"text": "x" * 10_000}
    with RawClient(server) as raw:
        offer = b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10"
        assert b"; server_max_window_bits=10" in raw.shake_hands(offer)
        raw.send_message({"type": "auth", "data": {"token": token}})
        raw.read_message()
        raw.send_message({"type": "subscribe", "data": {"type": "events"}})
        raw.read_message()
        server.publish("events", {"text": "x" * 10_000})
        assert raw.read_message()["data"]["event"] == {"text": "x" * 10_000}


async def test_compression_can_be_off(data_dir: Path) -> None:
    with running(data_dir, compression="none", require_auth="false") as server:
        async with connect(server.url, compression="deflate") as connection:
            assert connection.protocol.extensions == []
            page = Client(connection)
            await page.subscribe("events")
            server.publish("events", {"text": "x" * 10_000})
            assert await page.assert_data("events") == {"text": "x" * 10_000}


async def test_a_compressed_message_from_a_client_is_bounded(server: Server) -> None:
    async with connect(server.url, compression="deflate", max_size=None) as connection:
        page = Client(connection)
        await page.send(json.dumps({"type": "ping", "x": "y" * 100_000}))
        assert (await page.receive())["type"] == "pong"
        await page.send("z" * (64 * 1024 * 1024))  # 64 KB on the wire
        await page.assert_closed(1009, "message too big")
