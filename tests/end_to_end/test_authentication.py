"""Who may connect, what a token grants, and how little a wrong one is told."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support import Client, Server, client, running

ALL_TYPES = ["events", "metrics", "alerts", "predictions", "aggregations", "system_status"]
INVALID_CREDENTIALS = {"error": "Invalid credentials", "code": "invalid_credentials"}


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that asks nobody to authenticate."""
    with running(tmp_path_factory.mktemp("open"), require_auth="false") as server:
        yield server


async def attempt(page: Client, token: Any) -> dict[str, Any]:
    """Authenticate with a token that is refused; return the reply's data."""
    reply = await page.call({"type": "auth", "data": {"token": token}})
    assert reply["type"] == "auth_failed", reply
    data: dict[str, Any] = reply["data"]
    return data


async def test_auth_success_says_what_the_token_grants(server: Server) -> None:
    token = server.token("--types", "metrics,events", "--expires", "2h")
    async with client(server) as page, client(server) as other:
        reply = await page.authenticate(token)
        data = reply["data"]
        assert reply.keys() == {"type", "timestamp", "data"}
        assert data.keys() == {"client_id", "token", "types", "expires_at"}
        assert uuid.UUID(data["client_id"])
        assert token.startswith(data["token"]) and 0 < len(data["token"]) < len(token) / 2
        assert sorted(data["types"]) == ["events", "metrics"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["expires_at"])
        remaining = datetime.fromisoformat(data["expires_at"]) - datetime.now(UTC)
        assert timedelta(hours=1, minutes=59) < remaining < timedelta(hours=2)
        again = (await other.authenticate(token))["data"]
        assert again["client_id"] != data["client_id"]


async def test_a_token_without_options_has_all_types_and_never_expires(
    server: Server, token: str
) -> None:
    async with client(server) as page:
        data = (await page.authenticate(token))["data"]
    assert sorted(data["types"]) == sorted(ALL_TYPES)
    assert data["expires_at"] is None


async def test_every_wrong_token_gets_the_same_answer(server: Server, token: str) -> None:
    past = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    expired, revoked = server.new_token(name="expired"), server.new_token(name="revoked")
    server.administer(
        "AccessToken.objects.filter(name='expired').update(expires_at=past)\n"
        "AccessToken.objects.filter(name='revoked').update(revoked_at=timezone.now())",
        past=past,
    )
    wrong: list[Any] = [expired, revoked, token + "x", token[:-1], token.upper(), ""]
    wrong += ["' OR 1=1 --", "\0", "ö𝄞", "x" * 100_000, None, 7, True, ["x"], {"token": token}]

    async def fail(candidates: list[Any]) -> None:
        async with client(server) as page:
            for candidate in candidates:
                assert await attempt(page, candidate) == INVALID_CREDENTIALS, candidate
            await page.authenticate(token)

    await asyncio.gather(*(fail(wrong[n : n + 2]) for n in range(0, len(wrong), 2)))
    async with client(server) as page:
        for message in ({"type": "auth"}, {"type": "auth", "data": {}}):
            reply = await page.call(message)
            assert (reply["type"], reply["data"]) == ("auth_failed", INVALID_CREDENTIALS)


async def test_before_authentication_only_auth_and_ping_are_answered(
    server: Server, token: str
) -> None:
    async with client(server) as page:
        for request in (
            {"type": "subscribe", "data": {"type": "events"}},
            {"type": "subscribe", "data": {"type": "nothing"}},
            {"type": "unsubscribe", "data": {"subscription_id": "x"}},
        ):
            await page.send(request)
            data = await page.assert_error("auth_required")
            assert data == {"error": "Authentication required", "code": "auth_required"}
        # What cannot be read comes first, then an unknown type.
        await page.send({"type": "subscribe"})
        await page.assert_error("invalid_message")
        await page.send({"type": "nothing"})
        await page.assert_error("unknown_type")
        await page.authenticate(token)
        await page.subscribe("events")


async def test_a_type_that_the_token_does_not_allow_is_forbidden(server: Server) -> None:
    token = server.new_token(types=["events"])
    async with client(server, token) as page:
        for kind in ALL_TYPES[1:]:
            await page.send({"type": "subscribe", "data": {"type": kind}})
            data = await page.assert_error("forbidden")
            assert data == {"error": "Not permitted", "code": "forbidden"}
        await page.subscribe("events")


async def test_filters_of_a_token_are_enforced_and_not_shown(server: Server) -> None:
    token = server.token("--filter", "tenant=acme", "--filter", "tenant=beta", "--filter", "n=1")
    async with client(server, token) as page:
        reply = await page.call({"type": "subscribe", "data": {"type": "events"}})
        assert reply["data"]["filters"] == {}
        own = {"tenant": ["acme", "other"], "x": True}
        reply = await page.call({"type": "subscribe", "data": {"type": "metrics", "filters": own}})
        assert reply["data"]["filters"] == own
        published: list[dict[str, Any]] = [
            {"tenant": tenant, "n": n, "x": True}
            for tenant in ("acme", "beta", "other")
            for n in (1, 2)
        ]
        server.publish("events", *published)
        assert [await page.assert_data("events") for _ in range(2)] == [published[0], published[2]]
        server.publish("metrics", *published)
        assert await page.assert_data("metrics") == published[0]
        await page.assert_silent()


class TestReauthentication:
    """``auth`` on an authenticated connection."""

    async def test_new_rights_apply_at_once(self, server: Server, token: str) -> None:
        narrow = server.new_token(types=["metrics", "alerts"], filters={"n": 1})
        async with client(server, token) as page:
            events = await page.subscribe("events")
            metrics = await page.subscribe("metrics")
            await page.authenticate(narrow)
            reply = await page.receive()
            del reply["timestamp"]
            assert reply == {
                "type": "unsubscribed",
                "subscription_id": events,
                "data": {"reason": "forbidden"},
            }
            await page.send({"type": "subscribe", "data": {"type": "events"}})
            await page.assert_error("forbidden")
            server.publish("events", {"n": 1})
            server.publish("metrics", {"n": 0}, {"n": 1})
            message = await page.receive()
            assert (message["subscription_id"], message["data"]["metrics"]) == (metrics, {"n": 1})
            await page.authenticate(token)
            server.publish("metrics", {"n": 0})
            assert await page.assert_data("metrics") == {"n": 0}
            await page.subscribe("events")

    async def test_a_failure_leaves_the_old_rights(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            await page.subscribe("events")
            await attempt(page, "wrong")
            server.publish("events", {"n": 1})
            assert await page.assert_data("events") == {"n": 1}
            await page.subscribe("alerts")


class TestWithoutRequiredAuthentication:
    """``require_auth`` false."""

    async def test_anonymous_clients_have_all_types(self, open_server: Server) -> None:
        async with client(open_server) as page:
            for kind in ALL_TYPES:
                await page.subscribe(kind)
            open_server.publish("events", {"n": 1})
            assert await page.assert_data("events") == {"n": 1}

    async def test_a_token_still_brings_its_rights_and_limits(self, open_server: Server) -> None:
        token = open_server.new_token(
            types=["events"], max_connections=1, rate_limit_per_minute=4, filters={"n": 1}
        )
        async with client(open_server) as page, client(open_server) as second:
            metrics = await page.subscribe("metrics")
            await page.authenticate(token)
            assert (await page.receive())["subscription_id"] == metrics
            await page.subscribe("events")
            open_server.publish("events", {"n": 0}, {"n": 1})
            assert await page.assert_data("events") == {"n": 1}
            await page.assert_silent()
            await page.send({"type": "ping"})
            await page.assert_error("rate_limited")
            await second.send({"type": "auth", "data": {"token": token}})
            await second.assert_nothing_but_closed(1013, "token connection limit")


async def test_the_third_failure_of_a_connection_closes_it(open_server: Server) -> None:
    token = open_server.new_token()
    async with client(open_server) as page:
        assert await attempt(page, "wrong") == INVALID_CREDENTIALS
        await page.subscribe("events")  # nothing has changed
        await page.authenticate(token)
        assert await attempt(page, None) == INVALID_CREDENTIALS
        await page.subscribe("alerts")
        await page.send({"type": "auth", "data": {"token": "wrong"}})
        await page.send({"type": "auth", "data": {"token": token}})
        reply = await page.receive()
        assert (reply["type"], reply["data"]) == ("auth_failed", INVALID_CREDENTIALS)
        await page.assert_nothing_but_closed(1008, "authentication failed")


async def test_a_valid_token_does_not_wait_for_the_failures_of_its_address(
    open_server: Server,
) -> None:
    token = open_server.new_token()

    async def fail() -> None:
        async with client(open_server) as page:
            for _ in range(2):
                assert await attempt(page, "wrong") == INVALID_CREDENTIALS

    async with client(open_server) as page:
        failures = [asyncio.create_task(fail()) for _ in range(12)]
        await asyncio.wait(failures, return_when=asyncio.FIRST_COMPLETED)
        await page.authenticate(token)
        assert not all(failure.done() for failure in failures)
        await asyncio.gather(*failures)


async def test_a_database_that_does_not_answer_is_no_failure_of_the_client(
    open_server: Server,
) -> None:
    token = open_server.new_token()
    database = sqlite3.connect(open_server.data_dir / "db.sqlite3", isolation_level=None)
    async with client(open_server) as page:
        database.execute("ALTER TABLE realtime_accesstoken RENAME TO elsewhere")
        try:
            for _ in range(4):
                data = await attempt(page, token)
                assert data.pop("details")["retry_after"] > 0
                assert data == {"error": "Temporarily unavailable", "code": "unavailable"}
        finally:
            database.execute("ALTER TABLE elsewhere RENAME TO realtime_accesstoken")
            database.close()
        await page.authenticate(token)
