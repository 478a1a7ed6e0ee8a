"""Which subscriptions of a client receive what the server sends, without a connection."""

from __future__ import annotations

from typing import Any

import pytest

from realtime.client import Gap, Position, Refused, Subscription
from realtime.client.subscription import Finished, SharedSubscriptions

Message = dict[str, Any]


class FakeServer:
    """Answers requests as a server does that makes equal subscriptions one."""

    def __init__(self, shared: SharedSubscriptions) -> None:
        self.shared = shared
        self.requests: list[Message] = []
        # The subscriptions of the connection: what was asked for -> wire id.
        self.wire_ids: dict[str, str] = {}
        self.refused: set[str] = set()

    async def ask(self, message: Message) -> Message:
        self.requests.append(message)
        data = message["data"]
        if message["type"] == "unsubscribe":
            ended = data["subscription_id"]
            self.wire_ids = {key: id for key, id in self.wire_ids.items() if id != ended}
            return {"type": "unsubscribed", "subscription_id": ended, "data": {}}
        if data["type"] in self.refused:
            raise Refused("forbidden", "Not permitted")
        key = f"{data['type']} {data['filters']}"
        is_new = key not in self.wire_ids
        wire_id = self.wire_ids.setdefault(key, message["subscription_id"])
        answer: Message = {"epoch": "e", "offset": 10, "recovered": False, "replayed": 0}
        if is_new and "resume" in data:
            answer |= {"recovered": True, "replayed": 10 - data["resume"]["offset"]}
        reply = {
            "type": "subscribed",
            "subscription_id": wire_id,
            "metadata": message["metadata"],
            "data": answer,
        }
        assert await self.shared.take(reply)
        return reply


@pytest.fixture
def shared() -> SharedSubscriptions:
    return SharedSubscriptions()


@pytest.fixture
def server(shared: SharedSubscriptions) -> FakeServer:
    return FakeServer(shared)


async def subscribe(server: FakeServer, id: str, type: str = "events", **options: Any) -> Any:
    """Add a subscription and ask the server for it."""
    subscription = Subscription(type, {}, id, **options)
    server.shared.by_id[id] = subscription
    await server.shared.request(subscription.wire_id, server.ask)
    return subscription


def data(wire_id: str, offset: int) -> Message:
    """Return a message of the server."""
    return {
        "type": "data",
        "subscription_id": wire_id,
        "data": {"subscription_type": "events", "event": {"n": offset}},
        "metadata": {"epoch": "e", "offset": offset},
    }


async def test_equal_subscriptions_share_messages(
    shared: SharedSubscriptions, server: FakeServer
) -> None:
    first, second = await subscribe(server, "a"), await subscribe(server, "b")
    other = await subscribe(server, "c", type="alerts")
    assert (first.wire_id, second.wire_id, other.wire_id) == ("a", "a", "c")
    assert not await shared.take(data("a", 11))
    assert (await anext(first)).payload == (await anext(second)).payload == {"n": 11}
    assert first.position == second.position == Position("e", 11)
    assert other.position == Position("e", 10)


async def test_one_that_is_behind_makes_the_server_begin_again(
    shared: SharedSubscriptions, server: FakeServer
) -> None:
    """The server ignores from where an equal one wants to go on, so it is ended first."""
    ahead = await subscribe(server, "a")
    behind = await subscribe(server, "b", resume=Position("e", 4))
    assert [request["type"] for request in server.requests] == [
        *("subscribe", "subscribe", "unsubscribe", "subscribe")
    ]
    assert server.requests[-1]["data"]["resume"] == {"epoch": "e", "offset": 4}
    for offset in (5, 11):
        await shared.take(data("a", offset))
    assert [(await anext(behind)).payload["n"] for _ in range(2)] == [5, 11]
    assert (await anext(ahead)).payload["n"] == 11  # it had the other


async def test_a_new_connection_asks_for_everything_once(
    shared: SharedSubscriptions, server: FakeServer
) -> None:
    await subscribe(server, "a")
    await subscribe(server, "b")
    forbidden = await subscribe(server, "c", type="alerts")
    server.requests.clear()
    server.wire_ids.clear()
    server.refused = {"alerts"}
    await shared.request_all(server.ask)
    assert [request["subscription_id"] for request in server.requests] == ["a", "c"]
    assert list(shared.by_id) == ["a", "b"]
    with pytest.raises(Refused):
        forbidden.check()


async def test_batches_are_unpacked(shared: SharedSubscriptions, server: FakeServer) -> None:
    subscription = await subscribe(server, "a")
    messages = [
        {"event": {"n": n}, "timestamp": "", "metadata": {"epoch": "e", "offset": n}}
        for n in (11, 12)
    ]
    content = {"subscription_type": "events", "messages": messages}
    batch = {"type": "data_batch", "subscription_id": "a", "data": content}
    assert not await shared.take(batch)
    assert [(await anext(subscription)).payload["n"] for _ in range(2)] == [11, 12]


async def test_lost_messages_are_reported(shared: SharedSubscriptions, server: FakeServer) -> None:
    gaps: list[Gap] = []
    await subscribe(server, "a", on_gap=gaps.append)
    details = {"reason": "expired", "from": 11, "to": 20}
    error = {"code": "data_lost", "error": "", "details": details}
    assert not await shared.take({"type": "error", "subscription_id": "a", "data": error})
    assert gaps == [Gap("expired", 11, 20)]


async def test_a_right_that_is_withdrawn(shared: SharedSubscriptions, server: FakeServer) -> None:
    first, second = await subscribe(server, "a"), await subscribe(server, "b")
    message: Message = {"type": "unsubscribed", "subscription_id": "a", "data": {"reason": "x"}}
    assert not await shared.take(message)
    for subscription in (first, second):
        with pytest.raises(Refused):
            subscription.check()
    assert not shared.by_id


async def test_positions_move_on_with_a_pong(
    shared: SharedSubscriptions, server: FakeServer
) -> None:
    subscription = await subscribe(server, "a")
    for offset, expected in ((20, 20), (15, 20)):  # it may be behind what has come since
        positions = {"a": {"epoch": "e", "offset": offset}}
        assert await shared.take({"type": "pong", "data": {"positions": positions}})
        assert subscription.position == Position("e", expected)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "auth_success", "data": {}},
        {"type": "pong"},
        {"type": "unsubscribed", "subscription_id": "a", "data": {}},
        {"type": "error", "data": {"code": "forbidden", "error": "Not permitted"}},
    ],
    ids=lambda message: message["type"],
)
async def test_what_answers_a_request(shared: SharedSubscriptions, message: Message) -> None:
    assert await shared.take(message)


async def test_the_end_of_all(shared: SharedSubscriptions, server: FakeServer) -> None:
    subscription = await subscribe(server, "a")
    await shared.take(data("a", 11))
    shared.end(Finished("the client is closed"))
    assert [message.payload["n"] async for message in subscription] == [11]
    assert not shared.by_id
