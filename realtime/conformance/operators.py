"""Checks of operators and alternatives in filters, of wrong filters, and of explanations."""

from __future__ import annotations

import json
from typing import Any

from realtime.conformance import expect
from realtime.conformance.catalogue import PAYLOAD_KEYS, Scene, check, client_check
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
WRONG: list[tuple[str, Any]] = [
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
    for name, condition in WRONG:
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
