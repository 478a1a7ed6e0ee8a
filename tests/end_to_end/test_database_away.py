"""The database away: those who are in go on, those who come are told, nobody waits for long."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support import Client, Server, client, locked_database, manage, running

UNAVAILABLE = {"error": "Temporarily unavailable", "code": "unavailable"}
# A database call may take five seconds.
PATIENCE = 8.0


async def attempt(page: Client, token: str) -> None:
    """Check that authenticating fails because the database is away, in bounded time."""
    await page.send({"type": "auth", "data": {"token": token}})
    reply = await page.receive(timeout=PATIENCE)
    assert reply["type"] == "auth_failed", reply
    assert reply["data"].pop("details")["retry_after"] > 0
    assert reply["data"] == UNAVAILABLE


async def test_authenticated_clients_go_on(server: Server, token: str) -> None:
    unknown = server.new_token()
    async with client(server, token) as page:
        await page.subscribe("events")
        with locked_database(server):
            for n in range(20):
                server.publish("events", {"n": n})
                assert await page.assert_data("events") == {"n": n}
                await page.assert_silent()
            subscription_id = await page.subscribe("metrics", {"n": 1})
            server.publish("metrics", {"n": 0}, {"n": 1})
            assert await page.assert_data("metrics") == {"n": 1}
            reply = await page.call({"type": "unsubscribe", "subscription_id": subscription_id})
            assert reply["type"] == "unsubscribed"
            await attempt(page, unknown)  # the rights it has stay
            server.publish("events", {"n": 20})
            assert await page.assert_data("events") == {"n": 20}


async def test_who_comes_is_told_in_time_and_nobody_else_waits(data_dir: Path) -> None:
    with running(data_dir, enable_rate_limiting="false") as server:
        token, unknown = server.new_token(), server.new_token()
        async with client(server, token) as page, client(server) as patient:
            with locked_database(server):
                # More than there are threads for the database.
                coming = asyncio.gather(*(come(server, unknown) for _ in range(20)))
                longest = 0.0
                while not coming.done():
                    began = time.monotonic()
                    await page.assert_silent()
                    longest = max(longest, time.monotonic() - began)
                await coming
                # Threads wait five seconds for the database; the event loop does not.
                assert longest < 3
                await attempt(patient, unknown)
            await patient.authenticate(unknown)
            await patient.subscribe("events")


async def come(server: Server, token: str) -> None:
    """Connect while the database is away, which needs none, and try to authenticate."""
    async with client(server) as page:
        await page.assert_silent()
        await attempt(page, token)


async def test_a_token_expires_nevertheless(data_dir: Path) -> None:
    with running(data_dir) as server:
        expires_at = datetime.now(UTC) + timedelta(seconds=5)
        token = server.new_token(expires_at=expires_at.isoformat())
        async with client(server, token) as page:
            with locked_database(server):
                await page.assert_closed(1008, "token expired")
                assert datetime.now(UTC) >= expires_at


def test_a_start_says_so_in_one_line(data_dir: Path) -> None:
    with running(data_dir) as server, locked_database(server):
        done = manage("serve", "--port", "0", data_dir=data_dir)
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "database" in done.stderr, done.stderr
