"""``docs/asyncapi.yaml`` describes what the code says and what a server sends."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from realtime.filters.compiler import OPERATORS, FilterError, compile_filters
from realtime.protocol import PAYLOAD_KEYS, SUBSCRIPTION_TYPES, ErrorCode, ProtocolError
from realtime.protocol.commands import SUBSCRIPTION_ID, parse
from realtime.protocol.subscribe import read_options, read_start
from tests.support import ROOT, Client, Server, client

API: dict[str, Any] = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text())
MESSAGES = API["components"]["messages"]
SCHEMAS = API["components"]["schemas"]


def resolved(part: Any) -> Any:
    """Return a part of the description with all references followed."""
    if isinstance(part, dict):
        if "$ref" in part:
            found: Any = API
            for name in part["$ref"].removeprefix("#/").split("/"):
                found = found[name]
            return resolved(found)
        return {name: resolved(value) for name, value in part.items()}
    return [resolved(value) for value in part] if isinstance(part, list) else part


def validator(name: str) -> Draft202012Validator:
    """Return what checks messages of a type."""
    schema = resolved(MESSAGES[name]["payload"])
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check(message: dict[str, Any]) -> dict[str, Any]:
    """Check a message of a server; return it."""
    validator(message["type"]).validate(message)
    return message


def test_every_reference_leads_somewhere() -> None:
    resolved(API)
    assert {*API["channels"]["stream"]["messages"]} == {*MESSAGES}


def test_its_names_are_the_codes() -> None:
    assert tuple(SCHEMAS["SubscriptionType"]["enum"]) == SUBSCRIPTION_TYPES
    assert SCHEMAS["ErrorCode"]["enum"] == [code.value for code in ErrorCode]
    assert SCHEMAS["SubscriptionId"]["pattern"] == f"^{SUBSCRIPTION_ID.pattern[:-2]}$"
    described = {}
    for part in resolved(MESSAGES["data"]["payload"]["properties"]["data"])["oneOf"]:
        [key] = set(part["properties"]) - {"subscription_type"}
        described[part["properties"]["subscription_type"]["const"]] = key
    assert described == PAYLOAD_KEYS


@pytest.mark.parametrize(
    ("text", "is_described"),
    [
        ('{"type": "auth", "data": {"token": "x"}, "metadata": {}}', True),
        ('{"type": "subscribe", "data": {"type": "events"}, "subscription_id": "a.b:c-d_1"}', True),
        ('{"type": "subscribe", "data": {"type": "events"}, "subscription_id": "a b"}', False),
        ('{"type": "unsubscribe", "data": {"subscription_id": "a"}}', True),
        ('{"type": "unsubscribe", "data": {}}', False),
        ('{"type": "ping"}', True),
        ('{"type": "ping", "metadata": 1}', False),
    ],
)
def test_it_takes_what_the_parser_takes(text: str, is_described: bool) -> None:
    message = yaml.safe_load(text)
    assert validator(message["type"]).is_valid(message) is is_described
    if is_described:
        parse(text)
    else:
        with pytest.raises(ProtocolError):
            parse(text)


@pytest.mark.parametrize(
    ("rewind", "is_described"), [(0, True), (1000, True), (1001, False), (-1, False), ("1", False)]
)
def test_the_bounds_of_rewind(rewind: Any, is_described: bool) -> None:
    message = {"type": "subscribe", "data": {"type": "events", "rewind": rewind}}
    assert validator("subscribe").is_valid(message) is is_described
    if is_described:
        read_start(None, rewind)
    else:
        with pytest.raises(ValueError):
            read_start(None, rewind)


@pytest.mark.parametrize(
    ("filters", "is_described"),
    [
        ({"a": 1, "b": ["x", None]}, True),
        ({"a": {"gte": 1, "lt": "5"}, "b": {"in": [1]}, "c": {"contains": None}}, True),
        ({"$or": [{"a": 1}, {"b": {"exists": False}}]}, True),
        ({"a": {}}, False),
        ({"a": {"in": []}}, False),
        ({"a": {"gt": True}}, False),
        ({"a": {"regex": "x"}}, False),
        ({"a": {"prefix": "x" * 257}}, False),
        ({"$or": []}, False),
        ({"$or": [{}]}, False),
        ({"$or": {"a": 1}}, False),
    ],
)
def test_the_filters(filters: Any, is_described: bool) -> None:
    message = {"type": "subscribe", "data": {"type": "events", "filters": filters}}
    assert validator("subscribe").is_valid(message) is is_described
    if is_described:
        compile_filters(filters)
    else:
        with pytest.raises(FilterError):
            compile_filters(filters)


def test_every_operator_is_described() -> None:
    assert tuple(SCHEMAS["Operators"]["properties"]) == OPERATORS


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("max_rate", [0.001, 0.2, 5, 1000], [0, 1000.5, "5", True]),
        ("conflate", ["a", "a.b"], ["", 1, "x" * 257]),
        ("batch_ms", [1, 10_000], [0, 10_001, 1.5]),
        ("fields", [["a"], ["a.b"] * 64], [[], ["a"] * 65, "a", [1]]),
        ("on_overflow", ["close", "drop"], ["wait", True]),
    ],
)
def test_the_bounds_of_options(name: str, taken: list[Any], refused: list[Any]) -> None:
    for values, is_described in ((taken, True), (refused, False)):
        for value in values:
            data = {"type": "events", name: value}
            message = {"type": "subscribe", "data": data}
            assert validator("subscribe").is_valid(message) is is_described
            if is_described:
                read_options(data)
            else:
                with pytest.raises(ValueError):
                    read_options(data)


async def ask(page: Client, message: dict[str, Any], answer: str) -> dict[str, Any]:
    """Send a described message; check that the answer is one, of this type."""
    validator(message["type"]).validate(message)
    reply = check(await page.call(message))
    assert reply["type"] == answer, reply
    return reply


async def test_what_a_server_sends(server: Server) -> None:
    token = server.new_token(name="described", expires_at=None)
    async with client(server) as page:
        await ask(page, {"type": "ping", "metadata": {"n": 1}}, "pong")
        subscribe = {"type": "subscribe", "data": {"type": "events"}}
        await ask(page, subscribe, "error")
        await ask(page, {"type": "auth", "data": {"token": "wrong"}}, "auth_failed")
        await ask(page, {"type": "auth", "data": {"token": token}}, "auth_success")
        for kind in SUBSCRIPTION_TYPES:
            data = {
                "type": kind,
                "filters": {"$or": [{"a.b": [7041976, "x", None]}, {"c": {"prefix": "d"}}]},
                "rewind": 1,
                "explain": True,
            }
            message = {"type": "subscribe", "data": data, "subscription_id": kind}
            await ask(page, message | {"metadata": {}}, "subscribed")
            server.publish(kind, {"a": {"b": 7041976}})
            assert check(await page.receive())["type"] == "data"
        await ask(page, {"type": "ping"}, "pong")
        less = {"type": "metrics", "max_rate": 9, "conflate": "a", "fields": ["a.b"], "batch_ms": 1}
        less["on_overflow"] = "drop"
        less_id = (await ask(page, {"type": "subscribe", "data": less}, "subscribed"))[
            "subscription_id"
        ]
        server.publish("metrics", {"a": {"b": 1}}, {"a": 2})
        assert check(await page.receive())["type"] == "data_batch"
        gone = {"type": "unsubscribe", "data": {"subscription_id": less_id}}
        await ask(page, gone, "unsubscribed")
        gone = {"type": "unsubscribe", "data": {"subscription_id": "events"}}
        await ask(page, gone, "unsubscribed")
        await ask(page, gone, "error")
        server.administer(
            "t = AccessToken.objects.get(name='described'); t.types = ['alerts']; t.save()"
        )
        for _ in range(len(SUBSCRIPTION_TYPES) - 2):
            assert check(await page.receive())["data"] == {"reason": "forbidden"}
        for wrong in ({"type": "nothing"}, {"type": "ping", "metadata": 1}, subscribe):
            assert check(await page.call(wrong))["type"] == "error"
        layer = "from asgiref.sync import async_to_sync\nmessage = {'type': 'stream.message', "
        layer += "'payload': {'a': {'b': 7041976}}}\n"
        server.administer(
            layer + "async_to_sync(get_channel_layer().group_send)('realtime.alerts', message)"
        )
        assert check(await page.receive())["metadata"] == {}


def test_it_can_fail() -> None:
    with pytest.raises(ValidationError):
        check({"type": "pong", "timestamp": "2026-11-23T18:00:00Z"})
    with pytest.raises(ValidationError):
        check({"type": "pong", "timestamp": "2026-11-23T18:00:00.000Z", "more": 1})
