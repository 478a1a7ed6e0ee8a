"""What an administrator changes in another process reaches running servers within 2 seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support import TIMEOUT, Client, Server, client, running


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own, since its limits and origins change."""
    with running(
        tmp_path_factory.mktemp("managed"),
        rate_limit_per_minute="100000",
        allowed_origins="https://environment.example",
    ) as server:
        server.administer("")  # it has started
        yield server


@pytest.fixture
def everything(managed: Server) -> str:
    """A token with all rights."""
    return managed.new_token()


@pytest.fixture
def limits(managed: Server) -> Iterator[Callable[..., None]]:
    """Set limits, until the test ends."""

    def change(**values: Any) -> None:
        managed.administer("Limits(**values).save()", values=values)

    yield change
    managed.administer("Limits.objects.all().delete()")


class Deadline:
    """The 2 seconds that a change may take, from now on."""

    def __init__(self, start: float | None = None) -> None:
        self._start = time.monotonic() if start is None else start

    def check(self) -> None:
        """Check that they are not over; a slow machine gets a little more."""
        assert time.monotonic() - self._start < 2.3

    async def wait_for(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Ask until the condition holds, in time."""
        while not await condition():
            self.check()
            await asyncio.sleep(0.05)


class TestLimits:
    """The limits of the admin override the environment's."""

    async def test_limits_apply_to_connections_there_are(
        self, managed: Server, everything: str, limits: Callable[..., None]
    ) -> None:
        async with client(managed, everything) as page, client(managed, everything) as talkative:
            await page.subscribe("events")
            for _ in range(20):
                await talkative.assert_silent()
            limits(max_subscriptions_per_client=1, max_message_size=2000, rate_limit_per_minute=20)
            deadline = Deadline()

            async def is_limited() -> bool:
                reply = await talkative.call({"type": "ping"})
                return bool(reply["type"] == "error")

            await deadline.wait_for(is_limited)
            await page.send({"type": "subscribe", "data": {"type": "alerts"}})
            await page.assert_error("too_many_subscriptions")
            deadline.check()

            async def is_too_big() -> bool:
                await page.send({"type": "ping", "padding": "x" * 2000})
                try:
                    await page.receive()
                except ConnectionClosed as closed:
                    assert closed.rcvd is not None
                    assert (closed.rcvd.code, closed.rcvd.reason) == (1009, "message too big")
                    return True
                return False

            await deadline.wait_for(is_too_big)

    async def test_limits_apply_to_new_connections(
        self, managed: Server, everything: str, limits: Callable[..., None]
    ) -> None:
        async with client(managed, everything) as first, client(managed, everything) as second:
            limits(max_connections=2, auth_timeout_seconds=1)
            deadline = Deadline()

            async def is_full() -> bool:
                async with client(managed) as newcomer:
                    try:
                        await newcomer.call({"type": "ping"})
                    except ConnectionClosed as closed:
                        return closed.rcvd is not None and closed.rcvd.code == 1013
                    return False

            await deadline.wait_for(is_full)
            await second.socket.close()
            async with client(managed) as silent:
                await silent.assert_closed(1008, "authentication timeout", timeout=3)
            await first.assert_silent()
            async with client(managed, everything):  # with the first it fills the server
                managed.administer("Limits.objects.all().delete()")
                deadline = Deadline()

                async def has_room() -> bool:
                    return not await is_full()

                await deadline.wait_for(has_room)

    async def test_without_limits_the_environments_are_in_force_again(
        self, managed: Server, everything: str, limits: Callable[..., None]
    ) -> None:
        async with client(managed, everything) as page:

            async def may_subscribe() -> bool:
                data = {"type": "events", "filters": {"a": 1}}
                reply = await page.call({"type": "subscribe", "data": data})
                return bool(reply["type"] == "subscribed")

            async def may_not_subscribe() -> bool:
                data = {"type": "events", "filters": {"b": 1}}
                reply = await page.call({"type": "subscribe", "data": data})
                if reply["type"] == "subscribed":
                    found = {"subscription_id": reply["subscription_id"]}
                    await page.call({"type": "unsubscribe", "data": found})
                return bool(reply["type"] == "error")

            await page.subscribe("events")
            limits(max_subscriptions_per_client=1)
            await Deadline().wait_for(may_not_subscribe)
            managed.administer("Limits.objects.update(max_subscriptions_per_client=None)")
            await Deadline().wait_for(may_subscribe)


class TestOrigins:
    """Origins of the admin replace the environment's while there are any."""

    async def test_origins(self, managed: Server, everything: str) -> None:
        async def allowed(origin: str) -> bool:
            async with client(managed, origin=origin) as page:
                try:
                    return bool((await page.call({"type": "ping"}))["type"] == "pong")
                except ConnectionClosed as closed:
                    assert closed.rcvd is not None
                    assert (closed.rcvd.code, closed.rcvd.reason) == (1008, "origin not allowed")
                    return False

        environments, admins = "https://environment.example", "https://admin.example"

        async def as_in_the_admin() -> bool:
            return await allowed(admins) and not await allowed(environments)

        async def as_in_the_environment() -> bool:
            return await allowed(environments) and not await allowed(admins)

        assert await as_in_the_environment()
        async with client(managed, everything, origin=environments) as page:
            managed.administer("AllowedOrigin(pattern=pattern).save()", pattern=admins)
            await Deadline().wait_for(as_in_the_admin)
            await page.assert_silent()  # it was allowed when it came
        managed.administer("AllowedOrigin.objects.get().delete()")
        await Deadline().wait_for(as_in_the_environment)


class TestTokens:
    """What happens to a token happens to its live connections."""

    @pytest.fixture
    def token(self, managed: Server) -> str:
        """A token named so that statements find it."""
        managed.administer("AccessToken.objects.filter(name='it').update(name='was it')")
        return managed.new_token(name="it")

    async def test_what_ends_a_token_ends_its_connections(
        self, managed: Server, everything: str
    ) -> None:
        row = "row = AccessToken.objects.filter(name=name)\n"
        acts: dict[str, tuple[str, str]] = {
            "revoked": ("row.update(revoked_at=timezone.now())", "token revoked"),
            "revoked and saved": (
                "row = row.get(); row.revoked_at = timezone.now(); row.save()",
                "token revoked",
            ),
            "deleted": ("row.get().delete()", "token revoked"),
            "all deleted": ("row.delete()", "token revoked"),
            "expired": ("row.update(expires_at=timezone.now())", "token expired"),
            "rotated at once": ("rotate(row.get(), timedelta())", "token revoked"),
            "owned": (
                "owner = User.objects.create_user('owner'); row.update(owner=owner)\n"
                "owner.is_active = False; owner.save()",
                "token revoked",
            ),
        }
        tokens = {name: managed.new_token(name=name) for name in acts}
        async with AsyncExitStack() as stack:

            async def connect(token: str) -> Client:
                return await stack.enter_async_context(client(managed, token))

            other = await connect(everything)
            pages = {name: [await connect(token) for _ in "12"] for name, token in tokens.items()}
            deadline = Deadline()
            for name, (statements, _) in acts.items():
                managed.administer(row + statements, name=name)
            for name, (_, reason) in acts.items():
                for page in pages[name]:
                    await page.assert_nothing_but_closed(1008, reason)
            deadline.check()
            await other.assert_silent()
        for token in tokens.values():
            async with client(managed) as page:
                reply = await page.call({"type": "auth", "data": {"token": token}})
                assert reply["type"] == "auth_failed"

    async def test_revoke_token(self, managed: Server, everything: str) -> None:
        token = managed.new_token()
        async with client(managed) as page, client(managed, everything) as other:
            prefix = (await page.authenticate(token))["data"]["token"]
            done = await asyncio.to_thread(managed.manage, "revoke_token", prefix)
            assert done.returncode == 0, done.stderr
            deadline = Deadline()
            await page.assert_nothing_but_closed(1008, "token revoked")
            deadline.check()
            await other.assert_silent()

    async def test_a_rotated_secret_ends_with_its_overlap(self, managed: Server) -> None:
        old = managed.new_token(name="rotated")
        async with client(managed, old) as page:
            ends = datetime.now(UTC) + timedelta(seconds=3)
            new = managed.administer(
                "token = AccessToken.objects.get(name=name)\n"
                "result = rotate(token, timedelta(seconds=3))",
                name="rotated",
            )
            async with client(managed, new) as other, client(managed, old):
                await page.assert_nothing_but_closed(1008, "token expired")
                assert ends <= datetime.now(UTC) < ends + timedelta(seconds=2.3)
                await other.assert_silent()
        async with client(managed) as page:
            reply = await page.call({"type": "auth", "data": {"token": old}})
            assert reply["type"] == "auth_failed"

    async def test_expired_by_time(self, managed: Server) -> None:
        expires_at = datetime.now(UTC) + timedelta(seconds=1)
        token = managed.new_token(expires_at=expires_at.isoformat())
        async with client(managed, token) as page:
            await page.subscribe("events")
            await page.assert_nothing_but_closed(1008, "token expired")
            late = datetime.now(UTC) - expires_at
            assert timedelta() <= late < timedelta(seconds=2.3)

    async def test_fewer_types_then_more(self, managed: Server, token: str) -> None:
        async with client(managed, token) as page:
            events = await page.subscribe("events")
            metrics = await page.subscribe("metrics")
            managed.administer("AccessToken.objects.filter(name='it').update(types=['metrics'])")
            deadline = Deadline()
            reply = await page.receive()
            deadline.check()
            assert (reply["type"], reply["subscription_id"]) == ("unsubscribed", events)
            assert reply["data"] == {"reason": "forbidden"}
            await page.send({"type": "subscribe", "data": {"type": "events"}})
            await page.assert_error("forbidden")
            managed.publish("events", {"n": 1})
            managed.publish("metrics", {"n": 2})
            assert (await page.receive())["subscription_id"] == metrics
            managed.administer(
                "token = AccessToken.objects.get(name='it')\n"
                "token.types = ['metrics', 'events']\n"
                "token.save()"
            )

            async def may_subscribe() -> bool:
                reply = await page.call({"type": "subscribe", "data": {"type": "events"}})
                return bool(reply["type"] == "subscribed")

            await Deadline().wait_for(may_subscribe)

    async def test_filters_and_the_rate_limit(self, managed: Server, token: str) -> None:
        async with client(managed, token) as page:
            await page.subscribe("events", {"m": [1, 2]})
            managed.administer(
                "AccessToken.objects.filter(name='it')"
                ".update(filters={'m': [2, 3]}, rate_limit_per_minute=5)"
            )

            async def is_limited() -> bool:
                return bool((await page.call({"type": "ping"}))["type"] == "error")

            await Deadline().wait_for(is_limited)
            managed.publish("events", {"m": 1}, {"m": 2}, {"m": 3})
            assert await page.assert_data("events") == {"m": 2}
            managed.administer("AccessToken.objects.filter(name='it').update(filters={})")

            async def gets_more() -> bool:
                managed.publish("events", {"m": 1})
                await page.send({"type": "ping"})
                return bool((await page.receive())["type"] == "data")

            await Deadline().wait_for(gets_more)

    async def test_a_new_token_is_valid_at_once(self, managed: Server) -> None:
        async with client(managed) as page:
            await page.authenticate(managed.new_token())

    async def test_a_connection_with_another_token_by_now_is_left_alone(
        self, managed: Server, token: str, everything: str
    ) -> None:
        async with client(managed, token) as page, client(managed, token) as witness:
            await page.authenticate(everything)
            managed.administer("AccessToken.objects.get(name='it').delete()")
            await witness.assert_nothing_but_closed(1008, "token revoked")
            await page.assert_silent()


class Tenants:
    """A connection with many subscriptions, whose rights change while messages come."""

    SUBSCRIPTIONS = 50

    def __init__(self, page: Client, tokens: list[str]) -> None:
        self._page = page
        # Which of the tokens is in force: the first for all tenants, the others for one each.
        self._tokens = tokens
        self._chosen = 0
        self._ids: list[str] = []
        # Subscription id -> the number of its newest message, and those of tenant "a".
        self._newest: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    async def subscribe(self) -> None:
        """Have subscriptions that get all messages, each in a fan-out group of its own."""
        for number in range(self.SUBSCRIPTIONS):
            key = await self._page.subscribe("events", {"n": {"gt": -1 - number}})
            self._newest[key], self._counts[key] = -1, 0

    async def read(self, messages: int) -> None:
        """Change rights again and again until so many messages have come or gone by."""
        while min(self._newest.values()) < messages - 1:
            choice = 1 - self._chosen
            await self._page.send({"type": "auth", "data": {"token": self._tokens[choice]}})
            while (message := await self._page.receive())["type"] == "data":
                self._take(message)
            assert message["type"] == "auth_success"
            self._chosen = choice
        assert set(self._counts.values()) == {messages // 2}, "lost"

    def _take(self, message: dict[str, Any]) -> None:
        key, event = message["subscription_id"], message["data"]["event"]
        assert event["n"] > self._newest[key], "twice"
        assert self._chosen == 0 or event["tenant"] == "a", "another tenant's"
        self._newest[key] = event["n"]
        self._counts[key] += event["tenant"] == "a"


async def test_rights_that_change_during_fan_outs_do_so_between_two_messages(
    managed: Server,
) -> None:
    tokens = [managed.new_token(), managed.new_token(filters={"tenant": "a"})]
    count = 400
    # The last one is for both tenants' followers to see.
    payloads = [{"n": n, "tenant": "ba"[n % 2]} for n in range(count)]
    async with AsyncExitStack() as stack:
        pages = [await stack.enter_async_context(client(managed, tokens[0])) for _ in range(8)]
        followers = [Tenants(page, tokens) for page in pages]
        await asyncio.gather(*(follower.subscribe() for follower in followers))

        async def publish() -> None:
            for start in range(0, count, 40):
                await asyncio.to_thread(managed.publish, "events", *payloads[start : start + 40])

        async with asyncio.timeout(6 * TIMEOUT):
            await asyncio.gather(publish(), *(follower.read(count) for follower in followers))
