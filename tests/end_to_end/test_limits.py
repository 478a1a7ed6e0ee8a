"""Limits: messages a minute, connections, subscriptions, sizes and times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.support import TEXT, Client, RawClient, Server, client, running

RATE = 12
MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def limited(server: Server) -> Iterator[Server]:
    """A server with low limits for each connection; tokens and messages are the other's."""
    with running(
        server.data_dir,
        rate_limit_per_minute=str(RATE),
        auth_timeout_seconds="1",
        max_subscriptions_per_client="3",
        max_message_size="4096",
    ) as limited:
        yield limited


@pytest.fixture(scope="module")
def small(server: Server) -> Iterator[Server]:
    """A server for two connections, without a rate limit."""
    with running(
        server.data_dir,
        max_connections="2",
        enable_rate_limiting="false",
        rate_limit_per_minute="1",
    ) as small:
        yield small


async def spend(page: Client, count: int) -> None:
    """Send messages that the limit allows."""
    for _ in range(count):
        assert (await page.call({"type": "ping"}))["type"] == "pong"


class TestRate:
    """``rate_limit_per_minute``."""

    async def test_the_limit_holds_for_each_client(self, limited: Server, token: str) -> None:
        async with client(limited, token) as page, client(limited, token) as other:
            await spend(page, RATE - 1)
            reply = await page.call({"type": "ping", "metadata": {"n": 1}})
            assert reply.keys() == {"type", "timestamp", "data"}
            retry_after = reply["data"]["details"].pop("retry_after")
            assert 0 < retry_after <= 60
            assert reply["type"] == "error"
            assert reply["data"] == {
                "error": "Rate limit exceeded",
                "code": "rate_limited",
                "details": {},
            }
            await spend(other, RATE - 1)

    async def test_every_message_counts(self, limited: Server, token: str) -> None:
        async with client(limited) as page:
            await page.call({"type": "auth", "data": {"token": "wrong"}})
            await page.authenticate(token)
            await page.subscribe("events", subscription_id="a")
            for message in ("not JSON", "", b"\xff", {"type": "nothing"}, {"type": "subscribe"}):
                assert (await page.call(message))["type"] == "error"
            await page.call({"type": "unsubscribe", "data": {"subscription_id": "a"}})
            await spend(page, RATE - 9)
            await page.send({"type": "ping"})
            await page.assert_error("rate_limited")

    async def test_a_refused_message_does_not_count_and_is_not_looked_at(
        self, limited: Server, token: str
    ) -> None:
        async with client(limited, token) as page:
            await spend(page, RATE - 1)
            started = time.monotonic()
            await page.send({"type": "ping"})
            first = (await page.assert_error("rate_limited"))["details"]["retry_after"]
            for refused in ("not JSON", {"type": "subscribe", "data": {"type": "events"}}) * 10:
                await page.send(refused)
                error = await page.assert_error("rate_limited")
            # The wait still ends with the minute of the first message that was accepted.
            last = error["details"]["retry_after"]
            assert last <= first
            assert abs(first - last - (time.monotonic() - started)) < 1

    async def test_deliveries_go_on_while_messages_are_refused(
        self, limited: Server, server: Server, token: str
    ) -> None:
        async with client(limited, token) as page:
            await page.subscribe("events")
            await spend(page, RATE - 2)
            await page.send({"type": "ping"})
            await page.assert_error("rate_limited")
            server.publish("events", {"n": 1})
            assert await page.assert_data("events") == {"n": 1}

    async def test_a_token_may_have_a_limit_of_its_own(
        self, limited: Server, server: Server
    ) -> None:
        low, high = (server.new_token(rate_limit_per_minute=n) for n in (3, RATE + 5))
        async with client(limited, low) as page, client(limited, high) as other:
            await spend(page, 2)
            await page.send({"type": "ping"})
            await page.assert_error("rate_limited")
            await spend(other, RATE + 4)
            await other.send({"type": "ping"})
            await other.assert_error("rate_limited")

    async def test_flooding_closes(self, limited: Server, token: str) -> None:
        async with client(limited, token) as page, client(limited, token) as other:
            await spend(page, RATE - 1)
            for _ in range(10 * RATE):
                await page.send({"type": "ping"})
            for _ in range(10 * RATE):
                await page.assert_error("rate_limited")
            await page.send({"type": "ping"})
            await page.assert_closed(1008, "flooding")
            await spend(other, 1)

    async def test_the_limit_can_be_switched_off(self, small: Server, token: str) -> None:
        async with client(small, token) as page:
            await spend(page, 50)


class TestConnections:
    """``max_connections``, and a token's own."""

    async def test_the_oldest_unauthenticated_gives_way(self, small: Server, token: str) -> None:
        async with client(small) as oldest, client(small) as newer:  # half may be unauthenticated
            await oldest.assert_nothing_but_closed(1013, "server at capacity")
            await newer.authenticate(token)
            async with client(small) as newest, client(small, token) as last:
                await newest.assert_nothing_but_closed(1013, "server at capacity")
                await spend(newer, 1)
                await spend(last, 1)

    async def test_a_newcomer_is_refused_if_all_are_authenticated(
        self, small: Server, token: str
    ) -> None:
        async with client(small, token) as first:
            async with client(small, token) as second:
                with RawClient(small).connect() as newcomer:
                    newcomer.send_message({"type": "auth", "data": {"token": token}})
                    newcomer.assert_closed(1013, "server at capacity")
                    newcomer.say_goodbye()
                await spend(first, 1)
                await spend(second, 1)
            async with client(small, token) as third:
                await spend(third, 1)

    async def test_connections_that_were_cut_leave_room(self, small: Server, token: str) -> None:
        for _ in range(5):
            async with client(small, token) as first, client(small, token) as second:
                first.socket.transport.abort()
                second.socket.transport.abort()

    async def test_a_token_may_have_a_limit_of_its_own(self, server: Server) -> None:
        token = server.token("--max-connections", "2")
        async with client(server, token) as first:
            async with client(server, token) as second, client(server) as third:
                await second.authenticate(token)  # again: no further connection
                await third.send({"type": "auth", "data": {"token": token}})
                await third.assert_nothing_but_closed(1013, "token connection limit")
                await spend(first, 1)
            async with client(server, token) as fourth:
                await spend(fourth, 1)


class TestAuthenticationTimeout:
    """``auth_timeout_seconds``."""

    async def test_whoever_does_not_authenticate_in_time_is_closed(
        self, limited: Server, token: str
    ) -> None:
        started = time.monotonic()
        async with AsyncExitStack() as stack:
            authenticated, silent, pinging, wrong = [
                await stack.enter_async_context(client(limited)) for _ in range(4)
            ]
            await authenticated.authenticate(token)
            await spend(pinging, 3)
            await wrong.call({"type": "auth", "data": {"token": "wrong"}})
            for page in (silent, pinging, wrong):
                await page.assert_nothing_but_closed(1008, "authentication timeout")
            assert 1 <= time.monotonic() - started < 5
            await spend(authenticated, 1)


class TestSubscriptions:
    """``max_subscriptions_per_client``."""

    async def test_there_may_be_so_many(self, limited: Server, token: str) -> None:
        async with client(limited, token) as page, client(limited, token) as other:
            ids = [await page.subscribe("events", {"n": n}) for n in range(3)]
            await page.send({"type": "subscribe", "data": {"type": "events"}})
            error = await page.assert_error("too_many_subscriptions")
            assert error == {"error": "Too many subscriptions", "code": "too_many_subscriptions"}
            assert await page.subscribe("events", {"n": 1}) == ids[1]  # it exists
            await other.subscribe("events")
            await page.call({"type": "unsubscribe", "data": {"subscription_id": ids[0]}})
            await page.subscribe("events")

    async def test_the_default_is_100(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            for n in range(100):
                await page.subscribe("events", {"n": n})
            await page.send({"type": "subscribe", "data": {"type": "alerts"}})
            await page.assert_error("too_many_subscriptions")
            server.publish("events", *({"n": n} for n in range(101)))
            assert [(await page.assert_data("events"))["n"] for _ in range(100)] == [*range(100)]


def ping_of(size: int) -> str:
    """Return a ping of so many bytes."""
    text = json.dumps({"type": "ping", "padding": ""})
    return text.replace('""', '"' + "x" * (size - len(text)) + '"')


@asynccontextmanager
async def bystander(server: Server, token: str) -> AsyncIterator[None]:
    """A client that must not notice anything."""
    async with client(server, token) as page:
        yield
        await page.assert_silent()


class TestMessageSize:
    """``max_message_size``."""

    @pytest.mark.parametrize("form", ["text", "binary", "fragments"])
    async def test_a_message_may_be_so_large(self, limited: Server, token: str, form: str) -> None:
        async with bystander(limited, token), client(limited, token) as page:
            for size in (4096, 4097):
                text = ping_of(size)
                forms: dict[str, Any] = {
                    "text": text,
                    "binary": text.encode(),
                    "fragments": [text[:2000], text[2000:4000], text[4000:]],
                }
                await page.socket.send(forms[form])
                if size == 4096:
                    assert (await page.receive())["type"] == "pong"
            await page.assert_nothing_but_closed(1009, "message too big")

    async def test_the_default_is_a_mebibyte(self, server: Server, token: str) -> None:
        async with bystander(server, token), client(server, token) as page:
            await page.send(ping_of(MEBIBYTE))
            assert (await page.receive())["type"] == "pong"
            await page.send(ping_of(MEBIBYTE + 1))
            await page.assert_nothing_but_closed(1009, "message too big")

    def test_it_is_enough_to_announce_it(self, limited: Server) -> None:
        with RawClient(limited).connect() as raw:
            raw.socket.sendall(bytes([TEXT, 0x80 | 127]) + (2**40).to_bytes(8) + bytes(4))
            raw.assert_closed(1009, "message too big")
            raw.say_goodbye()

    async def test_before_authentication_too(self, limited: Server) -> None:
        async with client(limited) as page:
            await page.send(ping_of(5000))
            await page.assert_nothing_but_closed(1009, "message too big")

    async def test_a_message_to_a_client_may_be_larger(
        self, limited: Server, server: Server, token: str
    ) -> None:
        """The limit is for what clients send; what was published is delivered."""
        async with client(limited, token) as page:
            await page.subscribe("events")
            await asyncio.to_thread(server.publish, "events", {"text": "x" * 100_000})
            assert await page.assert_data("events") == {"text": "x" * 100_000}
