"""PostgreSQL as the database, a real one: everything works, also while it is away and after."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support import ROOT, Client, client, free_port, manage, running
from tests.support.postgresql import PostgreSQL, running_postgresql

# Tests that use the database in their own process.
OF_THE_DATABASE = [
    *("admin", "auth/test_models.py", "auth/test_tokens.py", "auth/test_policy.py"),
    *("auth/test_connection_tokens.py", "management/test_tokens.py", "publishing/test_outbox.py"),
    *("analytics/alerting/test_courier.py", "analytics/alerting/test_ledger.py"),
]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server."""
    with running_postgresql() as server:
        yield server


def test_the_tests_of_the_database(postgresql: PostgreSQL) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--numprocesses=0"]
        + [f"tests/{name}" for name in OF_THE_DATABASE],
        env=os.environ | {"TEST_DATABASE_URL": postgresql.url},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_tables_a_start_says_what_to_do(data_dir: Path) -> None:
    with running_postgresql(empty=True) as empty:
        done = manage("serve", "--port", "0", data_dir=data_dir, DATABASE_URL=empty.url)
        assert done.returncode == 1
        assert done.stderr == "CommandError: the database lacks tables: run manage.py migrate\n"
        for command in (["create_token", "a"], ["revoke_token", "a"]):
            done = manage(*command, data_dir=data_dir, DATABASE_URL=empty.url)
            assert "lacks tables" in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_commands_while_it_is_away(data_dir: Path) -> None:
    away = f"postgres://streaming:hush@127.0.0.1:{free_port()}/postgres"
    done = manage("create_token", "a", data_dir=data_dir, DATABASE_URL=away)
    assert done.returncode == 1
    assert "does not answer" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "hush" not in done.stderr


async def test_a_server_starts_while_it_is_away(data_dir: Path) -> None:
    with running_postgresql() as postgresql:
        variables = {"DATABASE_URL": postgresql.url}
        token = manage("create_token", "a", data_dir=data_dir, **variables).stdout.strip()
        postgresql.kill()
        with running(data_dir, **variables) as server:
            async with client(server) as page:
                assert await attempt(page, token) == "auth_failed"
                postgresql.start()
                async with asyncio.timeout(10):
                    while await attempt(page, token) != "auth_success":  # noqa: ASYNC110
                        await asyncio.sleep(0.1)


async def attempt(page: Client, token: str) -> str:
    """Try to authenticate; return the type of the answer."""
    await page.send({"type": "auth", "data": {"token": token}})
    kind: str = (await page.receive(timeout=8))["type"]
    return kind


async def test_a_server_on_it_through_an_outage(data_dir: Path, postgresql: PostgreSQL) -> None:
    variables = {"DATABASE_URL": postgresql.url, "enable_rate_limiting": "false"}
    with running(data_dir, "--workers", "2", **variables) as server:
        token, doomed = server.new_token(), server.new_token()
        async with AsyncExitStack() as pages:
            page, other, *_ = await asyncio.gather(
                *(pages.enter_async_context(client(server, one)) for one in (token, doomed)),
                # More at a time than a process has connections.
                *(pages.enter_async_context(client(server, token)) for _ in range(40)),
            )
            in_use = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'streaming'"
            count = postgresql.ask(in_use)
            assert isinstance(count, int) and count <= 2 * 10 + 3
            await page.subscribe("events")
            server.administer(
                "from realtime.auth.tokens import revoke\n"
                "revoke([AccessToken.objects.latest('pk')])"
            )
            await other.assert_closed(1008, "token revoked")
            postgresql.kill()
            # A worker that has not heard of the revocation knows the other token for a while.
            async with asyncio.timeout(10):
                while await attempt(page, token) != "auth_failed":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            server.publish("events", {"n": 1})
            assert await page.assert_data("events") == {"n": 1}
            postgresql.start()
            # Who comes when it is back need not wait for long.
            async with asyncio.timeout(10):
                while await attempt(page, token) != "auth_success":  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
