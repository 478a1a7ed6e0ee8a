"""Checks of a subscription's options, over WebSockets and in event streams."""

from __future__ import annotations

from typing import Any

from realtime.conformance.catalogue import Scene, check, expect, expect_keys, expect_that
from realtime.conformance.messages import PAYLOAD_KEYS
from realtime.conformance.streams import blocking, mark, open_stream, refusal
from realtime.testing.client import Client

# So seldom that no second message comes while a check lasts.
SELDOM = 0.001
# Option -> what is in force when it is given alone.
GOOD: dict[str, dict[str, Any]] = {
    "max_rate": {"max_rate": 0.2},
    "conflate": {"conflate": "deep.host", "max_rate": 1},
    "batch_ms": {"batch_ms": 100},
    "fields": {"fields": ["deep.host", "n"]},
    "on_overflow": {"on_overflow": "drop"},
}
WRONG: dict[str, list[Any]] = {
    "max_rate": [0, -1, 1001, "5", True],
    "conflate": ["", "a..b", 1, ["a"]],
    "batch_ms": [0, 10_001, 1.5, "5", True],
    "fields": [[], "n", [1], ["a..b"], ["n"] * 65],
    "on_overflow": ["wait", True, 1],
}


async def subscribe(scene: Scene, client: Client, **options: Any) -> dict[str, Any]:
    """Subscribe to this run's messages; return the answer's data."""
    data = {"type": scene.kind, "filters": scene.filters} | options
    reply = await client.call({"type": "subscribe", "data": data})
    expect("the answer's type", reply["type"], "subscribed")
    answer: dict[str, Any] = reply["data"]
    return answer


async def check_reading(scene: Scene, client: Client, name: str) -> None:
    """Check what is in force, and that wrong values are refused by name."""
    answer = await subscribe(scene, client, **{name: GOOD[name][name]})
    expect("the options in force", answer.get("options"), GOOD[name])
    for value in WRONG[name]:
        data = {"type": scene.kind, name: value}
        reply = await client.call({"type": "subscribe", "data": data})
        expect(f"the answer to {value!r}", reply["type"], "error")
        expect(f"the code for {value!r}", reply["data"]["code"], "invalid_subscription")
        expect_that(f"a text that names {name}", name in reply["data"]["error"], reply["data"])


async def payload(scene: Scene, client: Client) -> dict[str, Any]:
    """Return the payload of the next message without this run's mark."""
    found = dict(await client.assert_data(scene.kind))
    found.pop("conformance", None)
    return found


@check("option max_rate")
async def _max_rate(scene: Scene) -> None:
    """The first message comes at once, then the newest when it may."""
    async with scene.connect() as client:
        await check_reading(scene, client, "max_rate")
    async with scene.connect() as client:
        await subscribe(scene, client, max_rate=2)
        await scene.publish(scene.kind, *({"n": n} for n in range(20)))
        found = [await payload(scene, client)]
        while found[-1] != {"n": 19}:
            found.append(await payload(scene, client))
        expect_that("fewer messages than were published", len(found) < 20, len(found))


@check("option conflate")
async def _conflate(scene: Scene) -> None:
    """A resume brings the newest message of each value."""
    async with scene.connect() as client:
        await check_reading(scene, client, "conflate")
    async with scene.connect() as client:
        before = await subscribe(scene, client)
        rows = [{"n": n, "host": n % 2} for n in range(6)]
        await scene.publish(scene.kind, *rows)
        for _ in rows:
            await client.receive()
        place = {"epoch": before["epoch"], "offset": before["offset"]}
        answer = await subscribe(scene, client, conflate="host", max_rate=SELDOM, resume=place)
        expect("replayed", answer["replayed"], 2)
        for row in rows[4:]:
            expect("the newest of a value", await payload(scene, client), row)
        await client.assert_silent()


@check("option batch_ms")
async def _batch(scene: Scene) -> None:
    """Several messages come in one frame."""
    async with scene.connect() as client:
        await check_reading(scene, client, "batch_ms")
    async with scene.connect() as client:
        await subscribe(scene, client, batch_ms=500)
        await scene.publish(scene.kind, {"n": 0}, {"n": 1}, {"n": 2})
        found: list[Any] = []
        while len(found) < 3:
            message = await client.receive()
            keys = {"type", "data", "timestamp", "subscription_id"}
            expect_keys("a data_batch message", message, keys, frozenset())
            expect("its type", message["type"], "data_batch")
            expect("its subscription type", message["data"]["subscription_type"], scene.kind)
            key = PAYLOAD_KEYS[scene.kind]
            for one in message["data"]["messages"]:
                expect_keys("a message in it", one, {key, "timestamp", "metadata"}, frozenset())
                found.append(one[key]["n"])
        expect("the messages", found, [0, 1, 2])


@check("option fields")
async def _fields(scene: Scene) -> None:
    """Only these parts come; nothing of a payload that has none of them."""
    async with scene.connect() as client:
        await check_reading(scene, client, "fields")
    async with scene.connect() as client:
        await subscribe(scene, client, fields=["n", "deep.host"])
        await scene.publish(scene.kind, {"n": 1, "m": 2, "deep": {"host": "a", "x": 1}}, {"m": 3})
        for expected in ({"n": 1, "deep": {"host": "a"}}, {}):
            expect("the payload", await client.assert_data(scene.kind), expected)


@check("option on_overflow")
async def _on_overflow(scene: Scene) -> None:
    """Either value is taken; the default is not an option in force."""
    async with scene.connect() as client:
        await check_reading(scene, client, "on_overflow")
        answer = await subscribe(scene, client, on_overflow="close")
        expect("the options in force", answer.get("options"), None)


def _check_parameter(name: str, text: str, wrong: str) -> None:
    @check(f"parameter {name}")
    async def body(scene: Scene) -> None:
        """The option is in force, and a wrong value is refused."""
        stream = await open_stream(scene, None, filter=mark(scene), **{name: text})
        with stream.response:
            event = await blocking(stream.next)
            expect("the options in force", event.data["data"].get("options"), GOOD[name])
        status, found = await refusal(scene, scene.kind, scene.token, **{name: wrong})
        expect("the status of a wrong value", status, 400)
        expect("its code", found["code"], "invalid_subscription")


_check_parameter("max_rate", "0.2", "0")
_check_parameter("conflate", "deep.host", "a..b")
_check_parameter("fields", "deep.host,n", "a,,b")
_check_parameter("on_overflow", "drop", "wait")
