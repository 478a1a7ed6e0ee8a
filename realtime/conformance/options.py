"""Checks of a subscription's filters, explanations and options."""

from __future__ import annotations

import json
from typing import Any

from realtime.conformance import expect
from realtime.conformance.catalogue import POSITION, Scene, check
from realtime.protocol import PAYLOAD_KEYS
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


@check(*(f"operator {operator}" for operator in CASES))
async def _operator(scene: Scene, row: str) -> None:
    """What {row} lets through, of values of every kind."""
    for operand, wanted in CASES[row]:
        await _expect_matches(scene, {"v": {row: operand}}, wanted)


@check("message subscribe.or")
async def _alternatives(scene: Scene) -> None:
    """Of the filters in $or one must match, along with what is beside them."""
    for alternatives, wanted in ALTERNATIVES:
        await _expect_matches(scene, {"$or": alternatives}, wanted)
    await _expect_matches(scene, {"v": {"ne": 1}, "$or": ALTERNATIVES[0][0]}, [1, 4])


@check("message subscribe.wrong_filters")
async def _wrong(scene: Scene, client: Client) -> None:
    """What no filter may say is refused, and what is wrong is named."""
    for name, condition in WRONG_FILTERS:
        filters = {name: condition}
        data = await expect.error(client, scene.subscribe(filters=filters), "invalid_subscription")
        subject = f"the answer to {json.dumps(filters)} to name the path"
        expect.that(subject, repr(name) in str(data.get("error")), data)


@check("message subscribe.explain")
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
# Option -> what is in force when it is given alone, and wrong values.
OPTIONS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "max_rate": ({"max_rate": 0.2}, [0, -1, 1001, "5", True]),
    "conflate": ({"conflate": "deep.host", "max_rate": 1}, ["", "a..b", 1, ["a"]]),
    "batch_ms": ({"batch_ms": 100}, [0, 10_001, 1.5, "5", True]),
    "fields": ({"fields": ["deep.host", "n"]}, [[], "n", [1], ["a..b"], ["n"] * 65]),
    "on_overflow": ({"on_overflow": "drop"}, ["wait", True, 1]),
}


async def _expect_read(scene: Scene, option: str) -> None:
    """Expect that a right value of an option is in force, and that wrong ones are refused."""
    in_force, wrong = OPTIONS[option]
    async with scene.connect() as client:
        answer = await expect.subscribed(scene, client, **{option: in_force[option]})
        expect.equal("the options in force", answer.get("options"), in_force)
        for value in wrong:
            request = scene.subscribe(**{option: value})
            data = await expect.error(client, request, "invalid_subscription")
            expect.that(f"a text that names {option}", option in data["error"], data)


@check("option max_rate")
async def _max_rate(scene: Scene, client: Client, row: str) -> None:
    """The first message comes at once, then the newest when it may."""
    await _expect_read(scene, row)
    await expect.subscribed(scene, client, max_rate=2)
    await scene.publish_numbers(range(20))
    numbers = await expect.numbers(scene, client, 1)
    while numbers[-1] != 19:
        numbers += await expect.numbers(scene, client, 1)
    expect.that("fewer messages than were published", len(numbers) < 20, len(numbers))


@check("option conflate")
async def _conflate(scene: Scene, client: Client, row: str) -> None:
    """A resume brings the newest message of each value."""
    await _expect_read(scene, row)
    before = await expect.subscribed(scene, client)
    await scene.publish(scene.kind, *({"n": n, "host": n % 2} for n in range(6)))
    await expect.numbers(scene, client, 6)
    place = {name: before[name] for name in POSITION}
    answer = await expect.subscribed(scene, client, conflate="host", max_rate=SELDOM, resume=place)
    expect.equal("replayed", answer["replayed"], 2)
    newest = await expect.numbers(scene, client, 2)
    expect.equal("the newest of each value", newest, [4, 5])
    await client.assert_silent()


@check("option batch_ms")
async def _batch(scene: Scene, client: Client, row: str) -> None:
    """Several messages come in one frame."""
    await _expect_read(scene, row)
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


@check("option fields")
async def _fields(scene: Scene, client: Client, row: str) -> None:
    """Only these parts come; nothing of a payload that has none of them."""
    await _expect_read(scene, row)
    await expect.subscribed(scene, client, fields=["n", "deep.host"])
    await scene.publish(scene.kind, {"n": 1, "m": 2, "deep": {"host": "a", "x": 1}}, {"m": 3})
    for expected in ({"n": 1, "deep": {"host": "a"}}, {}):
        expect.equal("the payload", await client.assert_data(scene.kind), expected)


@check("option on_overflow")
async def _on_overflow(scene: Scene, client: Client, row: str) -> None:
    """Either value is taken; the default is not an option in force."""
    await _expect_read(scene, row)
    answer = await expect.subscribed(scene, client, on_overflow="close")
    expect.equal("the options in force", answer.get("options"), None)
