"""Whatever a client sends: the documented error or close code, and nothing for anyone else."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support import Client, RawClient, Server, client

MEBIBYTE = 1024 * 1024

# What cannot be read, with a word of the explanation.
INVALID: dict[str, tuple[str | bytes, str]] = {
    "empty text": ("", "empty"),
    "empty binary": (b"", "empty"),
    "a space": (" ", "JSON"),
    "no JSON": ("hello", "JSON"),
    "half an object": ('{"type": "ping"', "JSON"),
    "two objects": ('{"type": "ping"}{"type": "ping"}', "JSON"),
    "single quotes": ("{'type': 'ping'}", "JSON"),
    "a trailing comma": ('{"type": "ping",}', "JSON"),
    "a comment": ('{"type": "ping"} // hello', "JSON"),
    "a control character": ('{"type": "pi\nng"}', "JSON"),
    "a zero byte": ("\0", "JSON"),
    "a byte order mark": ('\ufeff{"type": "ping"}', "JSON"),
    "a binary frame that is no UTF-8": (b'{"type": "ping", "x": "\xff"}', "JSON"),
    "a binary frame in UTF-16": ('{"type": "ping"}'.encode("utf-16"), "JSON"),
    "binary noise": (bytes(range(256)), "JSON"),
    "NaN": ('{"type": "ping", "x": NaN}', "JSON"),
    "only NaN": ("NaN", "JSON"),
    "infinity": ('{"type": "ping", "x": -Infinity}', "JSON"),
    "a number out of range": ('{"type": "ping", "x": 1e999}', "JSON"),
    "a lone surrogate": ('{"type": "ping", "x": "\\ud800"}', "JSON"),
    "a lone surrogate as a key": ('{"type": "ping", "\\udfff": 1}', "JSON"),
    "10,000 arrays": ("[" * 10_000 + "]" * 10_000, "nested"),
    "10,000 arrays in a field": (
        '{"type":"ping","x":' + "[" * 10_000 + "]" * 10_000 + "}",
        "nested",
    ),
    "100,000 open objects": ('{"x":' * 100_000, "nested"),
    "10,000 objects as metadata": (
        '{"type": "ping", "metadata": ' + '{"x":' * 10_000 + "1" + "}" * 10_001,
        "nested",
    ),
    "an array": ("[]", "object"),
    "a message in an array": ('[{"type": "ping"}]', "object"),
    "a string": ('"ping"', "object"),
    "a number": ("1", "object"),
    "true": ("true", "object"),
    "null": ("null", "object"),
    "no type": ("{}", "type"),
    "a type of null": ('{"type": null}', "type"),
    "a type that is a number": ('{"type": 1}', "type"),
    "a type that is an object": ('{"type": {}}', "type"),
    "a type that is an array": ('{"type": ["ping"]}', "type"),
    "a type that is a boolean": ('{"type": true}', "type"),
    "data that is a string": ('{"type": "ping", "data": "x"}', "data"),
    "data that is an array": ('{"type": "auth", "data": []}', "data"),
    "data that is a number": ('{"type": "subscribe", "data": 1}', "data"),
    "data that is false": ('{"type": "unsubscribe", "data": false}', "data"),
    "an id that is a number": ('{"type": "ping", "subscription_id": 1}', "subscription_id"),
    "an id that is an object": ('{"type": "ping", "subscription_id": {}}', "subscription_id"),
    "a timestamp that is a number": ('{"type": "ping", "timestamp": 1700000000}', "timestamp"),
    "metadata that is a string": ('{"type": "ping", "metadata": "x"}', "metadata"),
    "metadata that is an array": ('{"type": "ping", "metadata": []}', "metadata"),
    "metadata that is a number": ('{"type": "ping", "metadata": 0}', "metadata"),
    "metadata over a kibibyte": (
        json.dumps({"type": "ping", "metadata": {"x": "y" * 1024}}),
        "metadata",
    ),
    "metadata over a kibibyte of UTF-8": (
        json.dumps({"type": "ping", "metadata": {"x": "é" * 512}}, ensure_ascii=False),
        "metadata",
    ),
    "subscribe without data": ('{"type": "subscribe"}', "data"),
    "subscribe with data of null": ('{"type": "subscribe", "data": null}', "data"),
    "unsubscribe without data": ('{"type": "unsubscribe"}', "subscription_id"),
    "unsubscribe without id": ('{"type": "unsubscribe", "data": {}}', "subscription_id"),
    "unsubscribe from a number": (
        '{"type": "unsubscribe", "data": {"subscription_id": 1}}',
        "subscription_id",
    ),
}
for _chosen in ("", "x" * 65, "a b", "é", "a/b", "a\n", '"', "\0"):
    _text = json.dumps(
        {"type": "subscribe", "data": {"type": "events"}, "subscription_id": _chosen}
    )
    INVALID[f"a chosen id {_chosen!r}"[:40]] = _text, "subscription_id"

UNKNOWN: list[str] = ["", "PING", "ping ", "pong", "auth_success", "data", "é", "__class__", "\0"]
UNKNOWN += ["x" * 200, "receive_json", "websocket.close"]


@pytest.fixture
async def bystander(server: Server, token: str) -> AsyncIterator[Client]:
    """A client that must get its data and nothing else."""
    async with client(server, token) as page:
        await page.subscribe("system_status", {"for": "the bystander"})
        yield page
        server.publish("system_status", {"for": "the bystander"})
        assert await page.assert_data("system_status") == {"for": "the bystander"}
        await page.assert_silent()
    assert "Traceback" not in server.log()


def check_invalid(reply: dict[str, Any], word: str) -> None:
    """Check that a reply is ``invalid_message`` and says why."""
    assert reply["type"] == "error", reply
    assert reply["data"].keys() == {"error", "code"}, reply
    assert reply["data"]["code"] == "invalid_message"
    text = reply["data"]["error"]
    assert text.startswith("Invalid message format: ") and word in text and len(text) < 500, text


@pytest.mark.parametrize("authenticated", [False, True])
async def test_what_cannot_be_read(
    server: Server, token: str, bystander: Client, authenticated: bool
) -> None:
    async with client(server, token if authenticated else None) as page:
        for name, (text, word) in INVALID.items():
            await page.send(text)
            try:
                check_invalid(await page.receive(), word)
            except (AssertionError, TimeoutError) as error:
                raise AssertionError(f"{name}: {error}") from error
            await page.assert_silent()


@pytest.mark.parametrize("authenticated", [False, True])
async def test_unknown_types(
    server: Server, token: str, bystander: Client, authenticated: bool
) -> None:
    async with client(server, token if authenticated else None) as page:
        for kind in UNKNOWN:
            reply = await page.call({"type": kind, "data": {"type": "events"}})
            assert reply["type"] == "error"
            assert reply["data"] == {
                "error": "Unknown message type",
                "code": "unknown_type",
                "details": {"type": kind},
            }


async def test_a_huge_unknown_type_is_not_sent_back_whole(server: Server) -> None:
    async with client(server) as page:
        reply = await page.call({"type": "x" * 500_000})
        assert reply["data"]["code"] == "unknown_type"
        assert len(json.dumps(reply)) < 2000


async def test_what_is_odd_but_valid(server: Server, token: str, bystander: Client) -> None:
    odd: list[str | bytes] = [
        ' \r\n\t{"type"\n:\t"ping"} \n',
        '{"\\u0074ype": "\\u0070ing"}',
        '{"type": "nothing", "type": "ping"}',
        b'{"type": "ping", "x": "\xf0\x9d\x84\x9e"}',
        '{"type": "ping", "x": "\\ud834\\udd1e"}',
        '{"type": "ping", "x": ' + "9" * 1000 + "}",
        '{"type": "ping", "x": 1e-999, "y": -0, "z": 1E+2}',
        '{"type": "ping", "x": ' + "[" * 100 + "]" * 100 + "}",
        json.dumps({"type": "ping", "x": {str(n): n for n in range(10_000)}}),
        '{"type": "ping", "x": "\\u0000"}',
        '{"type": "ping", "subscription_id": "not looked at, é"}',
        '{"type": "ping", "data": {"anything": [1]}}',
    ]
    async with client(server, token) as page:
        for text in odd:
            assert (await page.call(text))["type"] == "pong", text


async def test_odd_filters(server: Server, token: str, bystander: Client) -> None:
    odd: list[dict[str, Any]] = [
        {"__class__.__name__": "dict"},
        {"\0": "\0"},
        {"a": 10**300},
        {"a": 1e308},
        {"a": -(2**63) - 1},
        {"a": "x" * 100_000},
        {"%s": "{0}", "'": '"'},
        {"constructor.prototype": None},
    ]
    async with client(server, token) as page:
        for filters in odd:
            reply = await page.call(
                {"type": "subscribe", "data": {"type": "events", "filters": filters}}
            )
            assert reply["type"] == "subscribed" and reply["data"]["filters"] == filters
        server.publish("events", {"a": 10**300}, {"a": 1e308}, {"a": -(2**63) - 1}, {"a": "\0"})
        for _ in range(3):
            await page.assert_data("events")
        await page.assert_silent()


async def test_a_message_too_big(server: Server, token: str, bystander: Client) -> None:
    for text in ("[" * (MEBIBYTE + 1), b"\xff" * (MEBIBYTE + 1), '"' + "x" * 3 * MEBIBYTE + '"'):
        async with client(server, token) as page:
            await page.send(text)
            await page.assert_nothing_but_closed(1009, "message too big")


async def test_large_rubbish_is_answered(server: Server, token: str, bystander: Client) -> None:
    async with client(server, token) as page:
        for text in ("[" * MEBIBYTE, "0" * MEBIBYTE, "[" + "0," * 500_000, b"\0" * MEBIBYTE):
            reply = await page.call(text)
            assert reply["data"]["code"] == "invalid_message"
            assert len(json.dumps(reply)) < 500


async def test_rubbish_at_random(server: Server, token: str, bystander: Client) -> None:
    """Each message gets one answer, whatever a seeded hand has done to it."""
    chance = random.Random(8765)
    messages = [
        json.dumps(message).encode()
        for message in (
            {"type": "ping", "metadata": {"a": [1, "é", None]}},
            {"type": "subscribe", "data": {"type": "events", "filters": {"a.b": [1, True]}}},
            {"type": "unsubscribe", "data": {"subscription_id": "a"}},
            {"type": "subscribe", "data": {"type": "alerts"}, "subscription_id": "a"},
        )
    ]
    async with client(server, token) as page:
        for _ in range(500):
            text = bytearray(chance.choice(messages))
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(text))
                text[place : place + chance.randrange(3)] = chance.choice(
                    [b"", b"\xff", b"{", b"]", b'"', b"\\u", b"1e9", b"null", b"\0", b":", b","]
                )
            reply = await page.call(bytes(text))
            assert reply["type"] in {"error", "pong", "subscribed", "unsubscribed"}, text


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n\r\n",
        b"hello\r\n\r\n",
        bytes(range(256)) * 10,
        b"GET /ws/ HTTP/1.1\r\n",
        b"GET /ws/ HTTP/9.9\r\n\r\n",
        b"GET /ws/ HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        b"POST /ws/ HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"GET /ws/ HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 99\r\nSec-WebSocket-Key: eA==\r\n\r\n",
        b"GET /ws/ HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
    ],
)
async def test_handshakes_that_are_none(server: Server, bystander: Client, sent: bytes) -> None:
    with RawClient(server) as raw:
        raw.socket.sendall(sent)
        raw.socket.shutdown(1)
        answer = raw.drain()
        assert not answer or answer.startswith(b"HTTP/1.1 4"), answer


async def test_clients_that_leave_in_the_middle(
    server: Server, token: str, bystander: Client
) -> None:
    with RawClient(server) as raw:
        raw.socket.sendall(b"GET /ws/ HTTP/1.1\r\nHost: a\r\nUpgr")
    for rest in (b"", b"\x81", b"\x81\xfe\x00", b"\x81\x85\0\0\0\0he", b"\x01\x82\0\0\0\0{}"):
        with RawClient(server).connect() as raw:
            raw.socket.sendall(rest)
    for messages in (
        [{"type": "auth", "data": {"token": token}}],
        [{"type": "auth", "data": {"token": "wrong"}}],
        [
            {"type": "auth", "data": {"token": token}},
            {"type": "subscribe", "data": {"type": "events"}},
        ],
    ):
        with RawClient(server).connect() as raw:
            for message in messages:
                raw.send_message(message)
    server.publish("events", {"n": 1})
