"""Why a subscription gets nothing: what ``explain`` counts, and of what it says nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.event_source import subscribed
from tests.support import Server, client, running

ORDERS: list[dict[str, Any]] = [
    {"kind": "order", "amount": 20, "user": {"id": "u1"}},
    {"kind": "order", "amount": 200, "user": {"id": "u2"}},
    {"kind": "order", "amount": "200"},
    {"kind": "refund", "amount": 500, "user": {"id": "u1"}},
    {"kind": "ORDER"},
]


@pytest.fixture
def empty(data_dir: Path) -> Any:
    """A server of its own, so that nothing else is retained."""
    with running(data_dir, rate_limit_per_minute="100000") as server:
        yield server


async def explained(server: Server, token: str, kind: str = "events", **data: Any) -> Any:
    """Subscribe on a connection of its own; return what was explained."""
    async with client(server, token) as page:
        return (await page.subscribed(kind, explain=True, **data))["explain"]


async def test_each_path_is_counted(empty: Server) -> None:
    token = empty.new_token()
    filters = {"kind": "order", "amount": {"gte": 100}, "user.name": "x"}
    nothing = {"present": 0, "matching": 0}
    assert await explained(empty, token, filters=filters) == {
        "retained": 0,
        "matching": 0,
        "paths": dict.fromkeys(filters, nothing),
    }
    empty.publish("events", *ORDERS)
    assert await explained(empty, token, filters=filters) == {
        "retained": 5,
        "matching": 0,
        "paths": {
            "kind": {"present": 5, "matching": 3},
            "amount": {"present": 4, "matching": 2},
            "user.name": nothing,
        },
    }
    assert await explained(empty, token) == {"retained": 5, "matching": 5, "paths": {}}
    assert (await explained(empty, token, kind="alerts"))["retained"] == 0
    alternatives = [{"user.id": "u2"}, {"kind": "refund", "amount": {"lt": 100}}]
    assert await explained(empty, token, filters={"amount": {"gt": 0}, "$or": alternatives}) == {
        "retained": 5,
        "matching": 1,
        "paths": {"amount": {"present": 4, "matching": 3}},
        "or": [
            {"matching": 1, "paths": {"user.id": {"present": 3, "matching": 1}}},
            {
                "matching": 0,
                "paths": {
                    "kind": {"present": 5, "matching": 1},
                    "amount": {"present": 4, "matching": 1},
                },
            },
        ],
    }


async def test_what_a_token_may_not_see_is_not_counted(empty: Server) -> None:
    narrow = empty.new_token(filters={"$or": [{"user.id": "u1"}, {"user.id": "u3"}]})
    empty.publish("events", *ORDERS)
    found = await explained(empty, narrow, filters={"amount": {"gte": 100}})
    paths = {"amount": {"present": 2, "matching": 1}}
    assert found == {"retained": 2, "matching": 1, "paths": paths}
    found = await explained(empty, narrow, filters={"user.id": "u2"})
    assert found["paths"] == {"user.id": {"present": 2, "matching": 0}}
    other = empty.new_token(types=["metrics"])
    async with client(empty, other) as page:
        for _ in range(2):
            await page.send({"type": "subscribe", "data": {"type": "events", "explain": True}})
            await page.assert_error("forbidden")


@pytest.mark.parametrize("size", [1, 2000], ids=["at hand", "from the log"])
async def test_the_newest_thousand(empty: Server, size: int) -> None:
    token = empty.new_token()
    payloads = [{"n": n, "text": "x" * size} for n in range(1100)]
    await asyncio.to_thread(empty.publish, "events", *payloads)
    filters = {"n": {"gte": 100, "lt": 200}, "text": {"prefix": "x"}}
    for _ in range(2):  # when nobody is subscribed, and as another one is
        async with client(empty, token) as page:
            await page.subscribe("events")
            found = await explained(empty, token, filters=filters)
        assert found["retained"] == 1000
        assert found["matching"] == 100
        assert found["paths"]["n"] == {"present": 1000, "matching": 100}


async def test_of_large_messages_not_all_are_read(empty: Server) -> None:
    token = empty.new_token()
    payloads = [{"n": n, "text": "x" * 50_000} for n in range(300)]
    await asyncio.to_thread(empty.publish, "events", *payloads)
    found = await explained(empty, token, filters={"n": {"gte": 299}})
    assert 64 <= found["retained"] < 300
    assert found["matching"] == 1, "the newest are among them"


async def test_what_is_not_retained_is_not_counted(data_dir: Path) -> None:
    with running(data_dir, history_size="100") as server:
        token = server.new_token()
        server.publish("events", *({"n": n} for n in range(250)))
        found = await explained(server, token, filters={"n": {"gte": 240}})
        assert (found["retained"], found["matching"]) == (100, 10)


async def test_the_answer_still_comes_first_and_once(server: Server, token: str) -> None:
    server.publish("events", {"n": "first"})
    async with client(server, token) as page:
        request = {"type": "subscribe", "data": {"type": "events", "rewind": 1, "explain": True}}
        answer = await page.call(request | {"metadata": {"n": 1}})
        assert (answer["type"], answer["metadata"]) == ("subscribed", {"n": 1})
        assert answer["data"]["replayed"] == 1
        await page.assert_data("events", {"n": "first"})
        # Asked for again, it is said again; not asked for, it is not.
        again = await page.call(request)
        assert again["subscription_id"] == answer["subscription_id"]
        assert again["data"]["explain"]["matching"] >= 1
        for explain in (False, None):
            request["data"]["explain"] = explain  # type: ignore[index]
            assert "explain" not in (await page.call(request))["data"]
        server.publish("events", {"n": "second"})
        await page.assert_data("events", {"n": "second"})
        await page.assert_silent()


@pytest.mark.parametrize("wrong", [1, 0, "true", "", [], {}])
async def test_it_is_a_boolean(server: Server, token: str, wrong: Any) -> None:
    async with client(server, token) as page:
        request = {"type": "subscribe", "data": {"type": "events", "explain": wrong}}
        answer = await page.call(request)
        assert answer["data"]["code"] == "invalid_subscription"
        assert answer["data"]["error"].endswith("explain: expected true or false")
        assert await page.positions() == {}


async def test_it_counts_as_a_message(data_dir: Path) -> None:
    with running(data_dir, rate_limit_per_minute="5") as server:
        async with client(server, server.new_token()) as page:
            for _ in range(4):
                await page.subscribed("events", explain=True)
            await page.send({"type": "subscribe", "data": {"type": "events", "explain": True}})
            await page.assert_error("rate_limited")


async def test_over_http(server: Server, token: str) -> None:
    server.publish("events", {"over": "http"})
    filters = json.dumps({"over": {"prefix": "h"}})
    async with subscribed(server, "events", token, filter=filters, explain="1") as (_, first):
        found = first.data["data"]["explain"]
        assert found["matching"] >= 1 and set(found["paths"]) == {"over"}
    async with subscribed(server, "events", token, explain="0") as (_, first):
        assert "explain" not in first.data["data"]
