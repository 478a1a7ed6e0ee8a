"""Checks of a subscription's filters, explanations and options, in messages and event streams."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from realtime.conformance import expect
from realtime.conformance.catalogue import (
    PAYLOAD_KEYS,
    POSITION,
    CheckBody,
    ClientCheckBody,
    Scene,
    check,
    client_check,
)
from realtime.conformance.streams import expect_wrong, open_stream
from realtime.testing.client import Client

SAMPLES = [*({"v": value} for value in (1, 1.5, True, "1", "abc", ["b", 1], None)), {}]
# Operator -> operands, and for each the places of the samples that match.
CASES: dict[str, list[tuple[Any, list[int]]]] = {
    "eq": [(1.0, [0]), (True, [2]), (None, [6])],
    "ne": [(1.0, [1, 2, 3, 4, 5, 6]), (None, [0, 1, 2, 3, 4, 5])],
    "in": [([1, "1"], [0, 3])],
    "nin": [([1, "1"], [1, 2, 4, 5, 6])],
    "exists": [(True, [0, 1, 2, 3, 4, 5, 6]), (False, [7])],
    "gt": [(1, [1]), ("1", [4])],
    "gte": [(1, [0, 1]), ("1", [3, 4])],
    "lt": [(1.5, [0]), ("abc", [3])],
    "lte": [(1.5, [0, 1]), ("abc", [3, 4])],
    "prefix": [("ab", [4]), ("", [3, 4])],
    "suffix": [("c", [4]), ("abcd", [])],
    "contains": [("b", [4, 5]), (1, [5]), (True, [])],
}
ALTERNATIVES: list[tuple[Any, list[int]]] = [
    ([{"v": {"gt": 1}}, {"v": {"prefix": "a"}}, {"v": {"exists": False}}], [1, 4, 7]),
    ([{"v": True}, {"$or": [{"v": "1"}, {"v": {"eq": None}}]}], [2, 3, 6]),
]
WRONG_FILTERS: list[tuple[str, Any]] = [
    *(("v", {operator: 1}) for operator in ("$gt", "exists", "in", "prefix")),
    ("v", {}),
    ("v", {"gt": None}),
    ("$or", []),
    ("$or", [{}]),
    ("$or", {"v": 1}),
]


async def _publish_samples(scene: Scene) -> dict[str, Any]:
    """Publish the samples, once in a run; return filters that only they match."""
    if "samples" not in scene.done:
        samples = ({"sample": number} | sample for number, sample in enumerate(SAMPLES))
        await scene.publish(scene.kind, *samples)
        scene.done.add("samples")
    return scene.filters | {"sample": list(range(len(SAMPLES)))}


async def _expect_matches(scene: Scene, filters: dict[str, Any], wanted: list[int]) -> None:
    all_filters = await _publish_samples(scene) | filters
    async with scene.connect() as client:
        answer = await expect.subscribed(scene, client, filters=all_filters, rewind=1000)
        messages = [await client.receive() for _ in range(answer["replayed"])]
    places = [message["data"][PAYLOAD_KEYS[scene.kind]].get("sample") for message in messages]
    expect.equal(f"what matches {json.dumps(filters)}", places, wanted)


def _check_operator(operator: str) -> None:
    @check(f"operator {operator}", f"What {operator} lets through, of values of every kind")
    async def body(scene: Scene) -> None:
        for operand, wanted in CASES[operator]:
            await _expect_matches(scene, {"v": {operator: operand}}, wanted)


for _operator in CASES:
    _check_operator(_operator)


@check("message subscribe.or")
async def _alternatives(scene: Scene) -> None:
    """Of the filters in $or one must match, along with what is beside them."""
    for alternatives, wanted in ALTERNATIVES:
        await _expect_matches(scene, {"$or": alternatives}, wanted)
    await _expect_matches(scene, {"v": {"ne": 1}, "$or": ALTERNATIVES[0][0]}, [1, 4])


@client_check("message subscribe.wrong_filters")
async def _wrong(scene: Scene, client: Client) -> None:
    """What no filter may say is refused, and what is wrong is named."""
    for name, condition in WRONG_FILTERS:
        filters = {name: condition}
        data = await expect.error(client, scene.subscribe(filters=filters), "invalid_subscription")
        subject = f"the answer to {json.dumps(filters)} to name the path"
        expect.that(subject, repr(name) in str(data.get("error")), data)


@client_check("message subscribe.explain")
async def _explain(scene: Scene, client: Client) -> None:
    """The answer says what of the newest messages matches, in all, at each path, in each case."""
    filters = await _publish_samples(scene) | {"nowhere": 1, "$or": [{"v": 1}, {"v": "abc"}]}
    answer = await expect.subscribed(scene, client, filters=filters, explain=True)
    expect.keys("subscribed", answer, expect.SUBSCRIBED | {"explain"})
    explanation = answer["explain"]
    expect.keys("explain", explanation, {"retained", "matching", "paths", "or"})
    expect.equal("matching", explanation["matching"], 0)
    paths = explanation["paths"]
    expect.equal("the paths", list(paths), [*scene.filters, "sample", "nowhere"])
    for path, count in (("nowhere", 0), ("sample", len(SAMPLES))):
        expect.equal(f"the path {path}", paths[path], {"present": count, "matching": count})
    expect.equal("how many alternatives", len(explanation["or"]), 2)
    for alternative in explanation["or"]:
        expect.keys("an alternative", alternative, {"matching", "paths"})
    wrong: Any
    for wrong in (1, "true", []):
        await expect.reply(client, scene.subscribe(explain=wrong), "error")


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


def option_check(name: str) -> Callable[[ClientCheckBody], CheckBody]:
    """Add a check of an option: how it is read, on a first client; then *body*, on a second."""

    def add(body: ClientCheckBody) -> CheckBody:
        @check(f"option {name}", (body.__doc__ or "").rstrip("."))
        async def checked(scene: Scene) -> None:
            async with scene.connect() as client:
                answer = await expect.subscribed(scene, client, **{name: GOOD[name][name]})
                expect.equal("the options in force", answer.get("options"), GOOD[name])
                for value in WRONG[name]:
                    request = scene.subscribe(**{name: value})
                    data = await expect.error(client, request, "invalid_subscription")
                    expect.that(f"a text that names {name}", name in data["error"], data)
            async with scene.connect() as client:
                await body(scene, client)

        return checked

    return add


async def payload(scene: Scene, client: Client) -> dict[str, Any]:
    """Return the payload of the next message without this run's mark."""
    received = dict(await client.assert_data(scene.kind))
    received.pop("conformance", None)
    return received


@option_check("max_rate")
async def _max_rate(scene: Scene, client: Client) -> None:
    """The first message comes at once, then the newest when it may."""
    await expect.subscribed(scene, client, max_rate=2)
    await scene.publish_numbers(range(20))
    payloads = [await payload(scene, client)]
    while payloads[-1] != {"n": 19}:
        payloads.append(await payload(scene, client))
    expect.that("fewer messages than were published", len(payloads) < 20, len(payloads))


@option_check("conflate")
async def _conflate(scene: Scene, client: Client) -> None:
    """A resume brings the newest message of each value."""
    before = await expect.subscribed(scene, client)
    rows = [{"n": n, "host": n % 2} for n in range(6)]
    await scene.publish(scene.kind, *rows)
    for _ in rows:
        await client.receive()
    place = {name: before[name] for name in POSITION}
    answer = await expect.subscribed(scene, client, conflate="host", max_rate=SELDOM, resume=place)
    expect.equal("replayed", answer["replayed"], 2)
    for row in rows[4:]:
        expect.equal("the newest of a value", await payload(scene, client), row)
    await client.assert_silent()


@option_check("batch_ms")
async def _batch(scene: Scene, client: Client) -> None:
    """Several messages come in one frame."""
    await expect.subscribed(scene, client, batch_ms=500)
    await scene.publish_numbers(range(3))
    received: list[Any] = []
    while len(received) < 3:
        batch = await client.receive()
        keys = {"type", "data", "timestamp", "subscription_id"}
        expect.keys("a data_batch message", batch, keys)
        expect.equal("its type", batch["type"], "data_batch")
        expect.equal("its subscription type", batch["data"]["subscription_type"], scene.kind)
        key = PAYLOAD_KEYS[scene.kind]
        for message in batch["data"]["messages"]:
            expect.keys("a message in it", message, {key, "timestamp", "metadata"})
            received.append(message[key]["n"])
    expect.equal("the messages", received, [0, 1, 2])


@option_check("fields")
async def _fields(scene: Scene, client: Client) -> None:
    """Only these parts come; nothing of a payload that has none of them."""
    await expect.subscribed(scene, client, fields=["n", "deep.host"])
    await scene.publish(scene.kind, {"n": 1, "m": 2, "deep": {"host": "a", "x": 1}}, {"m": 3})
    for expected in ({"n": 1, "deep": {"host": "a"}}, {}):
        expect.equal("the payload", await client.assert_data(scene.kind), expected)


@option_check("on_overflow")
async def _on_overflow(scene: Scene, client: Client) -> None:
    """Either value is taken; the default is not an option in force."""
    answer = await expect.subscribed(scene, client, on_overflow="close")
    expect.equal("the options in force", answer.get("options"), None)


def _check_parameter(name: str, text: str, wrong: str) -> None:
    @check(f"parameter {name}")
    async def body(scene: Scene) -> None:
        """The option is in force, and a wrong value is refused."""
        async with open_stream(scene, {name: text}) as stream:
            event = await stream.next()
            expect.equal("the options in force", event.data["data"].get("options"), GOOD[name])
        await expect_wrong(scene, **{name: wrong})


_check_parameter("max_rate", "0.2", "0")
_check_parameter("conflate", "deep.host", "a..b")
_check_parameter("fields", "deep.host,n", "a,,b")
_check_parameter("on_overflow", "drop", "wait")
