"""Subscriptions: their ids, their filters with JSON's equality, duplicates and limits."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.support import Client, Server, client

# name: (filters, a payload that matches, ..., then payloads that do not)
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]] = {
    "a string": ({"v": "a"}, [{"v": "a"}], [{"v": "A"}, {"v": "ab"}, {"v": ["a"]}, {"w": "a"}]),
    "a number": ({"v": 1}, [{"v": 1}, {"v": 1.0}], [{"v": True}, {"v": "1"}, {"v": 1.5}]),
    "a float": ({"v": 1.0}, [{"v": 1}, {"v": 1.0}], [{"v": True}, {"v": "1.0"}]),
    "zero": ({"v": 0}, [{"v": 0}, {"v": 0.0}, {"v": -0.0}], [{"v": False}, {"v": None}, {"v": ""}]),
    "a large number": ({"v": 2**53 + 1}, [{"v": 2**53 + 1}], [{"v": 2**53}]),
    "true": ({"v": True}, [{"v": True}], [{"v": 1}, {"v": "true"}, {"v": False}]),
    "false": ({"v": False}, [{"v": False}], [{"v": 0}, {"v": None}, {}]),
    "null": ({"v": None}, [{"v": None}], [{}, {"v": 0}, {"v": ""}, {"v": "null"}, {"w": None}]),
    "an empty string": ({"v": ""}, [{"v": ""}], [{}, {"v": None}, {"v": 0}]),
    "a number as text": ({"v": "1"}, [{"v": "1"}], [{"v": 1}, {"v": 1.0}]),
    "any of": (
        {"v": ["a", 1, None, False]},
        [{"v": "a"}, {"v": 1.0}, {"v": None}, {"v": False}],
        [{"v": True}, {"v": 0}, {"v": "1"}, {"v": ["a"]}, {}],
    ),
    "all of": (
        {"v": [1, 2], "w": "x"},
        [{"v": 1, "w": "x"}, {"v": 2, "w": "x", "y": 0}],
        [{"v": 1}, {"w": "x"}, {"v": 3, "w": "x"}, {"v": 1, "w": "y"}],
    ),
    "nested": (
        {"v.w.x": "deep"},
        [{"v": {"w": {"x": "deep"}}}],
        [
            {"v.w.x": "deep"},
            {"v": {"w.x": "deep"}},
            {"v": {"w": "deep"}},
            {"v": "deep"},
            {"v": None},
        ],
    ),
    "no index into arrays": ({"v.0": "a"}, [{"v": {"0": "a"}}], [{"v": ["a"]}, {"v": "a"}]),
    "null below nothing": ({"v.w": None}, [{"v": {"w": None}}], [{"v": None}, {"v": {}}, {}]),
    "characters": (
        {"é 𝄞.ß": "ﬁ"},
        [{"é 𝄞": {"ß": "ﬁ"}}],
        [{"é 𝄞": {"ß": "fi"}}, {"é 𝄞": {"ss": "ﬁ"}}],
    ),
    "nothing asked": ({}, [{}, {"v": 1}, {"v": {"w": []}}], []),
}


@pytest.mark.parametrize("name", CASES)
async def test_filters_have_json_equality(server: Server, token: str, name: str) -> None:
    filters, matching, others = CASES[name]
    published = [payload | {"number": n} for n, payload in enumerate(others + matching)]
    async with client(server, token) as page:
        reply = await page.call(
            {"type": "subscribe", "data": {"type": "events", "filters": filters}}
        )
        assert reply["data"]["filters"] == filters
        server.publish("events", *published)
        for expected in published[len(others) :]:
            assert await page.assert_data("events") == expected
        await page.assert_silent()


@pytest.mark.parametrize(
    "kind", ["events", "metrics", "alerts", "predictions", "aggregations", "system_status"]
)
async def test_filters_work_on_all_types(server: Server, token: str, kind: str) -> None:
    async with client(server, token) as page:
        await page.subscribe(kind, {"a.b": [2, 3]})
        server.publish(kind, *({"a": {"b": n}} for n in range(5)))
        for n in (2, 3):
            data = (await page.receive())["data"]
            assert {"a": {"b": n}} in data.values() and data["subscription_type"] == kind
        await page.assert_silent()


async def test_the_reply_to_subscribe(server: Server, token: str) -> None:
    async with client(server, token) as page:
        for fields, filters in (
            ({}, {}),
            ({"filters": None}, {}),
            ({"filters": {"a": 1}}, {"a": 1}),
        ):
            reply = await page.call({"type": "subscribe", "data": {"type": "events"} | fields})
            assert reply["type"] == "subscribed" and reply["subscription_id"]
            assert reply["data"]["type"] == "events" and reply["data"]["filters"] == filters


class TestDerivedIds:
    """Ids that the server derives from type and filters."""

    async def test_equal_subscriptions_have_equal_ids_on_every_connection(
        self, server: Server, token: str
    ) -> None:
        equal: list[dict[str, Any]] = [
            {"a": [1, "x", None], "b": True},
            {"b": [True], "a": [None, "x", 1.0]},
            {"b": True, "a": ["x", 1, None, 1.0, "x"]},
        ]
        ids = set()
        for filters in equal:
            async with client(server, token) as page:
                ids.add(await page.subscribe("events", filters))
        (subscription_id,) = ids
        assert uuid.UUID(subscription_id).version == 5

    async def test_different_subscriptions_have_different_ids(
        self, server: Server, token: str
    ) -> None:
        different: list[Any] = [None, {"a": 1}, {"a": True}, {"a": "1"}, {"a": None}, {"a.b": 1}]
        different += [{"a": [1, 2]}, {"a": "1,2"}, {"a": 1, "b": 1}, {"a": 1.5}]
        async with client(server, token) as page:
            ids = [await page.subscribe("events", filters) for filters in different]
            ids += [await page.subscribe("alerts", filters) for filters in different]
        assert len(set(ids)) == len(ids)


class TestChosenIds:
    """Ids that the client chooses."""

    @pytest.mark.parametrize("chosen", ["a", "0", "sub_789", "A.b:c-d_9", "x" * 64, "-", "null"])
    async def test_a_chosen_id_is_used(self, server: Server, token: str, chosen: str) -> None:
        async with client(server, token) as page:
            assert await page.subscribe("events", subscription_id=chosen) == chosen
            server.publish("events", {"n": 1})
            assert (await page.receive())["subscription_id"] == chosen
            reply = await page.call({"type": "unsubscribe", "data": {"subscription_id": chosen}})
            assert (reply["type"], reply["subscription_id"]) == ("unsubscribed", chosen)

    async def test_an_id_used_for_something_else_is_refused(
        self, server: Server, token: str
    ) -> None:
        async with client(server, token) as page:
            await page.subscribe("events", {"n": 1}, subscription_id="mine")
            for data in (
                {"type": "events"},
                {"type": "events", "filters": {"n": 2}},
                {"type": "metrics", "filters": {"n": 1}},
            ):
                await page.send({"type": "subscribe", "data": data, "subscription_id": "mine"})
                error = await page.assert_error("duplicate_subscription")
                assert error == {
                    "error": "Duplicate subscription",
                    "code": "duplicate_subscription",
                }
            derived = await page.subscribe("alerts")
            await page.send(
                {"type": "subscribe", "data": {"type": "events"}, "subscription_id": derived}
            )
            await page.assert_error("duplicate_subscription")
            server.publish("events", {"n": 2}, {"n": 1})
            assert await page.assert_data("events") == {"n": 1}
            await page.assert_silent()

    async def test_an_id_is_the_connections_own(self, server: Server, token: str) -> None:
        async with client(server, token) as page, client(server, token) as other:
            await page.subscribe("events", {"n": 1}, subscription_id="mine")
            await other.subscribe("events", {"n": 2}, subscription_id="mine")
            server.publish("events", {"n": 1}, {"n": 2})
            assert await page.assert_data("events") == {"n": 1}
            assert await other.assert_data("events") == {"n": 2}
            await other.call({"type": "unsubscribe", "data": {"subscription_id": "mine"}})
            server.publish("events", {"n": 1})
            assert await page.assert_data("events") == {"n": 1}

    async def test_an_id_is_free_again_after_unsubscribing(
        self, server: Server, token: str
    ) -> None:
        async with client(server, token) as page:
            for kind in ("events", "metrics", "events"):
                assert await page.subscribe(kind, subscription_id="mine") == "mine"
                await page.call({"type": "unsubscribe", "data": {"subscription_id": "mine"}})


async def test_subscribing_twice_is_one_subscription(server: Server, token: str) -> None:
    async with client(server, token) as page:
        first = await page.subscribe("events", {"n": [1, 2]}, subscription_id="mine")
        assert await page.subscribe("events", {"n": [2, 1]}, subscription_id="mine") == first
        assert await page.subscribe("events", {"n": [1.0, 2]}, subscription_id="second") == first
        assert await page.subscribe("events", {"n": [1, 2]}) == first
        server.publish("events", {"n": 1})
        assert (await page.receive())["subscription_id"] == "mine"
        await page.assert_silent()
        await page.send({"type": "unsubscribe", "data": {"subscription_id": "second"}})
        await page.assert_error("unknown_subscription")
        await page.call({"type": "unsubscribe", "data": {"subscription_id": "mine"}})
        server.publish("events", {"n": 1})
        await page.subscribe("alerts")
        server.publish("alerts", {"last": True})
        assert await page.assert_data("alerts") == {"last": True}


async def test_each_subscription_that_matches_delivers(server: Server, token: str) -> None:
    async with client(server, token) as page:
        ids = {await page.subscribe("events", filters) for filters in ({}, {"n": 1}, {"m": 1})}
        server.publish("events", {"n": 1, "m": 1})
        assert {(await page.receive())["subscription_id"] for _ in ids} == ids
        await page.assert_silent()


async def test_unsubscribing_from_what_is_not_there(server: Server, token: str) -> None:
    async with client(server, token) as page, client(server, token) as other:
        theirs = await other.subscribe("events", subscription_id="theirs")
        for unknown in ("nothing", theirs, "x" * 10_000, "ö"):
            await page.send({"type": "unsubscribe", "data": {"subscription_id": unknown}})
            error = await page.assert_error("unknown_subscription")
            assert error == {"error": "Unknown subscription", "code": "unknown_subscription"}


def nested(steps: int) -> str:
    """Return a path of so many steps."""
    return ".".join(["a"] * steps)


INVALID: list[Any] = [
    {"type": "nothing"},
    {"type": "Events"},
    {"type": "events "},
    {"type": ""},
    {"type": None},
    {"type": 1},
    {"type": ["events"]},
    {"type": {"events": True}},
    {},
    {"type": "events", "filters": []},
    {"type": "events", "filters": "n=1"},
    {"type": "events", "filters": 1},
    {"type": "events", "filters": True},
    {"type": "events", "filters": {"a": {}}},
    {"type": "events", "filters": {"a": {"b": 1}}},
    {"type": "events", "filters": {"a": []}},
    {"type": "events", "filters": {"a": [[1]]}},
    {"type": "events", "filters": {"a": [1, {}]}},
    {"type": "events", "filters": {"": 1}},
    {"type": "events", "filters": {".": 1}},
    {"type": "events", "filters": {"a.": 1}},
    {"type": "events", "filters": {".a": 1}},
    {"type": "events", "filters": {"a..b": 1}},
    {"type": "events", "filters": {f"p{n}": 1 for n in range(33)}},
    {"type": "events", "filters": {"a": list(range(1001))}},
    {"type": "events", "filters": {nested(17): 1}},
    {"type": "events", "filters": {"x" * 257: 1}},
]


async def test_what_cannot_be_subscribed_to(server: Server, token: str) -> None:
    async with client(server, token) as page:
        for data in INVALID:
            error = await refusal(page, data)
            assert error["error"].startswith("Invalid subscription: "), error
            field = "filters" if "filters" in data else "type"
            assert field in error["error"], error
        server.publish("events", {"n": 1}, {"a": 1})
        await page.assert_silent()


async def refusal(page: Client, data: Any) -> dict[str, Any]:
    """Subscribe in vain; return the error."""
    await page.send({"type": "subscribe", "data": data})
    error = await page.assert_error("invalid_subscription")
    assert len(json.dumps(error)) < 2000
    return error


async def test_the_largest_filters(server: Server, token: str) -> None:
    deepest: Any = 1
    for _ in range(16):
        deepest = {"a": deepest}
    largest: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({f"p{n}": 1 for n in range(32)}, {f"p{n}": 1 for n in range(32)}),
        ({"v": list(range(1000))}, {"v": 999}),
        ({nested(16): 1}, deepest),
        ({"x" * 256: 1}, {"x" * 256: 1}),
    ]
    async with client(server, token) as page:
        for filters, payload in largest:
            await page.subscribe("events", filters)
            server.publish("events", payload)
            assert await page.assert_data("events") == payload
