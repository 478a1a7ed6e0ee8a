"""The states of a session: how it begins, what it may, what it has, and how it ends.

In memory, in a time that passes when everyone waits: no server, no socket, no database.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.test import override_settings

from realtime import apublish
from realtime.auth.grants import ANONYMOUS
from realtime.config import WebSocketConfig
from realtime.database import Unavailable
from realtime.log.contract import MemoryLog
from realtime.protocol import CloseCode, CloseReason, ErrorCode, ProtocolError
from realtime.protocol.subscribe import read_subscribe_request
from realtime.sessions.node import Node
from realtime.testing.clock import START, FakeClock
from tests.sessions.scene import Client, TokenDatabase
from tests.support.layers import IN_MEMORY, Configure

SECRET = "rt_00000001_secret"
EVENTS = {"type": "events"}


class Scene:
    """A node, its database and the clock."""

    def __init__(self, clock: FakeClock, database: TokenDatabase) -> None:
        self.clock = clock
        self.database = database
        self.node = Node()

    def configure(self, **values: Any) -> None:
        """Let another configuration be in force."""
        config = self.node.policy.config.model_copy(update=values)
        policy = replace(self.node.policy, config=config)
        self.database.policy = self.node.authority.policy = policy

    def connect(self, address: str = "10.0.0.1", origin: str | None = None) -> Client:
        """Let a client come, as both edges do."""
        client = Client(self.node, address)
        assert client.session.admit(origin) is not client.session.has_ended
        return client

    async def authenticated(self, secret: str = SECRET, **fields: Any) -> Client:
        """Let a client come and authenticate, with a token that has these fields."""
        if fields or secret == SECRET:
            self.database.add(secret, **fields)
        client = self.connect()
        assert await client.log_in(secret)
        return client

    async def subscribed(self, client: Client, **data: Any) -> dict[str, Any]:
        """Subscribe; return the confirmation."""
        await client.session.subscribe(read_subscribe_request(EVENTS | data))
        confirmation = client.read()[-1]
        assert confirmation["type"] == "subscribed"
        return confirmation


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> Iterator[Scene]:
    """A node that asks for authentication, and that soon loses patience with wrong credentials."""
    configure(auth_failures_per_minute="10")
    clock, database = FakeClock(), TokenDatabase()
    monkeypatch.setattr("realtime.sessions.node.Database", lambda: database)
    for module in ("session", "subscriber", "rights"):
        monkeypatch.setattr(f"realtime.sessions.{module}.time", clock)
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        yield Scene(clock, database)


def in_no_time(test: Callable[[Scene], Awaitable[None]]) -> Callable[[Scene], None]:
    """Run a test in the scene's time; afterwards nothing may be left of its clients."""

    @functools.wraps(test)
    def run(scene: Scene) -> None:
        async def add_up() -> None:
            await test(scene)
            for client in list(scene.node.roster.clients):
                client.end(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)
            roster = scene.node.roster
            assert not (roster.clients or roster.waiting or roster.by_holder or roster.by_address)
            assert scene.node.hub.count_groups() == 0
            await scene.node.close()

        scene.clock.run(add_up())

    return run


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Reads the audit log: each event with its fields, but for the times and ids."""
    caplog.set_level(logging.INFO, "realtime.audit")

    def read() -> list[dict[str, Any]]:
        lines = [record.getMessage() for record in caplog.records if record.name.endswith("audit")]
        events = [json.loads(line) for line in lines]
        return [
            {name: value for name, value in event.items() if name not in ("time", "client_id")}
            for event in events
        ]

    return read


def ended(code: CloseCode, reason: CloseReason) -> tuple[CloseCode, CloseReason]:
    """Return how a client was closed."""
    return code, reason


# Admission


@in_no_time
async def test_a_client_waits_until_it_has_authenticated(scene: Scene) -> None:
    scene.database.add(SECRET)
    client = scene.connect()
    session = client.session
    assert session.grant is None and session in scene.node.roster.waiting
    assert scene.node.stats.active_clients == scene.node.stats.total_connections == 1
    assert await client.log_in(SECRET)
    assert session.grant is not None and session.grant.holder == "token:1"
    assert session not in scene.node.roster.waiting and client.is_trusted
    assert scene.node.stats.authenticated == 1


@in_no_time
async def test_without_authentication_all_are_anonymous(scene: Scene) -> None:
    scene.configure(require_auth=False)
    client = scene.connect()
    assert client.session.grant is ANONYMOUS and client.is_trusted
    assert scene.node.stats.authenticated == 0
    assert (await scene.subscribed(client))["data"]["type"] == "events"


@in_no_time
async def test_another_origin_is_refused(scene: Scene) -> None:
    scene.configure(allowed_origins=["https://app.example.com"])
    client = scene.connect(origin="https://evil.example.com")
    assert client.closed == ended(CloseCode.POLICY_VIOLATION, CloseReason.ORIGIN)
    assert client.session.has_ended and scene.node.stats.refused_connections == 1
    assert scene.node.stats.total_connections == 0
    assert scene.connect(origin="https://app.example.com").closed is None
    assert scene.connect().closed is None


@in_no_time
async def test_a_full_server_refuses_who_comes_unless_someone_waits(scene: Scene) -> None:
    scene.configure(max_connections=2)
    first = await scene.authenticated()
    waiting = scene.connect()
    newcomer = scene.connect()  # in place of the one that waits
    assert waiting.closed == ended(CloseCode.TRY_AGAIN_LATER, CloseReason.CAPACITY)
    assert newcomer.closed is None and await newcomer.log_in(SECRET)
    late = scene.connect()
    assert late.closed == ended(CloseCode.TRY_AGAIN_LATER, CloseReason.CAPACITY)
    assert first.closed is newcomer.closed is None
    assert scene.node.stats.refused_connections == 1


# Authentication


@in_no_time
async def test_a_wrong_credential_is_counted_and_answered_late(scene: Scene) -> None:
    scene.database.add(SECRET)
    client = scene.connect()
    waits = []
    for secret in ("wrong", None, "", *["rt_12345678_wrong"] * 12):
        before = scene.clock.now
        assert await client.session.authenticate(secret) is None
        waits.append(round(scene.clock.now - before, 6))
    assert waits == sorted(waits) and 0 < waits[0] < 0.1 and 0.5 < waits[-1] <= 5
    assert scene.node.stats.auth_failures == len(waits)
    assert client.closed is None and await client.log_in(SECRET)


@in_no_time
async def test_failures_of_an_address_count_together(scene: Scene) -> None:
    for _ in range(15):
        await scene.connect("10.0.0.9").session.authenticate("wrong")
    before = scene.clock.now
    await scene.connect("10.0.0.9").session.authenticate("wrong")
    assert scene.clock.now - before > 0.5
    before = scene.clock.now
    await scene.connect("10.0.0.8").session.authenticate("wrong")
    assert scene.clock.now - before < 0.1


@in_no_time
async def test_without_a_database_nobody_knows_who_it_is(scene: Scene) -> None:
    client = scene.connect()
    scene.database.is_away = True
    with pytest.raises(Unavailable):
        await client.session.authenticate(SECRET)
    assert scene.node.stats.auth_unavailable == 1 and scene.node.stats.auth_failures == 0
    assert client.closed is None and client.session.grant is None


@in_no_time
async def test_a_client_that_ends_while_it_authenticates_has_no_rights(scene: Scene) -> None:
    client = scene.connect()
    authenticating = asyncio.create_task(client.session.authenticate("wrong"))
    await asyncio.sleep(0)
    client.session.end(CloseCode.POLICY_VIOLATION, CloseReason.AUTH_TIMEOUT)
    assert await authenticating is None
    assert client.session.grant is None and not scene.node.roster.by_holder


@in_no_time
async def test_a_token_may_have_so_many_connections(scene: Scene) -> None:
    first = await scene.authenticated(max_connections=1)
    second = scene.connect()
    assert not await second.log_in(SECRET)
    assert second.closed == ended(CloseCode.TRY_AGAIN_LATER, CloseReason.TOKEN_CONNECTIONS)
    assert first.closed is None
    first.session.forget()
    third = scene.connect()
    assert await third.log_in(SECRET)


@in_no_time
async def test_who_authenticates_again_has_the_new_rights_alone(scene: Scene) -> None:
    client = await scene.authenticated(max_connections=1)
    await scene.subscribed(client, filters={"n": 1})
    scene.database.add("other", 2, types=frozenset({"alerts"}))
    assert await client.log_in("other")
    [message] = client.read()
    assert message["type"] == "unsubscribed" and message["data"] == {"reason": "forbidden"}
    assert set(scene.node.roster.by_holder) == {"token:2"}
    assert await scene.connect().log_in(SECRET)  # the first token's connection is free again


# Subscriptions


@in_no_time
async def test_a_subscription_is_confirmed_and_then_live(scene: Scene) -> None:
    client = await scene.authenticated()
    request = read_subscribe_request(EVENTS | {"filters": {"n": [1, 2]}, "max_rate": 1000})
    await client.session.subscribe(request, "my-id", None)
    [confirmation] = client.read()
    assert confirmation["subscription_id"] == "my-id"
    assert confirmation["data"].pop("epoch")
    assert confirmation["data"] == {
        "type": "events",
        "filters": {"n": [1, 2]},
        "options": {"max_rate": 1000.0},
        "offset": 0,
        "recovered": False,
        "replayed": 0,
    }
    for n in (1, 3, 2):
        await apublish("events", {"n": n})
    await asyncio.sleep(1)
    assert [message["data"]["event"]["n"] for message in client.read()] == [1, 2]
    assert client.session.position("my-id").offset == 3


@in_no_time
async def test_what_is_replayed_comes_after_the_confirmation(scene: Scene) -> None:
    for n in range(3):
        await apublish("events", {"n": n})
    client = await scene.authenticated()
    await client.session.subscribe(read_subscribe_request(EVENTS | {"rewind": 2}))
    confirmation, *messages = client.read()
    assert confirmation["data"]["replayed"] == 2 and confirmation["data"]["offset"] == 3
    assert [message["data"]["event"]["n"] for message in messages] == [1, 2]


@in_no_time
async def test_an_explanation_comes_with_the_confirmation(scene: Scene) -> None:
    for n in range(3):
        await apublish("events", {"n": n})
    client = await scene.authenticated()
    confirmation = await scene.subscribed(client, filters={"n": {"gte": 1}}, explain=True)
    assert confirmation["data"]["explain"]["retained"] == 3
    assert confirmation["data"]["explain"]["matching"] == 2


@in_no_time
async def test_a_subscription_is_made_once_and_confirmed_again(scene: Scene) -> None:
    client = await scene.authenticated()
    first = await scene.subscribed(client, filters={"n": 1})
    again = await scene.subscribed(client, filters={"n": 1})
    assert again["subscription_id"] == first["subscription_id"]
    assert scene.node.report()["total_subscriptions"] == 1
    others = [await scene.subscribed(client, **data) for data in ({}, {"max_rate": 1})]
    ids = {message["subscription_id"] for message in (first, *others)}
    assert len(ids) == 3 == scene.node.report()["total_subscriptions"]


@in_no_time
async def test_an_id_is_for_one_subscription(scene: Scene) -> None:
    session = (await scene.authenticated()).session
    await session.subscribe(read_subscribe_request(EVENTS), "mine")
    await session.subscribe(read_subscribe_request(EVENTS), "mine")
    await session.subscribe(read_subscribe_request(EVENTS), "theirs")  # it has "mine" already
    assert list(session.subscriptions) == ["mine"]
    other = read_subscribe_request(EVENTS | {"filters": {"n": 1}})
    with pytest.raises(ProtocolError) as caught:
        await session.subscribe(other, "mine")
    assert caught.value.code is ErrorCode.DUPLICATE_SUBSCRIPTION
    # A derived id may have been chosen for something else.
    derived = other.derive_id()
    await session.subscribe(read_subscribe_request({"type": "alerts"}), derived)
    with pytest.raises(ProtocolError) as caught:
        await session.subscribe(other)
    assert caught.value.code is ErrorCode.DUPLICATE_SUBSCRIPTION


@in_no_time
async def test_a_client_may_have_so_many_subscriptions(scene: Scene) -> None:
    scene.configure(max_subscriptions_per_client=2)
    client = await scene.authenticated()
    first = await scene.subscribed(client)
    await scene.subscribed(client, filters={"n": 1})
    with pytest.raises(ProtocolError) as caught:
        await scene.subscribed(client, filters={"n": 2})
    assert caught.value.code is ErrorCode.TOO_MANY_SUBSCRIPTIONS
    assert (await scene.subscribed(client))["subscription_id"] == first["subscription_id"]
    client.session.unsubscribe(first["subscription_id"])
    await scene.subscribed(client, filters={"n": 2})
    with pytest.raises(KeyError):
        client.session.unsubscribe(first["subscription_id"])


@pytest.mark.parametrize("explain", [False, True])
def test_a_type_that_is_not_allowed(
    scene: Scene, audit: Callable[[], list[dict[str, Any]]], explain: bool
) -> None:
    async def subscribe(scene: Scene) -> None:
        client = await scene.authenticated(types=frozenset({"alerts"}))
        with pytest.raises(ProtocolError) as caught:
            await scene.subscribed(client, explain=explain)
        assert caught.value.code is ErrorCode.FORBIDDEN and client.read() == []

    in_no_time(subscribe)(scene)
    denied = [event for event in audit() if event["event"] == "denied"]
    assert denied == [
        {
            "event": "denied",
            "type": "events",
            "holder": "token:1",
            "token": "rt_00000001",
            "address": "10.0.0.1",
        }
    ]


@in_no_time
async def test_a_log_that_is_away_leaves_nothing_behind(scene: Scene) -> None:
    client = await scene.authenticated()

    class Layer:
        """A channel layer that does not answer."""

        async def new_channel(self, prefix: str = "") -> str:
            raise OSError("away")

        async def group_add(self, group: str, channel: str) -> None:
            raise OSError("away")

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ProtocolError) as caught,
    ):
        patch.setattr("realtime.delivery.receiver.get_channel_layer", Layer)
        await scene.subscribed(client)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert caught.value.details == {"retry_after": 1}
    assert client.session.subscriptions == {} and scene.node.report()["total_subscriptions"] == 0
    await scene.subscribed(client)


# Rights that change


@in_no_time
async def test_filters_of_a_token_are_enforced_and_follow_changes(scene: Scene) -> None:
    client = await scene.authenticated(filters=read_filters({"tenant": "a"}))
    confirmation = await scene.subscribed(client, filters={"n": 1})
    assert confirmation["data"]["filters"] == {"n": 1}

    async def publish_all() -> list[Any]:
        for tenant in "ab":
            for n in (1, 2):
                await apublish("events", {"tenant": tenant, "n": n})
        await asyncio.sleep(1)
        return [message["data"]["event"] for message in client.read()]

    assert await publish_all() == [{"tenant": "a", "n": 1}]
    scene.database.add(SECRET, filters=read_filters({"tenant": "b"}))
    await scene.node.authority.follow()
    assert await publish_all() == [{"tenant": "b", "n": 1}]


def read_filters(filters: dict[str, Any]) -> Any:
    """Compile filters."""
    return read_subscribe_request(EVENTS | {"filters": filters}).filters


async def publish_tenants(count: int) -> None:
    """Publish large messages of two tenants in turns."""
    for n in range(count):
        await apublish("events", {"tenant": "ab"[n % 2], "n": n, "text": "x" * 1000})


async def read_events(client: Client) -> list[tuple[str, int]]:
    """Read slowly, until nothing comes any more; return each message's tenant and number."""
    events: list[tuple[str, int]] = []
    await asyncio.sleep(1)
    while messages := client.read():
        events += [(m["data"]["event"]["tenant"], m["data"]["event"]["n"]) for m in messages]
        await asyncio.sleep(1)
    return events


@pytest.mark.parametrize("options", [{}, {"max_rate": 100, "conflate": "n"}], ids=str)
@pytest.mark.parametrize("buffer", [4096, 65_536])
def test_rights_narrowed_during_a_replay_apply_to_what_waits(
    scene: Scene, buffer: int, options: dict[str, Any]
) -> None:
    async def resume(scene: Scene) -> None:
        scene.configure(max_buffered_bytes=buffer)
        client = await scene.authenticated()
        start = (await scene.subscribed(client))["data"]
        client.session.unsubscribe(next(iter(client.session.subscriptions)))
        await publish_tenants(300)
        position = {"epoch": start["epoch"], "offset": 0}
        request = read_subscribe_request(EVENTS | {"resume": position} | options)
        await client.session.subscribe(request)
        await asyncio.sleep(1)
        (confirmation, *messages) = client.read()
        assert confirmation["data"]["replayed"] == 300 > len(messages)
        await asyncio.sleep(1)
        before = client.read()  # what its buffer has comes before the answer to `auth`
        scene.database.add("narrow", 2, filters=read_filters({"tenant": "a"}))
        assert await client.log_in("narrow")
        after = await read_events(client)
        count = len(messages) + len(before)
        assert after == [("a", n) for n in range(count, 300) if n % 2 == 0]
        await publish_tenants(2)
        assert await read_events(client) == [("a", 0)]

    in_no_time(resume)(scene)


@in_no_time
async def test_rights_changed_before_anything_was_replayed_keep_the_position(scene: Scene) -> None:
    """Nothing was to be replayed, so the client has taken the position of the answer."""
    client = await scene.authenticated(filters=read_filters({"tenant": "c"}))
    start = (await scene.subscribed(client))["data"]
    client.session.unsubscribe(next(iter(client.session.subscriptions)))
    await scene.subscribed(client, filters={"n": -1})  # so that messages arrive
    await publish_tenants(20)
    await asyncio.sleep(1)
    scene.configure(max_buffered_bytes=4096)
    async with scene.node.subscriptions.feed("events").lock:
        position = {"epoch": start["epoch"], "offset": 0}
        request = read_subscribe_request(EVENTS | {"resume": position, "max_rate": 1})
        await client.session.subscribe(request)
        (confirmation,) = client.read()
        assert (confirmation["data"]["replayed"], confirmation["data"]["offset"]) == (0, 20)
        scene.database.add(SECRET)
        await scene.node.authority.follow()
    await asyncio.sleep(1)
    assert client.read() == []


@in_no_time
async def test_one_who_cannot_take_what_was_held_is_gone_for_all_its_subscriptions(
    scene: Scene,
) -> None:
    client = await scene.authenticated()
    for number in range(3):
        await scene.subscribed(client, batch_ms=1000 + number)
    await publish_tenants(4)
    await asyncio.sleep(0.1)
    client.most_bytes = 100
    scene.database.add(SECRET, filters=read_filters({"tenant": "a"}), expires_at=START + 1e6)
    await scene.node.authority.follow()
    assert client.closed == ended(CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER)
    assert scene.node.report()["total_subscriptions"] == 0
    scene.clock.advance(2e6)
    assert list(scene.node.roster.expired(scene.clock.time())) == []


@in_no_time
async def test_a_subscription_ends_with_its_right(scene: Scene) -> None:
    client = await scene.authenticated()
    events = await scene.subscribed(client)
    alerts = await scene.subscribed(client, type="alerts")
    scene.database.add(SECRET, types=frozenset({"alerts"}))
    await scene.node.authority.follow()
    [message] = client.read()
    assert message["subscription_id"] == events["subscription_id"]
    assert message["type"] == "unsubscribed" and message["data"] == {"reason": "forbidden"}
    assert list(client.session.subscriptions) == [alerts["subscription_id"]]
    assert client.closed is None


@in_no_time
async def test_a_token_of_many_changes_for_one_after_another(scene: Scene) -> None:
    """Others run meanwhile: one leaves, one gets a better token, and the changes go on."""
    clients = [await scene.authenticated() for _ in range(4)]
    for client in clients:
        await scene.subscribed(client)
    scene.database.add("better", 2)
    scene.database.add(SECRET, filters=read_filters({"tenant": "a"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("realtime.sessions.rights.CHANGING_SECONDS", -1.0)
        following = asyncio.create_task(scene.node.authority.follow())
        while clients[0].session.grant == clients[3].session.grant:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
        clients[2].session.end(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
        assert await clients[3].log_in("better")
        await following
    await publish_tenants(2)
    await asyncio.sleep(1)
    events = [[m["data"]["event"]["tenant"] for m in client.read()] for client in clients]
    assert events == [["a"], ["a"], [], ["a", "b"]]
    assert len(scene.node.roster.by_holder["token:1"]) == 2


@in_no_time
async def test_a_revoked_token_ends_its_connections(scene: Scene) -> None:
    client = await scene.authenticated()
    other = scene.connect()
    scene.database.add("other", 2)
    assert await other.log_in("other")
    scene.database.revoke(SECRET)
    await scene.node.authority.follow()
    assert client.closed == ended(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_REVOKED)
    assert other.closed is None
    assert not await scene.connect().log_in(SECRET)


@in_no_time
async def test_an_expired_token_ends_its_connections(scene: Scene) -> None:
    client = await scene.authenticated(expires_at=START + 60)
    await scene.node.authority.follow()
    assert client.closed is None
    scene.clock.advance(61)
    await scene.node.authority.follow()
    assert client.closed == ended(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_EXPIRED)


@pytest.mark.parametrize("change", ["narrowed", "forbidden", "ended"])
def test_rights_that_change_while_it_subscribes(scene: Scene, change: str) -> None:
    """Joining the type's group takes a moment, in which an administrator may be quick."""

    async def subscribe(scene: Scene) -> None:
        client = await scene.authenticated()
        subscribing = asyncio.create_task(
            client.session.subscribe(read_subscribe_request(EVENTS), "id")
        )
        await asyncio.sleep(0)
        assert scene.node.report()["total_subscriptions"] == 1 and not subscribing.done()
        if change == "ended":
            client.session.end(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
        else:
            types = frozenset({"alerts"} if change == "forbidden" else {"events"})
            scene.database.add(SECRET, types=types, filters=read_filters({"n": 1}))
            await scene.node.authority.follow()
        if change == "narrowed":
            await subscribing
            for n in (1, 2):
                await apublish("events", {"n": n})
            await asyncio.sleep(1)
            _, *messages = client.read()
            assert [message["data"]["event"] for message in messages] == [{"n": 1}]
        else:
            with pytest.raises(ProtocolError) as caught:
                await subscribing
            assert caught.value.code is ErrorCode.FORBIDDEN
            assert scene.node.report()["total_subscriptions"] == 0 and client.read() == []

    in_no_time(subscribe)(scene)


@in_no_time
async def test_rights_that_change_while_it_is_explained(scene: Scene) -> None:
    for n in range(3):
        await apublish("events", {"n": n})
    client = await scene.authenticated()
    read = MemoryLog.read

    async def read_slowly(log: MemoryLog, *arguments: Any) -> Any:
        await asyncio.sleep(1)
        return await read(log, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryLog, "read", read_slowly)
        request = read_subscribe_request(EVENTS | {"explain": True})
        subscribing = asyncio.create_task(client.session.subscribe(request))
        await asyncio.sleep(0.5)
        scene.database.add(SECRET, filters=read_filters({"n": 1}))
        await scene.node.authority.follow()
        await subscribing
    assert client.read()[-1]["data"]["explain"]["retained"] == 1  # all that it may see


# The end


@in_no_time
async def test_a_session_ends_once(scene: Scene) -> None:
    client = await scene.authenticated()
    await scene.subscribed(client)
    client.session.end(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
    client.session.end(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)
    client.session.restart(1.0)
    assert client.closed == ended(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
    assert client.read() == [] and client.session.subscriptions == {}
    assert scene.node.report()["total_subscriptions"] == scene.node.stats.active_clients == 0


@in_no_time
async def test_a_client_is_asked_to_come_back(scene: Scene) -> None:
    client = await scene.authenticated()
    client.session.restart(2.5)
    [message] = client.read()
    assert message["data"] == {
        "error": "Server restarting",
        "code": "restarting",
        "details": {"retry_after": 2.5},
    }
    assert client.closed == ended(CloseCode.SERVICE_RESTART, CloseReason.RESTARTING)


@in_no_time
async def test_a_transport_may_end_a_session(scene: Scene) -> None:
    slow, gone = await scene.authenticated(), await scene.authenticated()
    for client in (slow, gone):
        await scene.subscribed(client)
    slow.overflow()
    assert slow.session.has_ended and scene.node.stats.slow_consumers == 1
    assert gone.on_lost is not None
    gone.on_lost()
    assert gone.session.has_ended and gone.closed is None
    assert scene.node.stats.active_clients == scene.node.report()["total_subscriptions"] == 0


@in_no_time
async def test_a_drain_tells_all(scene: Scene) -> None:
    clients = [await scene.authenticated() for _ in range(3)]
    assert not scene.node.drain.has_begun
    await scene.node.drain.run()
    assert scene.node.drain.has_begun and await scene.node.readiness() == ["draining"]
    waits = [client.read()[-1]["data"]["details"]["retry_after"] for client in clients]
    assert waits == sorted(waits) and waits[0] >= 1
    assert {client.closed for client in clients} == {
        ended(CloseCode.SERVICE_RESTART, CloseReason.RESTARTING)
    }
    assert scene.node.drain.retry_after() >= 1


def test_what_is_logged_of_a_connection(
    scene: Scene,
    audit: Callable[[], list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.access")
    sent = 0

    async def live(scene: Scene) -> None:
        nonlocal sent
        client = await scene.authenticated()
        for text in ("{}", b"{}", "\u00e9"):
            client.session.count_received(text)
        await scene.subscribed(client)
        description = client.session.describe()
        assert description.holder == "token:1" and description.token == "rt_00000001"
        assert [subscribed.type for subscribed in description.subscriptions] == ["events"]
        scene.clock.advance(90)
        sent = description.sent
        client.session.end(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
        client.session.record_close(1008, "websocket")
        assert scene.node.stats.received_bytes == 6 and scene.node.stats.messages_received == 3

    in_no_time(live)(scene)
    line: Any
    [line] = [record.msg for record in caplog.records if record.name == "realtime.access"]
    assert 90 <= line.pop("seconds") < 91 and line.pop("client_id")
    assert line == {
        "message": "connection closed",
        "transport": "websocket",
        "code": 1008,
        "address": "10.0.0.1",
        "holder": "token:1",
        "token": "rt_00000001",
        "reason": "disconnected by an administrator",
        "messages_received": 3,
        "bytes_sent": sent,
        "subscriptions": 1,
    }
    assert [event["event"] for event in audit()] == ["authenticated", "ended"]


def test_a_limit_is_recorded_once(scene: Scene, audit: Callable[[], list[dict[str, Any]]]) -> None:
    async def reach_limits(scene: Scene) -> None:
        scene.configure(max_subscriptions_per_client=1)
        client = await scene.authenticated()
        await scene.subscribed(client)
        for n in range(3):
            client.session.count_rate_limited()
            with pytest.raises(ProtocolError):
                await scene.subscribed(client, filters={"n": n})
        assert scene.node.stats.rate_limited == 3

    in_no_time(reach_limits)(scene)
    limits = [event["limit"] for event in audit() if event["event"] == "limit_reached"]
    assert limits == ["rate limit", "subscriptions"]


def test_the_default_is_to_ask_for_authentication() -> None:
    assert WebSocketConfig().require_auth
