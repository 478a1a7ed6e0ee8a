"""Addresses: whose a connection is, and what those who come from one can do to others."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.security.audit import audit
from tests.support import Client, RawClient, Server, client, running

WRONG = {"type": "auth", "data": {"token": "rt_00000000_guess"}}
CAPACITY = (1013, "server at capacity")


async def fail(page: Client) -> float:
    """Fail to authenticate; return how long the answer took."""
    started = time.monotonic()
    assert (await page.call(WRONG))["type"] == "auth_failed"
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "address"),
    [
        ("", "203.0.113.9", "127.0.0.1"),
        ("10.0.0.0/8", "203.0.113.9", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("127.0.0.0/8,10.0.0.0/8", "198.51.100.7, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("127.0.0.1", "203.0.113.9, garbage", "127.0.0.1"),
    ],
)
async def test_a_forwarded_address_is_believed_of_trusted_proxies_only(
    data_dir: Path, trusted: str, forwarded_for: str, address: str
) -> None:
    with running(data_dir, trusted_proxies=trusted) as server:
        headers = {"X-Forwarded-For": forwarded_for}
        async with client(server, additional_headers=headers) as page:
            await fail(page)
        assert [line["address"] for line in audit(server)] == [address]


def test_where_the_site_is_mounted_is_not_for_clients_to_say(server: Server) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/admin/", headers={"Daphne-Root-Path": "//evil.example"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.url == f"http://127.0.0.1:{server.port}/admin/login/?next=/admin/"
        assert b"evil.example" not in answer.read()
    with RawClient(server) as raw:
        answer_head = raw.shake_hands(b"Daphne-Root-Path: /elsewhere")
        assert answer_head.startswith(b"HTTP/1.1 101 ")


async def test_guesses_at_one_server_slow_those_at_another_and_no_valid_token(
    server: Server, token: str, data_dir: Path
) -> None:
    valkey = f"unix://{server.data_dir / 'valkey.sock'}"
    variables = {
        "REDIS_URL": valkey,
        "trusted_proxies": "127.0.0.1",
        "auth_failures_per_minute": "1",
    }
    (data_dir / "one").mkdir()
    (data_dir / "two").mkdir()
    guesser: dict[str, Any] = {"additional_headers": {"X-Forwarded-For": "203.0.113.77"}}
    with (
        running(data_dir / "one", **variables) as one,
        running(data_dir / "two", **variables) as two,
    ):
        secret = two.new_token()
        for _ in range(2):
            async with client(one, **guesser) as page:
                await fail(page)
                await fail(page)
        async with client(two, **guesser) as page, client(two) as other:
            guessing = asyncio.create_task(fail(page))
            assert await fail(other) < await guessing  # another address has not failed as yet
            started = time.monotonic()
            async with client(two, secret, **guesser):
                authenticated = time.monotonic() - started
            assert authenticated < guessing.result()


async def test_those_who_do_not_authenticate_cannot_shut_out_those_who_do(data_dir: Path) -> None:
    with running(data_dir, max_connections="8") as server:
        token = server.new_token()
        async with AsyncExitStack() as stack:
            good = [await stack.enter_async_context(client(server, token)) for _ in range(4)]
            idle = [await stack.enter_async_context(client(server)) for _ in range(12)]
            for page in idle[:8]:  # half of eight may wait
                await page.assert_nothing_but_closed(*CAPACITY)
            for page in (*good, *idle[8:]):
                await page.assert_silent()
            good += [await stack.enter_async_context(client(server, token)) for _ in range(4)]
            async with client(server) as late:
                await late.assert_nothing_but_closed(*CAPACITY)
            for page in good:
                await page.assert_silent()
        limits = [line["limit"] for line in audit(server) if line["event"] == "limit_reached"]
        assert set(limits) == {"server at capacity"}


def from_address(address: str) -> Any:
    """Return the options of a client that a proxy speaks for."""
    return {"additional_headers": {"X-Forwarded-For": address}}


async def test_connections_of_one_address_can_be_limited(data_dir: Path) -> None:
    variables = {"max_connections_per_address": "2", "trusted_proxies": "127.0.0.1"}
    near, same_network, far = map(from_address, ("2001:db8::1", "2001:db8::ffff", "2001:db8:1::1"))
    with running(data_dir, **variables) as server:
        token = server.new_token()
        async with client(server, token, **near) as one, client(server, token, **near) as two:
            async with client(server, **same_network) as third:
                await third.assert_nothing_but_closed(1013, "address connection limit")
            async with client(server, token, **far) as elsewhere:
                for page in (one, two, elsewhere):
                    await page.assert_silent()
