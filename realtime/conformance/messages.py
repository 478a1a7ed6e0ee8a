"""Checks of the envelope, of what a client can send, of subscription types and of positions."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from realtime.conformance import expect
from realtime.conformance.catalogue import (
    PAYLOAD_KEYS,
    POSITION,
    TYPES,
    Scene,
    Skip,
    check,
    client_check,
)
from realtime.testing.client import Client

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@client_check("envelope type", authenticated=False)
async def _type(scene: Scene, client: Client) -> None:
    """Every message is a JSON object with a type, in text and in binary frames; it is required."""
    for frame in ('{"type": "ping"}', b'{"type": "ping"}', '{"type": "ping", "more": [1]}'):
        await expect.reply(client, frame, "pong")
    await expect.reply(client, {"data": {}}, "error")


@client_check("envelope data", authenticated=False)
async def _data(scene: Scene, client: Client) -> None:
    """Data is an object, and left out where there is nothing to say."""
    reply = await client.call({"type": "ping"})
    expect.that("no data", "data" not in reply, reply)
    await expect.reply(client, {"type": "ping", "data": []}, "error")


@check("envelope subscription_id")
async def _subscription_id(scene: Scene) -> None:
    """A chosen id comes back; without one it is a UUID, the same for equal subscriptions."""
    async with scene.connect() as client:
        request = scene.subscribe(filters=scene.filters)
        reply = await client.call(request | {"subscription_id": "A-z_0.9:x"})
        expect.equal("the chosen id", reply["subscription_id"], "A-z_0.9:x")
        await expect.reply(client, request | {"subscription_id": "no spaces"}, "error")
    derived = []
    for filters in ({"a": [1, 2], "b": 1}, {"b": 1.0, "a": [2, 1]}):
        async with scene.connect() as client:
            derived.append(await client.subscribe(scene.kind, filters))
    expect.equal("the derived id's version", uuid.UUID(derived[0]).version, 5)
    expect.equal("the id of an equal subscription", derived[1], derived[0])


@client_check("envelope timestamp", authenticated=False)
async def _timestamp(scene: Scene, client: Client) -> None:
    """The server's are RFC 3339 in UTC with milliseconds; a client's is ignored."""
    reply = await expect.reply(client, {"type": "ping", "timestamp": "yesterday"}, "pong")
    stamp = str(reply.get("timestamp"))
    expect.that("a timestamp", bool(TIMESTAMP.fullmatch(stamp)), stamp)


@client_check("envelope metadata", authenticated=False)
async def _metadata(scene: Scene, client: Client) -> None:
    """Metadata comes back unchanged in the direct reply; at most 1 KiB."""
    metadata = {"request": 7, "more": {"deep": [None, True, "ü"]}}
    for request in ("ping", "subscribe"):
        reply = await client.call({"type": request, "metadata": metadata})
        expect.equal(f"the metadata of the answer to {request}", reply.get("metadata"), metadata)
    await expect.reply(client, {"type": "ping", "metadata": {"long": "x" * 1024}}, "error")


@client_check("message auth", authenticated=False)
async def _auth(scene: Scene, client: Client) -> None:
    """A token is accepted, more than once; a wrong one is refused without a reason."""
    for _ in range(2):
        reply = await expect.reply(
            client, {"type": "auth", "data": {"token": scene.token}}, "auth_success"
        )
        expect.keys("auth_success", reply["data"], {"client_id", "token", "types", "expires_at"})
    for data in ({"token": "rt_wrong"}, {}):
        reply = await expect.reply(client, {"type": "auth", "data": data}, "auth_failed")
        wanted = {"error": "Invalid credentials", "code": "invalid_credentials"}
        expect.equal("auth_failed", reply["data"], wanted)
    await expect.reply(client, scene.subscribe(), "subscribed")


@client_check("message subscribe.answer")
async def _subscribe(scene: Scene, client: Client) -> None:
    """The answer has type, filters, position, recovered and replayed; twice is the same."""
    request = scene.subscribe(filters=scene.filters)
    first = await expect.reply(client, request, "subscribed")
    expect.keys("subscribed", first["data"], expect.SUBSCRIBED)
    answer = {"type": scene.kind, "filters": scene.filters, "recovered": False, "replayed": 0}
    for name, value in answer.items():
        expect.equal(name, first["data"][name], value)
    again = await client.call(request | {"subscription_id": "another"})
    expect.equal("the id the second time", again["subscription_id"], first["subscription_id"])


@client_check("message subscribe.filters")
async def _filters(scene: Scene, client: Client) -> None:
    """All paths must match, any value of an array may; equality is JSON's."""
    payloads: list[dict[str, Any]] = [
        {"n": 1, "deep": {"name": "a"}, "list": [1]},
        {"n": 1.0, "deep": {"name": "b"}},
        {"n": True, "deep": {"name": "a"}},
        {"n": "1", "deep": {"name": "a"}, "nothing": None},
        {"deep": {"name": "ü"}},
    ]
    # Filters, and the places of the payloads that match.
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [0, 1, 2, 3, 4]),
        ({"n": 1}, [0, 1]),
        ({"n": True}, [2]),
        ({"n": "1"}, [3]),
        ({"n": [1, "1"]}, [0, 1, 3]),
        ({"n": 1, "deep.name": "a"}, [0]),
        ({"nothing": None}, [3]),
        ({"deep.name": ["ü", "b"]}, [1, 4]),
        ({"deep": "a"}, []),
        ({"list": 1}, []),
    ]
    places: dict[str, list[int]] = {f"case-{number}": [] for number in range(len(cases))}
    for id, (filters, _) in zip(places, cases, strict=True):
        await client.subscribe(scene.kind, scene.filters | filters, subscription_id=id)
    await scene.publish(scene.kind, *({"place": at} | p for at, p in enumerate(payloads)))
    for _ in range(sum(len(matches) for _, matches in cases)):
        message = await client.receive()
        expect.equal("the type of the message", message["type"], "data")
        payload = message["data"][PAYLOAD_KEYS[scene.kind]]
        places[message["subscription_id"]].append(payload["place"])
    for received, (filters, matches) in zip(places.values(), cases, strict=True):
        expect.equal(f"what matches {json.dumps(filters)}", received, matches)
    await client.assert_silent()


@check("message subscribe.resume")
async def _resume(scene: Scene) -> None:
    """After a position comes everything that matches, then what is live, once and in order."""

    async def expect_resumed(client: Client, place: Any, recovered: bool, replayed: int) -> None:
        answer = await expect.subscribed(scene, client, resume=place)
        expect.equal(f"recovered after {place}", answer["recovered"], recovered)
        expect.equal(f"replayed after {place}", answer["replayed"], replayed)

    async with scene.connect() as client:
        answer = await expect.subscribed(scene, client)
        await scene.publish_numbers(range(5))
        expect.equal("what came live", await expect.numbers(scene, client, 5), list(range(5)))
    async with scene.connect() as client:
        await expect_resumed(client, {name: answer[name] for name in POSITION}, True, 5)
        expect.equal("what was replayed", await expect.numbers(scene, client, 5), list(range(5)))
        await scene.publish_numbers([5])
        message = await client.receive()
        expect.equal("the live message", message["data"][PAYLOAD_KEYS[scene.kind]]["n"], 5)
    async with scene.connect() as client:
        await expect_resumed(client, message["metadata"], True, 0)
        await client.assert_silent()
    async with scene.connect() as client:
        answer = await expect.subscribed(scene, client, resume={"epoch": "another", "offset": 1})
        expect.equal("recovered after another epoch", answer["recovered"], False)


@client_check("message subscribe.rewind")
async def _rewind(scene: Scene, client: Client) -> None:
    """The newest so many messages that match, in order; up to 1,000 may be asked for."""
    await scene.publish_numbers(range(10, 15))
    answer = await expect.subscribed(scene, client, rewind=3)
    expect.equal("recovered, replayed", [answer["recovered"], answer["replayed"]], [False, 3])
    expect.equal("what was replayed", await expect.numbers(scene, client, 3), [12, 13, 14])
    for wrong in (-1, 1001, "3", True, 1.5):
        await expect.reply(client, scene.subscribe(rewind=wrong), "error")


@client_check("message unsubscribe")
async def _unsubscribe(scene: Scene, client: Client) -> None:
    """An end is confirmed with the id."""
    id = await client.subscribe(scene.kind, scene.filters)
    request = {"type": "unsubscribe", "data": {"subscription_id": id}}
    reply = await expect.reply(client, request, "unsubscribed")
    expect.equal("its id", reply["subscription_id"], id)
    expect.equal("its data", reply.get("data"), {})
    await expect.error(client, request, "unknown_subscription")


@client_check("message ping")
async def _ping(scene: Scene, client: Client) -> None:
    """The answer has the position of each subscription, which moves on."""
    reply = await expect.reply(client, scene.subscribe(filters=scene.filters), "subscribed")
    positions = await client.positions()
    expect.equal("the subscriptions", list(positions), [reply["subscription_id"]])
    [position] = positions.values()
    expect.keys("a position", position, POSITION)
    expect.that(
        "a position that is not behind that of subscribed",
        position["offset"] >= reply["data"]["offset"],
        position,
    )


def _check_type(kind: str) -> None:
    @client_check(f"type {kind}")
    async def body(scene: Scene, client: Client) -> None:
        """A message has the payload under the type's key, and its position."""
        if kind not in scene.allowed:
            raise Skip("the token does not allow it")
        id = await client.subscribe(kind, scene.filters)
        payload = {"text": "ü\U0001f680", "numbers": [1, 1.5, -1e30], "null": None}
        await scene.publish(kind, payload)
        message = await client.receive()
        keys = {"type", "data", "timestamp", "metadata", "subscription_id"}
        expect.keys("a data message", message, keys)
        data = {PAYLOAD_KEYS[kind]: payload | scene.filters, "subscription_type": kind}
        expect.equal("data", message["data"], data)
        expect.equal("subscription_id", message["subscription_id"], id)
        expect.keys("metadata", message["metadata"], POSITION)


for _kind in TYPES:
    _check_type(_kind)
