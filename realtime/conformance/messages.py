"""Checks of the envelope, of what a client can send, of subscription types and of positions."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from realtime.conformance.catalogue import (
    TYPES,
    Scene,
    Skip,
    check,
    expect,
    expect_keys,
    expect_that,
)
from realtime.testing.client import Client

PAYLOAD_KEYS = dict(
    zip(TYPES, ("event", "metrics", "alert", "prediction", "aggregation", "status"), strict=True)
)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def subscribe(client: Client, kind: str, **data: Any) -> dict[str, Any]:
    """Subscribe and return the whole answer."""
    reply = await client.call({"type": "subscribe", "data": {"type": kind} | data})
    expect("the answer's type", reply["type"], "subscribed")
    expect_keys(
        "subscribed",
        reply["data"],
        {"type", "filters", "epoch", "offset", "recovered", "replayed"},
        frozenset({"explain"} if data.get("explain") else ()),
    )
    return reply


def position(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the position in an object."""
    return {"epoch": data["epoch"], "offset": data["offset"]}


async def numbers(client: Client, count: int, kind: str) -> list[Any]:
    """Return the ``n`` of the next messages."""
    return [(await client.assert_data(kind)).get("n") for _ in range(count)]


@check("envelope type")
async def _type(scene: Scene) -> None:
    """Every message is a JSON object with a type, in text and in binary frames; it is required."""
    async with scene.connect(authenticated=False) as client:
        for frame in ('{"type": "ping"}', b'{"type": "ping"}', '{"type": "ping", "more": [1]}'):
            reply = await client.call(frame)
            expect(f"the answer to {frame!r}", reply["type"], "pong")
        reply = await client.call({"data": {}})
        expect("the answer to a message without type", reply["type"], "error")


@check("envelope data")
async def _data(scene: Scene) -> None:
    """Data is an object, and left out where there is nothing to say."""
    async with scene.connect(authenticated=False) as client:
        reply = await client.call({"type": "ping"})
        expect_that("no data", "data" not in reply, reply)
        reply = await client.call({"type": "ping", "data": []})
        expect("the answer to data that is an array", reply["type"], "error")


@check("envelope subscription_id")
async def _subscription_id(scene: Scene) -> None:
    """A chosen id comes back; without one it is a UUID, the same for equal subscriptions."""
    async with scene.connect() as client:
        request = {"type": "subscribe", "data": {"type": scene.kind, "filters": scene.filters}}
        reply = await client.call(request | {"subscription_id": "A-z_0.9:x"})
        expect("the chosen id", reply["subscription_id"], "A-z_0.9:x")
        reply = await client.call(request | {"subscription_id": "no spaces"})
        expect("the answer to a wrong id", reply["type"], "error")
    derived = []
    for filters in ({"a": [1, 2], "b": 1}, {"b": 1.0, "a": [2, 1]}):
        async with scene.connect() as client:
            derived.append(
                (await subscribe(client, scene.kind, filters=filters))["subscription_id"]
            )
    expect("the derived id's version", uuid.UUID(derived[0]).version, 5)
    expect("the id of an equal subscription", derived[1], derived[0])


@check("envelope timestamp")
async def _timestamp(scene: Scene) -> None:
    """The server's are RFC 3339 in UTC with milliseconds; a client's is ignored."""
    async with scene.connect(authenticated=False) as client:
        reply = await client.call({"type": "ping", "timestamp": "yesterday"})
        expect("the answer", reply["type"], "pong")
        stamp = str(reply.get("timestamp"))
        expect_that("a timestamp", bool(TIMESTAMP.fullmatch(stamp)), stamp)


@check("envelope metadata")
async def _metadata(scene: Scene) -> None:
    """Metadata comes back unchanged in the direct reply; at most 1 KiB."""
    metadata = {"request": 7, "more": {"deep": [None, True, "ü"]}}
    async with scene.connect(authenticated=False) as client:
        for kind in ("ping", "subscribe"):
            reply = await client.call({"type": kind, "metadata": metadata})
            expect(f"the metadata of the answer to {kind}", reply.get("metadata"), metadata)
        reply = await client.call({"type": "ping", "metadata": {"long": "x" * 1024}})
        expect("the answer to more than 1 KiB", reply["type"], "error")


@check("message auth")
async def _auth(scene: Scene) -> None:
    """A token is accepted, more than once; a wrong one is refused without a reason."""
    async with scene.connect(authenticated=False) as client:
        for _ in range(2):
            reply = await client.call({"type": "auth", "data": {"token": scene.token}})
            expect("the answer's type", reply["type"], "auth_success")
            keys = {"client_id", "token", "types", "expires_at"}
            expect_keys("auth_success", reply["data"], keys, frozenset())
        for data in ({"token": "rt_wrong"}, {}):
            reply = await client.call({"type": "auth", "data": data})
            expect("the answer to a wrong token", reply["type"], "auth_failed")
            wanted = {"error": "Invalid credentials", "code": "invalid_credentials"}
            expect("auth_failed", reply["data"], wanted)
        reply = await client.call({"type": "subscribe", "data": {"type": scene.kind}})
        expect("after a failed auth, the answer to subscribe", reply["type"], "subscribed")


@check("message subscribe.answer")
async def _subscribe(scene: Scene) -> None:
    """The answer has type, filters, position, recovered and replayed; twice is the same."""
    async with scene.connect() as client:
        first = await subscribe(client, scene.kind, filters=scene.filters)
        expect("type", first["data"]["type"], scene.kind)
        expect("filters", first["data"]["filters"], scene.filters)
        expect("recovered", first["data"]["recovered"], False)
        expect("replayed", first["data"]["replayed"], 0)
        again = await client.call(
            {
                "type": "subscribe",
                "data": {"type": scene.kind, "filters": scene.filters},
                "subscription_id": "another",
            }
        )
        expect("the id the second time", again["subscription_id"], first["subscription_id"])


@check("message subscribe.filters")
async def _filters(scene: Scene) -> None:
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
    async with scene.connect() as client:
        places: dict[str, list[int]] = {}
        for number, (filters, _) in enumerate(cases):
            await client.subscribe(
                scene.kind, scene.filters | filters, subscription_id=f"case-{number}"
            )
            places[f"case-{number}"] = []
        await scene.publish(scene.kind, *({"place": at} | p for at, p in enumerate(payloads)))
        for _ in range(sum(len(matches) for _, matches in cases)):
            message = await client.receive()
            expect("the type of the message", message["type"], "data")
            payload = message["data"][PAYLOAD_KEYS[scene.kind]]
            places[message["subscription_id"]].append(payload["place"])
        for number, (filters, matches) in enumerate(cases):
            expect(f"what matches {json.dumps(filters)}", places[f"case-{number}"], matches)
        await client.assert_silent()


@check("message subscribe.resume")
async def _resume(scene: Scene) -> None:
    """After a position comes everything that matches, then what is live, once and in order."""
    async with scene.connect() as client:
        before = position((await subscribe(client, scene.kind, filters=scene.filters))["data"])
        await scene.publish(scene.kind, *({"n": n} for n in range(5)))
        expect("what came live", await numbers(client, 5, scene.kind), list(range(5)))
    async with scene.connect() as client:
        data = {"filters": scene.filters, "resume": before}
        answer = (await subscribe(client, scene.kind, **data))["data"]
        expect("recovered", answer["recovered"], True)
        expect("replayed", answer["replayed"], 5)
        expect("what was replayed", await numbers(client, 5, scene.kind), list(range(5)))
        await scene.publish(scene.kind, {"n": 5})
        message = await client.receive()
        expect("the live message", message["data"][PAYLOAD_KEYS[scene.kind]]["n"], 5)
    async with scene.connect() as client:
        data["resume"] = message["metadata"]
        answer = (await subscribe(client, scene.kind, **data))["data"]
        expect(
            "after the newest: recovered, replayed",
            [answer["recovered"], answer["replayed"]],
            [True, 0],
        )
        await client.assert_silent()
    async with scene.connect() as client:
        data["resume"] = {"epoch": "another", "offset": 1}
        answer = (await subscribe(client, scene.kind, **data))["data"]
        expect("recovered after another epoch", answer["recovered"], False)


@check("message subscribe.rewind")
async def _rewind(scene: Scene) -> None:
    """The newest so many messages that match, in order; up to 1,000 may be asked for."""
    await scene.publish(scene.kind, *({"n": n} for n in range(10, 15)))
    async with scene.connect() as client:
        data = {"filters": scene.filters, "rewind": 3}
        answer = (await subscribe(client, scene.kind, **data))["data"]
        expect("recovered, replayed", [answer["recovered"], answer["replayed"]], [False, 3])
        expect("what was replayed", await numbers(client, 3, scene.kind), [12, 13, 14])
        for wrong in (-1, 1001, "3", True, 1.5):
            request = {"type": "subscribe", "data": {"type": scene.kind, "rewind": wrong}}
            reply = await client.call(request)
            expect(f"the answer to rewind {wrong!r}", reply["type"], "error")


@check("message unsubscribe")
async def _unsubscribe(scene: Scene) -> None:
    """An end is confirmed with the id."""
    async with scene.connect() as client:
        known = await client.subscribe(scene.kind, scene.filters)
        request = {"type": "unsubscribe", "data": {"subscription_id": known}}
        reply = await client.call(request)
        expect("the answer's type", reply["type"], "unsubscribed")
        expect("its id", reply["subscription_id"], known)
        expect("its data", reply.get("data"), {})
        expect("the answer the second time", (await client.call(request))["type"], "error")


@check("message ping")
async def _ping(scene: Scene) -> None:
    """The answer has the position of each subscription, which moves on."""
    async with scene.connect() as client:
        answer = await subscribe(client, scene.kind, filters=scene.filters)
        known = answer["subscription_id"]
        places = await client.positions()
        expect("the subscriptions", list(places), [known])
        expect_keys("a position", places[known], {"epoch", "offset"}, frozenset())
        expect_that(
            "a position that is not behind that of subscribed",
            places[known]["offset"] >= answer["data"]["offset"],
            places[known],
        )


def _check_type(kind: str) -> None:
    @check(f"type {kind}")
    async def body(scene: Scene) -> None:
        """A message has the payload under the type's key, and its position."""
        if kind not in scene.allowed:
            raise Skip("the token does not allow it")
        async with scene.connect() as client:
            known = await client.subscribe(kind, scene.filters)
            payload = {"text": "ü\U0001f680", "numbers": [1, 1.5, -1e30], "null": None}
            await scene.publish(kind, payload)
            message = await client.receive()
            keys = {"type", "data", "timestamp", "metadata", "subscription_id"}
            expect_keys("a data message", message, keys, frozenset())
            data = {PAYLOAD_KEYS[kind]: payload | scene.filters, "subscription_type": kind}
            expect("data", message["data"], data)
            expect("subscription_id", message["subscription_id"], known)
            expect_keys("metadata", message["metadata"], {"epoch", "offset"}, frozenset())


for _kind in TYPES:
    _check_type(_kind)
