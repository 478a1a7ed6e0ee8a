"""Authenticate, subscribe, receive, unsubscribe, ping: over real sockets, from another process."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.support import Client, Server, client

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
KEYS = {
    "events": "event",
    "metrics": "metrics",
    "alerts": "alert",
    "predictions": "prediction",
    "aggregations": "aggregation",
    "system_status": "status",
}


async def test_a_client_receives_what_another_process_publishes(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("events", {"user.id": ["a", "b"]})
        server.publish("events", {"user": {"id": "c"}}, {"user": {"id": "b"}, "n": 1})
        assert await page.assert_data("events") == {"user": {"id": "b"}, "n": 1}
        await page.assert_silent()


@pytest.mark.parametrize("path", ["/", "/ws", "/ws/", "", "/ws/?page=1"])
async def test_paths_of_the_endpoint(server: Server, token: str, path: str) -> None:
    async with client(server, token, path=path) as page:
        await page.assert_silent()


@pytest.mark.parametrize("kind", KEYS)
async def test_a_data_message(server: Server, token: str, kind: str) -> None:
    payload = {"text": 'é\u2028"\\\0', "n": 12345678901234567890, "f": 1.5, "deep": [{"x": None}]}
    async with client(server, token) as page:
        subscription_id = await page.subscribe(kind)
        server.publish(kind, payload)
        message = await page.receive()
    assert TIMESTAMP.fullmatch(message.pop("timestamp"))
    assert isinstance(message.pop("metadata"), dict)
    assert message == {
        "type": "data",
        "data": {KEYS[kind]: payload, "subscription_type": kind},
        "subscription_id": subscription_id,
    }


async def test_each_client_gets_what_it_subscribed_to(server: Server, token: str) -> None:
    async with client(server, token) as first, client(server, token) as second:
        await first.subscribe("events", {"n": 1})
        await second.subscribe("events", {"n": 2})
        await second.subscribe("alerts")
        server.publish("events", {"n": 1}, {"n": 2}, {"n": 3})
        assert await first.assert_data("events") == {"n": 1}
        assert await second.assert_data("events") == {"n": 2}
        server.publish("alerts", {"n": 1})
        assert await second.assert_data("alerts") == {"n": 1}
        await first.assert_silent()


async def test_a_plain_group_send_is_delivered_once(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("alerts", {"n": 1})
        server.administer(
            "from asgiref.sync import async_to_sync\n"
            "for n in (0, 1):\n"
            "    async_to_sync(get_channel_layer().group_send)('realtime.alerts', "
            "{'type': 'stream.message', 'payload': {'n': n}})"
        )
        message = await page.receive()
        assert message["data"] == {"alert": {"n": 1}, "subscription_type": "alerts"}
        assert message["metadata"] == {}
        server.publish("alerts", {"n": 1, "last": True})
        assert await page.assert_data("alerts") == {"n": 1, "last": True}


async def test_unsubscribe_ends_delivery(server: Server, token: str) -> None:
    async with client(server, token) as page:
        ended = await page.subscribe("metrics")
        kept = await page.subscribe("metrics", {"n": 2})
        reply = await page.call({"type": "unsubscribe", "data": {"subscription_id": ended}})
        assert TIMESTAMP.fullmatch(reply.pop("timestamp"))
        assert reply == {"type": "unsubscribed", "subscription_id": ended, "data": {}}
        server.publish("metrics", {"n": 1}, {"n": 2})
        message = await page.receive()
        assert (message["subscription_id"], message["data"]["metrics"]) == (kept, {"n": 2})
        await page.assert_silent()


async def test_a_ping_is_answered_before_and_after_authentication(
    server: Server, token: str
) -> None:
    async with client(server) as page:
        reply = await page.call({"type": "ping"})
        assert TIMESTAMP.fullmatch(reply.pop("timestamp"))
        assert reply == {"type": "pong"}
        await page.authenticate(token)
        assert (await page.call({"type": "ping"}))["type"] == "pong"


METADATA: list[str] = [
    '{"request":1}',
    "{}",
    '{ "spaces" : "are kept", "n": 1.0, "big": 123456789012345678901234567890, "é": "\\u00e9"}',
    '{"text":"' + "x" * (1024 - len('{"text":""}')) + '"}',
]


@pytest.mark.parametrize("metadata", METADATA)
async def test_metadata_comes_back_in_every_direct_reply(
    server: Server, token: str, metadata: str
) -> None:
    requests: list[tuple[dict[str, Any], str]] = [
        ({"type": "subscribe", "data": {"type": "events"}}, "error"),
        ({"type": "auth", "data": {"token": token}}, "auth_success"),
        ({"type": "ping"}, "pong"),
        ({"type": "subscribe", "data": {"type": "events"}, "subscription_id": "a"}, "subscribed"),
        ({"type": "subscribe", "data": {"type": "alerts"}, "subscription_id": "a"}, "error"),
        ({"type": "subscribe", "data": {"type": "nothing"}}, "error"),
        ({"type": "subscribe"}, "error"),
        ({"type": "unsubscribe", "data": {"subscription_id": "a"}}, "unsubscribed"),
        ({"type": "unsubscribe", "data": {"subscription_id": "a"}}, "error"),
        ({"type": "nothing"}, "error"),
    ]
    if metadata == METADATA[0]:
        requests.append(({"type": "auth"}, "auth_failed"))  # each is answered later
    async with client(server) as page:
        for request, kind in requests:
            await page.send(f'{json.dumps(request)[:-1]}, "metadata": {metadata}}}')
            text = await page.socket.recv()
            assert isinstance(text, str)
            assert json.loads(text)["type"] == kind
            assert f'"metadata":{metadata}' in text, text
            # It belongs to that message alone.
            assert "metadata" not in await page.call({"type": "ping"})


async def test_metadata_does_not_appear_in_data(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("events", metadata={"mine": 1})
        server.publish("events", {"n": 1})
        assert "mine" not in (await page.receive())["metadata"]


async def test_timestamps_and_unknown_fields_are_ignored(server: Server, token: str) -> None:
    async with client(server, token) as page:
        for extra in (
            {"timestamp": "2024-01-01T00:00:00.000Z"},
            {"timestamp": "not a time"},
            {"unknown": [1, {"x": None}], "Type": "auth", "": 0},
            {"data": None, "subscription_id": None, "metadata": None, "timestamp": None},
        ):
            reply = await page.call({"type": "ping"} | extra)
            assert reply.keys() == {"type", "timestamp"}
            assert reply["timestamp"] != extra.get("timestamp")


@pytest.mark.parametrize("form", ["text", "binary", "fragments", "empty fragments"])
async def test_forms_in_which_a_message_may_come(server: Server, token: str, form: str) -> None:
    text = json.dumps({"type": "ping", "metadata": {"text": "é𝄞"}}, ensure_ascii=False)
    async with client(server, token) as page:
        if form == "text":
            await page.socket.send(text)
        elif form == "binary":
            await page.socket.send(text.encode())
        elif form == "fragments":
            await page.socket.send(iter(text))
        else:
            await page.socket.send(["", text, "", ""])
        reply = await page.receive()
        assert reply["type"] == "pong" and reply["metadata"] == {"text": "é𝄞"}


async def test_the_server_answers_text_and_control_frames(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.socket.send(b'{"type": "ping"}')
        assert isinstance(await page.socket.recv(), str)
        await (await page.socket.ping(b"still there?"))


async def test_requests_sent_without_waiting_are_answered_in_order(
    server: Server, token: str
) -> None:
    requests: list[dict[str, Any]] = [
        {"type": "auth", "data": {"token": token}},
        {"type": "subscribe", "data": {"type": "events"}, "subscription_id": "mine"},
        {"type": "subscribe", "data": {"type": "nothing"}},
        {"type": "unsubscribe", "data": {"subscription_id": "mine"}},
    ]
    requests += [{"type": "ping"}] * 200
    async with client(server) as page:
        for number, request in enumerate(requests):
            await page.send(request | {"metadata": {"number": number}})
        replies = [await page.receive() for _ in requests]
    assert [reply["metadata"]["number"] for reply in replies] == list(range(len(requests)))
    kinds = ["auth_success", "subscribed", "error", "unsubscribed"] + ["pong"] * 200
    assert [reply["type"] for reply in replies] == kinds


async def test_a_compressing_client_is_served_like_any_other(server: Server, token: str) -> None:
    from websockets.asyncio.client import connect

    async with connect(server.url, compression="deflate") as socket:
        page = Client(socket)
        await page.authenticate(token)
        await page.subscribe("events")
        server.publish("events", {"text": "compressed " * 500})
        assert await page.assert_data("events") == {"text": "compressed " * 500}
