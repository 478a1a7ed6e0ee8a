"""Checks of what a WebSocket client sends and receives, of errors and of how a server closes."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable
from typing import Any

from realtime.conformance import expect
from realtime.conformance.catalogue import POSITION, Message, Scene, Skip, check
from realtime.protocol import PAYLOAD_KEYS
from realtime.testing.client import Client

# More than any sensible limit.
MANY = 5000
HUGE = 64 * 1024 * 1024


@check("envelope type", authenticated=False)
async def _type(client: Client) -> None:
    """Every message is a JSON object with a type, in text and in binary frames; it is required."""
    for frame in ('{"type": "ping"}', b'{"type": "ping"}', '{"type": "ping", "more": [1]}'):
        await expect.reply(client, frame, "pong")
    await expect.reply(client, {"data": {}}, "error")


@check("envelope data", authenticated=False)
async def _data(client: Client) -> None:
    """Data is an object, and left out where there is nothing to say."""
    reply = await client.call({"type": "ping"})
    expect.that("no data", "data" not in reply, reply)
    await expect.reply(client, {"type": "ping", "data": []}, "error")


@check("envelope subscription_id")
async def _subscription_id(scene: Scene, client: Client) -> None:
    """A chosen id comes back; without one it is a UUID, the same for equal subscriptions."""
    request = scene.subscribe(filters=scene.filters)
    reply = await client.call(request | {"subscription_id": "A-z_0.9:x"})
    expect.equal("the chosen id", reply["subscription_id"], "A-z_0.9:x")
    await expect.reply(client, request | {"subscription_id": "no spaces"}, "error")
    derived = []
    for filters in ({"a": [1, 2], "b": 1}, {"b": 1.0, "a": [2, 1]}):
        async with scene.connect() as another:
            derived.append(await another.subscribe(scene.kind, filters))
    expect.equal("the derived id's version", uuid.UUID(derived[0]).version, 5)
    expect.equal("the id of an equal subscription", derived[1], derived[0])


@check("envelope timestamp", authenticated=False)
async def _timestamp(client: Client) -> None:
    """The server's are RFC 3339 in UTC with milliseconds; a client's is ignored."""
    reply = await expect.reply(client, {"type": "ping", "timestamp": "yesterday"}, "pong")
    stamp = str(reply.get("timestamp"))
    is_timestamp = bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp))
    expect.that("a timestamp", is_timestamp, stamp)


@check("envelope metadata", authenticated=False)
async def _metadata(client: Client) -> None:
    """Metadata comes back unchanged in the direct reply; at most 1 KiB."""
    metadata = {"request": 7, "more": {"deep": [None, True, "ü"]}}
    for request in ("ping", "subscribe"):
        reply = await client.call({"type": request, "metadata": metadata})
        expect.equal(f"the metadata of the answer to {request}", reply.get("metadata"), metadata)
    await expect.reply(client, {"type": "ping", "metadata": {"long": "x" * 1024}}, "error")


@check("message auth", authenticated=False)
async def _auth(scene: Scene, client: Client) -> None:
    """A token is accepted, more than once; a wrong one is refused without a reason."""
    right = {"type": "auth", "data": {"token": scene.token}}
    for _ in range(2):
        reply = await expect.reply(client, right, "auth_success")
        expect.keys("auth_success", reply["data"], {"client_id", "token", "types", "expires_at"})
    for data in ({"token": "rt_wrong"}, {}):
        reply = await expect.reply(client, {"type": "auth", "data": data}, "auth_failed")
        wanted = {"error": "Invalid credentials", "code": "invalid_credentials"}
        expect.equal("auth_failed", reply["data"], wanted)
    await expect.reply(client, scene.subscribe(), "subscribed")


@check("message subscribe.answer")
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


@check("message subscribe.filters")
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
    places: dict[str, list[int]] = {
        await client.subscribe(scene.kind, scene.filters | filters): [] for filters, _ in cases
    }
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


@check("message subscribe.rewind")
async def _rewind(scene: Scene, client: Client) -> None:
    """The newest so many messages that match, in order; up to 1,000 may be asked for."""
    await scene.publish_numbers(range(10, 15))
    answer = await expect.subscribed(scene, client, rewind=3)
    expect.equal("recovered, replayed", [answer["recovered"], answer["replayed"]], [False, 3])
    expect.equal("what was replayed", await expect.numbers(scene, client, 3), [12, 13, 14])
    for wrong in (-1, 1001, "3", True, 1.5):
        await expect.reply(client, scene.subscribe(rewind=wrong), "error")


@check("message unsubscribe")
async def _unsubscribe(scene: Scene, client: Client) -> None:
    """An end is confirmed with the id."""
    id = await client.subscribe(scene.kind, scene.filters)
    request = {"type": "unsubscribe", "data": {"subscription_id": id}}
    reply = await expect.reply(client, request, "unsubscribed")
    expect.equal("its id", reply["subscription_id"], id)
    expect.equal("its data", reply.get("data"), {})
    await expect.error(client, request, "unknown_subscription")


@check("message ping")
async def _ping(scene: Scene, client: Client) -> None:
    """The answer has the position of each subscription, which moves on."""
    reply = await expect.reply(client, scene.subscribe(filters=scene.filters), "subscribed")
    positions = await client.positions()
    expect.equal("the subscriptions", list(positions), [reply["subscription_id"]])
    [position] = positions.values()
    expect.keys("a position", position, POSITION)
    is_not_behind = position["offset"] >= reply["data"]["offset"]
    expect.that("a position that is not behind that of subscribed", is_not_behind, position)


@check(*(f"type {kind}" for kind in PAYLOAD_KEYS))
async def _data_message(scene: Scene, client: Client, row: str) -> None:
    """A message has the payload under the type's key, and its position."""
    if row not in scene.allowed:
        raise Skip("the token does not allow it")
    id = await client.subscribe(row, scene.filters)
    payload = {"text": "ü\U0001f680", "numbers": [1, 1.5, -1e30], "null": None}
    await scene.publish(row, payload)
    message = await client.receive()
    keys = {"type", "data", "timestamp", "metadata", "subscription_id"}
    expect.keys("a data message", message, keys)
    data = {PAYLOAD_KEYS[row]: payload | scene.filters, "subscription_type": row}
    expect.equal("data", message["data"], data)
    expect.equal("subscription_id", message["subscription_id"], id)
    expect.keys("metadata", message["metadata"], POSITION)


async def expect_refusals(client: Client, code: str, *messages: Any) -> None:
    """Expect that each of these messages is answered with an error of this code, and no more."""
    for message in messages:
        await expect.error(client, message, code)
    expect.equal("after that, the positions in the answer to ping", await client.positions(), {})


@check("error invalid_message")
async def _invalid_message(scene: Scene, client: Client, row: str) -> None:
    """What cannot be read is named."""
    messages: tuple[Any, ...] = (
        *("", "{", "[]", "1", "null", '{"type": NaN}', {"type": 5}, {"data": {}}),
        *({"type": "ping", "data": 5}, {"type": "ping", "metadata": []}),
        *({"type": "subscribe"}, {"type": "unsubscribe", "data": {}}),
        scene.subscribe() | {"subscription_id": "x" * 65},
    )
    await expect_refusals(client, row, *messages)


@check("error forbidden")
async def _forbidden(scene: Scene, client: Client, row: str) -> None:
    """A type that the token does not allow."""
    await expect_refusals(client, row, scene.subscribe(type=scene.forbidden_type()))


@check("error invalid_subscription")
async def _invalid_subscription(scene: Scene, client: Client, row: str) -> None:
    """Wrong types, filters, positions and rewinds."""
    filters: list[dict[str, Any]] = [
        *({"a..b": 1}, {"": 1}, {"a": []}, {"a": {}}, {"a": [[1]]}, {"x" * 257: 1}),
        *({".".join("x" * 17): 1}, {"a": list(range(1001))}),
        {f"x{number}": 1 for number in range(33)},
    ]
    messages = [
        *(scene.subscribe(filters=each) for each in filters),
        *(scene.subscribe(resume={"epoch": "x"} | offset) for offset in ({}, {"offset": -1})),
        *(scene.subscribe(type="nothing"), scene.subscribe(rewind=1001)),
    ]
    await expect_refusals(client, row, *messages)


@check("error unknown_subscription")
async def _unknown_subscription(client: Client, row: str) -> None:
    """An end of what there is not."""
    unsubscribe = {"type": "unsubscribe", "data": {"subscription_id": "none"}}
    await expect_refusals(client, row, unsubscribe)


@check("error unknown_type")
async def _unknown_type(client: Client, row: str) -> None:
    """A type that there is not comes back in the details."""
    data = await expect.error(client, {"type": "no"}, row)
    expect.equal("details", data.get("details"), {"type": "no"})


@check("error auth_required", authenticated=False)
async def _auth_required(scene: Scene, client: Client, row: str) -> None:
    """Before authentication only auth and ping are answered."""
    if (await client.call(scene.subscribe()))["type"] == "subscribed":
        raise Skip("the server requires no authentication")
    unsubscribe = {"type": "unsubscribe", "data": {"subscription_id": "x"}}
    await expect_refusals(client, row, scene.subscribe(), unsubscribe)


@check("error duplicate_subscription")
async def _duplicate_subscription(scene: Scene, client: Client, row: str) -> None:
    """A chosen id that is in use for something else."""
    await client.subscribe(scene.kind, {"n": 1}, subscription_id="chosen")
    message = scene.subscribe(filters={"n": 2}) | {"subscription_id": "chosen"}
    await expect.error(client, message, row)


async def first_error(client: Client, messages: Iterable[Message]) -> Message:
    """Send messages until the answer is an error; return its data."""
    for message in messages:
        reply = await client.call(message)
        if reply["type"] == "error":
            data: Message = reply["data"]
            return data
    raise Skip(f"{MANY} are within the limit")


@check("error rate_limited", slow=True)
async def _rate_limited(client: Client) -> None:
    """Too many messages in a minute; says when to try again."""
    data = await first_error(client, ({"type": "ping"} for _ in range(MANY)))
    expect.equal("code", data["code"], "rate_limited")
    expect.equal("error", data["error"], "Rate limit exceeded")
    wait = data["details"]["retry_after"]
    expect.that("retry_after within a minute", 0 < wait <= 60, wait)


@check("error too_many_subscriptions", slow=True)
async def _too_many_subscriptions(scene: Scene, client: Client) -> None:
    """More subscriptions than a connection may have."""
    all_filters = (scene.filters | {"n": number} for number in range(MANY))
    data = await first_error(client, (scene.subscribe(filters=each) for each in all_filters))
    if data["code"] == "rate_limited":
        raise Skip("the rate limit comes first")
    expect.equal("code", data["code"], "too_many_subscriptions")
    expect.equal("error", data["error"], "Too many subscriptions")


@check("close 1008", authenticated=False)
async def _policy_violation(client: Client) -> None:
    """The third failed authentication."""
    for _ in range(3):
        await client.send({"type": "auth", "data": {"token": uuid.uuid4().hex}})
    await expect.closed(client, 1008, "authentication failed")


@check("close 1009")
async def _too_big(client: Client) -> None:
    """A message that is too big."""
    # The head of a frame that declares so many bytes; the server need not wait for them.
    client.socket.transport.write(b"\x81\xff" + HUGE.to_bytes(8, "big") + bytes(4 + 2048))
    await expect.closed(client, 1009)


@check("close 1007")
async def _invalid_text(client: Client) -> None:
    """Text that is not UTF-8."""
    await client.socket.send(b"\xff\xfe", text=True)
    await expect.closed(client, 1007)


@check("close 1002")
async def _protocol_error(client: Client) -> None:
    """A frame of a kind that there is not."""
    client.socket.transport.write(b"\x83\x80" + bytes(4))
    await expect.closed(client, 1002)
