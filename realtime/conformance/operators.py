"""Checks of what filters may say beyond equality, and of what is said of them."""

from __future__ import annotations

import json
from typing import Any

from realtime.conformance.catalogue import Body, Scene, check, expect, expect_keys, expect_that
from realtime.conformance.messages import PAYLOAD_KEYS, subscribe

SAMPLES: list[dict[str, Any]] = [
    {"v": 1},
    {"v": 1.5},
    {"v": True},
    {"v": "1"},
    {"v": "abc"},
    {"v": ["b", 1]},
    {"v": None},
    {},
]
# Operator -> what is said with it, and the places of the samples that match.
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
WRONG: list[Any] = [
    {"v": {}},
    {"v": {"$gt": 1}},
    {"v": {"gt": None}},
    {"v": {"exists": 1}},
    {"v": {"in": 1}},
    {"v": {"prefix": 1}},
    {"$or": []},
    {"$or": [{}]},
    {"$or": {"v": 1}},
]


async def _publish_samples(scene: Scene) -> dict[str, Any]:
    """Publish the samples, once; return filters that only they match."""
    if "samples" not in scene.done:
        await scene.publish(scene.kind, *({"sample": n} | one for n, one in enumerate(SAMPLES)))
        scene.done.add("samples")
    return scene.filters | {"sample": list(range(len(SAMPLES)))}


async def _expect_matches(scene: Scene, filters: dict[str, Any], wanted: list[int]) -> None:
    ours = await _publish_samples(scene)
    async with scene.connect() as client:
        answer = (await subscribe(client, scene.kind, filters=ours | filters, rewind=1000))["data"]
        messages = [await client.receive() for _ in range(answer["replayed"])]
    places = [message["data"][PAYLOAD_KEYS[scene.kind]].get("sample") for message in messages]
    expect(f"what matches {json.dumps(filters)}", places, wanted)


def _check_of(operator: str) -> Body:
    async def body(scene: Scene) -> None:
        for operand, wanted in CASES[operator]:
            await _expect_matches(scene, {"v": {operator: operand}}, wanted)

    body.__doc__ = f"What {operator} lets through, of values of every kind."
    return body


for _operator in CASES:
    check(f"operator {_operator}")(_check_of(_operator))


@check("message subscribe.or")
async def _alternatives(scene: Scene) -> None:
    """Of the filters in $or one must match, along with what is beside them."""
    for alternatives, wanted in ALTERNATIVES:
        await _expect_matches(scene, {"$or": alternatives}, wanted)
    await _expect_matches(scene, {"v": {"ne": 1}, "$or": ALTERNATIVES[0][0]}, [1, 4])


@check("message subscribe.wrong_filters")
async def _wrong(scene: Scene) -> None:
    """What no filter may say is refused, and what is wrong is named."""
    async with scene.connect() as client:
        for filters in WRONG:
            request = {"type": "subscribe", "data": {"type": scene.kind, "filters": filters}}
            reply = await client.call(request)
            said = reply.get("data", {})
            what = f"the answer to {json.dumps(filters)}"
            expect(what, said.get("code"), "invalid_subscription")
            [name] = filters
            expect_that(f"{what} to name the path", repr(name) in str(said.get("error")), said)


@check("message subscribe.explain")
async def _explain(scene: Scene) -> None:
    """The answer says what of the newest messages matches, in all, at each path, in each case."""
    filters = await _publish_samples(scene) | {"nowhere": 1, "$or": [{"v": 1}, {"v": "abc"}]}
    async with scene.connect() as client:
        answer = (await subscribe(client, scene.kind, filters=filters, explain=True))["data"]
        found = answer["explain"]
        expect_keys("explain", found, {"retained", "matching", "paths", "or"}, frozenset())
        expect("matching", found["matching"], 0)
        expect("the paths", list(found["paths"]), [*scene.filters, "sample", "nowhere"])
        expect("a path that is nowhere", found["paths"]["nowhere"], {"present": 0, "matching": 0})
        count = len(SAMPLES)
        expect("a path", found["paths"]["sample"], {"present": count, "matching": count})
        expect("how many alternatives", len(found["or"]), 2)
        for alternative in found["or"]:
            expect_keys("an alternative", alternative, {"matching", "paths"}, frozenset())
        wrongs: tuple[Any, ...] = (1, "true", [])
        for wrong in wrongs:
            request = {"type": "subscribe", "data": {"type": scene.kind, "explain": wrong}}
            reply = await client.call(request)
            expect(f"the answer to explain {wrong!r}", reply["type"], "error")
