"""The consumer under any ASGI server: Channels' own communicator, without this project's Daphne."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test import override_settings

from realtime import apublish
from realtime.auth.tokens import create_token
from realtime.cluster.embedded import EmbeddedServer
from realtime.consumers import StreamConsumer
from realtime.delivery.transport import TRANSPORT_EXTENSION, AsgiTransport
from realtime.protocol import CloseCode, CloseReason
from realtime.routing import websocket_application
from realtime.sessions.node import Node, get_node
from tests.support import TIMEOUT
from tests.support.layers import IN_MEMORY, Configure, close_layer, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def open_to_all(configure: Configure) -> None:
    """Ask for no token, unless a test says otherwise."""
    configure(require_auth="false")


@pytest.fixture(params=["valkey", "in-memory"])
async def node(
    request: pytest.FixtureRequest, valkey: EmbeddedServer, configure: Configure
) -> AsyncIterator[Node]:
    """The node of this loop, with each of the channel layers in turn."""
    layers = IN_MEMORY if request.param == "in-memory" else settings.CHANNEL_LAYERS
    with override_settings(CHANNEL_LAYERS=layers):
        node = get_node()
        yield node
        await node.close()
        await close_layer()


class Page:
    """A client of the communicator."""

    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator

    async def send(self, message: Any) -> None:
        """Send a message; text and bytes as they are."""
        if isinstance(message, bytes):
            await self.communicator.send_to(bytes_data=message)
        else:
            text = message if isinstance(message, str) else json.dumps(message)
            await self.communicator.send_to(text_data=text)

    async def receive(self) -> dict[str, Any]:
        """Return the next message."""
        message: dict[str, Any] = json.loads(await self.communicator.receive_from(TIMEOUT))
        return message

    async def call(self, message: Any) -> dict[str, Any]:
        """Send a message and return the next one received."""
        await self.send(message)
        return await self.receive()

    async def subscribe(self, kind: str, filters: Any = None) -> str:
        """Subscribe, successfully; return the subscription's id."""
        reply = await self.call({"type": "subscribe", "data": {"type": kind, "filters": filters}})
        assert reply["type"] == "subscribed", reply
        subscription_id: str = reply["subscription_id"]
        return subscription_id

    async def assert_closed(self, code: int, reason: str) -> None:
        """Check that the next thing the server does is to close, and how."""
        closing = await self.communicator.receive_output(TIMEOUT)
        assert closing == {"type": "websocket.close", "code": code, "reason": reason}


@asynccontextmanager
async def connected(path: str = "/ws/", **options: Any) -> AsyncIterator[Page]:
    """Connect a client, and disconnect it."""
    communicator = WebsocketCommunicator(websocket_application, path, **options)
    accepted, _ = await communicator.connect(TIMEOUT)
    assert accepted
    try:
        yield Page(communicator)
    finally:
        await communicator.disconnect(timeout=TIMEOUT)


@pytest.mark.parametrize("path", ["/", "/ws", "/ws/"])
async def test_a_page_subscribes_and_receives(node: Node, path: str) -> None:
    async with connected(path) as page:
        subscription_id = await page.subscribe("events", {"n": [1, 2]})
        for n in (0, 1, 2, 3):
            await apublish("events", {"n": n})
        for n in (1, 2):
            message = await page.receive()
            assert message["type"] == "data"
            assert message["data"] == {"event": {"n": n}, "subscription_type": "events"}
            assert message["subscription_id"] == subscription_id
        assert (await page.call({"type": "ping", "metadata": {"n": 7}}))["metadata"] == {"n": 7}


@pytest.mark.parametrize("path", ["/other/", "/ws/x", "//", "/admin/", "/ws//"])
async def test_other_paths_are_refused(configure: Configure, path: str) -> None:
    communicator = WebsocketCommunicator(websocket_application, path)
    accepted, _ = await communicator.connect(TIMEOUT)
    assert not accepted
    await communicator.wait(TIMEOUT)


async def test_binary_frames_are_read_as_text(node: Node) -> None:
    async with connected() as page:
        assert (await page.call(b'{"type":"ping"}'))["type"] == "pong"
        assert (await page.call(b"\xff"))["data"]["code"] == "invalid_message"
        assert (await page.call("nonsense"))["data"]["code"] == "invalid_message"


async def test_a_token_is_asked_for_and_its_filters_hold(node: Node, configure: Configure) -> None:
    configure(require_auth="true")
    token, secret = await sync_to_async(create_token)(
        "page", types=["events"], filters={"tenant": "a"}
    )
    async with connected() as page:
        assert (await page.call({"type": "subscribe", "data": {"type": "events"}}))["data"] == {
            "error": "Authentication required",
            "code": "auth_required",
        }
        failed = await page.call({"type": "auth", "data": {"token": "wrong"}})
        assert failed["type"] == "auth_failed"
        assert failed["data"] == {"error": "Invalid credentials", "code": "invalid_credentials"}
        success = await page.call({"type": "auth", "data": {"token": secret}})
        assert success["type"] == "auth_success"
        assert success["data"]["token"] == token.prefix
        assert success["data"]["types"] == ["events"]
        forbidden = await page.call({"type": "subscribe", "data": {"type": "alerts"}})
        assert forbidden["data"] == {"error": "Not permitted", "code": "forbidden"}
        await page.subscribe("events")
        await apublish("events", {"tenant": "b", "n": 1})
        await apublish("events", {"tenant": "a", "n": 2})
        assert (await page.receive())["data"]["event"] == {"tenant": "a", "n": 2}


async def test_the_third_failure_closes(node: Node, configure: Configure) -> None:
    configure(require_auth="true")
    async with connected() as page:
        for _ in range(3):
            failed = await page.call({"type": "auth", "data": {"token": "wrong"}})
            assert failed["type"] == "auth_failed"
        await page.assert_closed(1008, "authentication failed")


async def test_an_origin_is_refused_after_the_handshake(node: Node, configure: Configure) -> None:
    configure(allowed_origins="https://app.example.com")
    async with connected(headers=[(b"origin", b"https://evil.example.com")]) as page:
        await page.assert_closed(1008, "origin not allowed")
    async with connected(headers=[(b"origin", b"https://app.example.com")]) as page:
        assert (await page.call({"type": "ping"}))["type"] == "pong"
    async with connected() as page:
        assert (await page.call({"type": "ping"}))["type"] == "pong"


async def test_a_newcomer_at_capacity_is_refused(node: Node, configure: Configure) -> None:
    configure(max_connections="1")
    async with connected() as first:
        assert (await first.call({"type": "ping"}))["type"] == "pong"
        async with connected() as second:
            await second.assert_closed(1013, "server at capacity")
        assert (await first.call({"type": "ping"}))["type"] == "pong"
    async with connected() as third:
        assert (await third.call({"type": "ping"}))["type"] == "pong"


async def test_one_who_disconnects_leaves_nothing(node: Node) -> None:
    async with connected() as page:
        await page.subscribe("events")
        await page.subscribe("events", {"n": 1})
        await page.subscribe("metrics")
        assert node.stats.active_clients == 1
        assert node.report()["total_subscriptions"] == 3
        assert node.hub.count_groups() == 3
    assert node.stats.active_clients == 0
    assert node.report()["total_subscriptions"] == 0
    assert node.hub.count_groups() == 0
    assert not node.roster.clients


async def test_the_figures_are_counted(node: Node) -> None:
    before = node.report()
    async with connected() as page:
        await page.subscribe("events")
        await apublish("events", {})
        assert (await page.receive())["type"] == "data"
        await page.call({"type": "ping"})
    after = node.report()
    grown = {key: after[key] - before[key] for key in ("messages_sent", "messages_received")}
    assert grown == {"messages_sent": 3, "messages_received": 2}
    assert after["total_connections"] - before["total_connections"] == 1
    assert after["messages_published"]["events"] - before["messages_published"]["events"] == 1


async def test_many_pages_receive_the_same(node: Node) -> None:
    pages = [connected() for _ in range(20)]
    opened = [await page.__aenter__() for page in pages]
    try:
        for page in opened:
            await page.subscribe("events")
        for n in range(5):
            await apublish("events", {"n": n})
        for page in opened:
            numbers = [(await page.receive())["data"]["event"]["n"] for _ in range(5)]
            assert numbers == [0, 1, 2, 3, 4]
    finally:
        for context in pages:
            await context.__aexit__(None, None, None)


# Under a server whose `send` waits for the client


class SlowServer:
    """An ASGI server whose client does not read until it is told to."""

    def __init__(self, **scope: Any) -> None:
        self.scope = {"type": "websocket", "path": "/ws/", "headers": [], **scope}
        self.sent: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task = asyncio.create_task(
            StreamConsumer()(self.scope, self._incoming.get, self._send)
        )
        self.give({"type": "websocket.connect"})

    def give(self, message: dict[str, Any]) -> None:
        """Let something come from the client."""
        self._incoming.put_nowait(message)

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] != "websocket.accept":
            await self.reads.wait()
        self.sent.append(message)

    async def disconnect(self) -> None:
        """Let the client go, and wait for the consumer to end."""
        self.give({"type": "websocket.disconnect", "code": 1006})
        async with asyncio.timeout(TIMEOUT):
            await self._task

    def texts(self) -> list[dict[str, Any]]:
        """Return the messages the client has received."""
        return [json.loads(m["text"]) for m in self.sent if m["type"] == "websocket.send"]


def subscribe_message(kind: str, **options: Any) -> dict[str, Any]:
    """Return what the server hands on when a client subscribes."""
    text = json.dumps({"type": "subscribe", "data": {"type": kind} | options})
    return {"type": "websocket.receive", "text": text}


async def test_a_slow_reader_is_closed_and_nobody_waits_for_it(
    node: Node, configure: Configure
) -> None:
    configure(max_buffered_bytes="65536")
    slow = SlowServer()
    slow.give(subscribe_message("events"))
    async with connected() as quick:
        await quick.subscribe("events")
        await until(lambda: node.report()["total_subscriptions"] == 2)
        for n in range(40):
            await apublish("events", {"n": n, "text": "x" * 4000})
            assert (await quick.receive())["data"]["event"]["n"] == n
        slow.reads.set()
        await until(lambda: slow.sent[-1]["type"] == "websocket.close")
        assert slow.sent[-1] == {
            "type": "websocket.close",
            "code": 1013,
            "reason": "slow consumer",
        }
        received = slow.texts()
        assert received[0]["type"] == "subscribed"
        numbers = [message["data"]["event"]["n"] for message in received[1:]]
        assert numbers == list(range(len(numbers)))  # in order, whole, and then the end
        assert len(numbers) * 4000 <= 2 * 65_536
        await slow.disconnect()


async def test_a_slow_reader_may_miss_messages_instead(node: Node, configure: Configure) -> None:
    configure(max_buffered_bytes="65536")
    slow = SlowServer()
    slow.give(subscribe_message("events", on_overflow="drop"))
    async with connected() as quick:
        await quick.subscribe("events")
        await until(lambda: node.report()["total_subscriptions"] == 2)
        offsets = []
        for n in range(40):
            await apublish("events", {"n": n, "text": "x" * 4000})
            offsets.append((await quick.receive())["metadata"]["offset"])
        slow.give({"type": "websocket.receive", "text": '{"type": "ping"}'})
        slow.reads.set()
        await until(lambda: bool(slow.texts()) and slow.texts()[-1]["type"] == "error")
        await apublish("events", {"n": 40})
        await until(lambda: slow.texts()[-1]["type"] == "data")
        messages = slow.texts()
        numbers = [m["data"]["event"]["n"] for m in messages if m["type"] == "data"]
        count = len(numbers) - 1
        assert numbers == [*range(count), 40]
        assert node.stats.dropped["events"] == 40 - count and node.stats.slow_consumers == 0
        assert count * 4000 < 32_768  # half of the bound is left for all else
        assert messages[-2]["data"]["details"] == {
            "from": offsets[count],
            "to": offsets[-1],
            "reason": "overflow",
        }
        # Who resumes from where the server said it was, before it told of a loss, loses nothing.
        [pong] = [m for m in messages if m["type"] == "pong"]
        [place] = pong["data"]["positions"].values()
        assert place["offset"] == offsets[count] - 1
        await slow.disconnect()


async def test_what_is_dropped_may_be_in_no_log(node: Node, configure: Configure) -> None:
    configure(max_buffered_bytes="4096")
    slow = SlowServer()
    slow.give(subscribe_message("events", on_overflow="drop"))
    async with connected() as quick:
        await quick.subscribe("events")
        await until(lambda: node.report()["total_subscriptions"] == 2)
        layer = get_channel_layer()
        for n in range(3):
            message = {"type": "stream.message", "payload": {"n": n, "text": "x" * 3000}}
            await layer.group_send("realtime.events", message)
            assert (await quick.receive())["metadata"] == {}
        slow.reads.set()
        await until(lambda: bool(slow.texts()) and slow.texts()[-1]["type"] == "error")
        details = {"from": None, "to": None, "reason": "overflow"}
        assert slow.texts()[-1]["data"]["details"] == details
        await slow.disconnect()


async def test_a_closed_connection_gets_no_more_deliveries(
    node: Node, configure: Configure
) -> None:
    configure(max_buffered_bytes="4096")
    slow = SlowServer()
    async with connected() as quick:
        await quick.subscribe("events", {"quick": True})  # so the group is joined
        slow.give(subscribe_message("events"))
        await until(lambda: node.report()["total_subscriptions"] == 2)
        await apublish("events", {"text": "x" * 10_000})  # more than the bound, for the slow one
        await apublish("events", {"quick": True})
        assert (await quick.receive())["type"] == "data"
        slow.reads.set()
        await apublish("events", {"quick": True, "late": True})
        assert (await quick.receive())["data"]["event"] == {"quick": True, "late": True}
        await until(lambda: slow.sent[-1]["type"] == "websocket.close")
        await slow.disconnect()
    assert slow.sent[-1]["type"] == "websocket.close"
    assert not any("late" in message.get("text", "") for message in slow.sent)


async def test_who_reads_the_largest_message_stays_connected(node: Node) -> None:
    async with connected() as page:
        await page.subscribe("events")
        payload = {"x": "y" * (1024 * 1024 - len('{"x":""}'))}
        await apublish("events", payload)
        assert (await page.receive())["data"]["event"] == payload
        assert (await page.call({"type": "ping"}))["type"] == "pong"


async def test_one_who_goes_with_a_full_buffer_leaves_nothing(node: Node) -> None:
    async with connected() as quick:
        await quick.subscribe("events")
        before = asyncio.all_tasks()
        slow = SlowServer()
        slow.give(subscribe_message("events"))
        await until(lambda: node.report()["total_subscriptions"] == 2)
        await apublish("events", {"text": "x" * 10_000})
        assert (await quick.receive())["type"] == "data"
        await slow.disconnect()
        assert node.report()["total_subscriptions"] == 1
        assert not slow.texts()
        await until(lambda: asyncio.all_tasks() <= before)


async def test_a_server_without_extensions_gets_the_plain_transport(configure: Configure) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    transport = AsgiTransport(send, lambda: 1000)
    assert not transport.deflated
    assert TRANSPORT_EXTENSION == "realtime.transport"
    transport.close(CloseCode.SERVICE_RESTART, CloseReason.RESTARTING)
    transport.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)
    transport.write(b"\x81\x02{}")
    await until(lambda: bool(sent))
    assert sent == [{"type": "websocket.close", "code": 1012, "reason": "server restarting"}]


async def test_what_is_buffered_comes_before_the_close() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    transport = AsgiTransport(send, lambda: 1000)
    transport.write(b"\x81\x02{}\x81\x02[]")
    transport.close(CloseCode.SERVICE_RESTART, CloseReason.RESTARTING)
    await until(lambda: len(sent) == 3)
    assert [message.get("text") for message in sent] == ["{}", "[]", None]
