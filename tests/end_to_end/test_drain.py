"""SIGTERM: what becomes of clients, requests and newcomers, and how the server ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support import (
    TIMEOUT,
    Client,
    RawClient,
    Server,
    client,
    is_gone,
    locked_database,
    running,
    wait_until,
)

RESTARTING = {"error": "Server restarting", "code": "restarting"}
CROWD = 300


def refuses_connections(server: Server) -> bool:
    """Tell whether nobody listens on the server's port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) != 0


def check_restarting(message: dict[str, Any]) -> float:
    """Check the ``restarting`` error; return its ``retry_after``."""
    assert message["type"] == "error", message
    retry_after: float = message["data"].pop("details")["retry_after"]
    assert message["data"] == RESTARTING
    assert retry_after > 0
    return retry_after


def test_a_terminal_that_is_closed_drains_too(data_dir: Path) -> None:
    with (
        running(data_dir, require_auth="false") as server,
        RawClient(server).connect() as page,
    ):
        server.process.send_signal(signal.SIGHUP)
        check_restarting(page.read_message())
        page.assert_closed(1012, "server restarting")
        page.say_goodbye()
        assert server.process.wait(TIMEOUT) == 0


async def test_sigterm_drains(data_dir: Path) -> None:
    with running(data_dir, require_auth="false") as server:
        assert server.output == f"listening on http://127.0.0.1:{server.port}\n"
        (valkey,) = server.valkey()
        async with AsyncExitStack() as stack:
            pages = [await stack.enter_async_context(client(server)) for _ in range(10)]
            await pages[0].subscribe("events")
            started = time.monotonic()
            server.process.terminate()
            times = {check_restarting(await page.receive()) for page in pages}
            assert len(times) > 1  # so that the reconnects spread
            for page in pages:
                await page.assert_nothing_but_closed(1012, "server restarting")
        assert await asyncio.to_thread(server.process.wait, TIMEOUT) == 0
        assert time.monotonic() - started < 10
        assert is_gone(valkey)
        lines = server.log().splitlines()
        assert len(lines) == len(pages)
        assert all('reason="server restarting"' in line for line in lines)


def test_a_drain_takes_no_newcomers_and_no_longer_than_it_may(data_dir: Path) -> None:
    with (
        running(data_dir, drain_timeout="2", require_auth="false") as server,
        RawClient(server).connect() as stubborn,
        RawClient(server) as early,  # connected, but without a handshake as yet
    ):
        stubborn.send_message({"type": "ping"})
        assert stubborn.read_message()["type"] == "pong"
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)  # Ctrl-C
        check_restarting(stubborn.read_message())
        stubborn.assert_closed(1012, "server restarting")
        wait_until(lambda: refuses_connections(server))
        answer = early.shake_hands()
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        check_restarting(early.read_message())
        early.assert_closed(1012, "server restarting")
        # They say no goodbye, and the server goes nevertheless.
        assert server.process.wait(TIMEOUT) == 0
        assert time.monotonic() - started < 3
        assert stubborn.drain() == b""


@pytest.mark.parametrize("number", range(3))
async def test_sigterm_while_clients_keep_connecting(data_dir: Path, number: int) -> None:
    with running(data_dir, require_auth="false") as server:
        connected = asyncio.Semaphore(0)

        async def come_and_go(stay: bool) -> None:
            ended = (OSError, ConnectionClosed, InvalidHandshake, EOFError, TimeoutError)
            with contextlib.suppress(ConnectionRefusedError):
                while True:
                    with contextlib.suppress(*set(ended) - {OSError}, ConnectionResetError):
                        async with connect(server.url, open_timeout=TIMEOUT) as page:
                            connected.release()
                            await page.send('{"type": "ping"}')
                            while stay:
                                await page.recv()

        clients = [asyncio.create_task(come_and_go(n % 2 == 0)) for n in range(20)]
        for _ in range(100):
            await connected.acquire()
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, TIMEOUT) == 0
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*clients)


def test_a_second_sigterm_ends_at_once(data_dir: Path) -> None:
    with running(data_dir, drain_timeout="60") as server, RawClient(server).connect() as stubborn:
        (valkey,) = server.valkey()
        server.process.terminate()
        check_restarting(stubborn.read_message())
        stubborn.assert_closed(1012, "server restarting")
        assert server.process.poll() is None
        server.process.terminate()
        assert server.process.wait(2) == 0
        wait_until(lambda: is_gone(valkey))


@contextlib.asynccontextmanager
async def crowd(server: Server) -> AsyncIterator[list[Client]]:
    """Connect many clients."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client(server)) for _ in range(CROWD)]


async def leave(page: Client) -> tuple[float, float]:
    """Return when a client was told to go, and when to come back."""
    retry_after = check_restarting(await page.receive())
    told = time.monotonic()
    await page.assert_nothing_but_closed(1012, "server restarting")
    return told, told + retry_after


async def test_the_clients_of_a_server_do_not_come_back_together(data_dir: Path) -> None:
    with running(data_dir, require_auth="false") as server:
        async with crowd(server) as pages:
            server.process.terminate()
            back = sorted([at for _, at in await asyncio.gather(*map(leave, pages))])
    # In five seconds, the half of drain_timeout. All at random would make 80 in one of them likely.
    for first, after in zip(back, back[75:], strict=False):
        assert after - first > 1
    assert back[-1] - back[0] < 6


async def test_delivery_goes_on_until_a_client_is_told(data_dir: Path) -> None:
    with running(data_dir, require_auth="false") as server:
        stopped = threading.Event()

        def publish() -> None:
            for n in range(1_000_000):
                if stopped.is_set() or server.try_to_publish("events", {"n": n}) != "published":
                    break

        async with crowd(server) as pages:
            last = pages[-1]
            await last.subscribe("events")
            publishing = asyncio.create_task(asyncio.to_thread(publish))
            assert await last.assert_data("events") == {"n": 0}
            server.process.terminate()
            first_told, _ = await leave(pages[0])
            received, at = 0, 0.0
            while (message := await last.receive())["type"] == "data":
                received += 1
                assert message["data"]["event"] == {"n": received}
                at = time.monotonic()
            check_restarting(message)
            stopped.set()
            await publishing
        assert at > first_told


async def test_what_is_buffered_comes_before_the_close(data_dir: Path) -> None:
    sent = [{"n": n, "text": "x" * 900_000} for n in range(20)]
    with (
        running(data_dir, require_auth="false", max_buffered_bytes="100000000") as server,
        RawClient(server).connect() as slow,
    ):
        slow.send_message({"type": "subscribe", "data": {"type": "events"}})
        assert slow.read_message()["type"] == "subscribed"
        async with client(server) as page:
            await page.subscribe("events")
            server.publish("events", *sent)
            for payload in sent:
                assert await page.assert_data("events") == payload
            server.process.terminate()
            await leave(page)
        for payload in sent:
            assert (await asyncio.to_thread(slow.read_message))["data"]["event"] == payload
        check_restarting(slow.read_message())
        slow.assert_closed(1012, "server restarting")
        slow.say_goodbye()
        assert await asyncio.to_thread(server.process.wait, TIMEOUT) == 0


def test_readyz_says_so_while_connections_are_still_open(data_dir: Path) -> None:
    with (
        running(data_dir, drain_timeout="60") as server,
        RawClient(server).connect() as stubborn,
    ):
        probe = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        probe.request("GET", "/readyz")
        answer = probe.getresponse()
        assert (answer.status, json.load(answer)) == (200, {"status": "ready"})
        server.process.terminate()
        check_restarting(stubborn.read_message())
        stubborn.assert_closed(1012, "server restarting")
        probe.request("GET", "/readyz")  # on the same connection: there are no new ones
        answer = probe.getresponse()
        assert answer.status == 503
        assert json.load(answer) == {"status": "unavailable", "causes": ["draining"]}
        probe.request("GET", "/healthz")
        assert probe.getresponse().status == 200
        probe.close()
        assert refuses_connections(server)
        stubborn.say_goodbye()
        assert server.process.wait(TIMEOUT) == 0


async def test_a_request_under_way_is_answered(data_dir: Path) -> None:
    with running(data_dir) as server:
        probe = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
        async with client(server) as page:
            with locked_database(server):
                probe.request("GET", "/readyz")  # waits for the database
                await page.assert_silent()
                server.process.terminate()
                await leave(page)
                answer = await asyncio.to_thread(probe.getresponse)
                assert answer.status == 503
                probe.close()
        assert await asyncio.to_thread(server.process.wait, TIMEOUT) == 0


async def test_clients_go_on_at_another_server(data_dir: Path) -> None:
    with running(data_dir) as second:
        token = second.new_token()
        with running(data_dir) as first:
            async with client(first, token) as page:
                await page.subscribe("events")
                second.publish("events", {"n": 1})
                assert await page.assert_data("events") == {"n": 1}
                first.process.terminate()
                await leave(page)
            async with client(second, token) as page:
                await page.subscribe("events")
                second.publish("events", {"n": 2})
                assert await page.assert_data("events") == {"n": 2}
            assert await asyncio.to_thread(first.process.wait, TIMEOUT) == 0


def test_without_time_to_drain_clients_are_told_all_the_same(data_dir: Path) -> None:
    with (
        running(data_dir, drain_timeout="0") as server,
        RawClient(server).connect() as one,
        RawClient(server).connect() as other,
    ):
        server.process.terminate()
        for stubborn in (one, other):
            check_restarting(stubborn.read_message())
            stubborn.assert_closed(1012, "server restarting")
        assert server.process.wait(TIMEOUT) == 0


def test_a_drain_does_not_wait_for_what_does_not_answer(data_dir: Path) -> None:
    with (
        running(data_dir, require_auth="false", drain_timeout="3") as server,
        RawClient(server).connect() as page,
    ):
        (valkey,) = server.valkey()
        page.send_message({"type": "subscribe", "data": {"type": "events"}})
        assert page.read_message()["type"] == "subscribed"
        valkey.suspend()
        with locked_database(server):
            started = time.monotonic()
            server.process.terminate()
            check_restarting(page.read_message())
            page.assert_closed(1012, "server restarting")
            page.say_goodbye()
            assert server.process.wait(TIMEOUT) == 0
            assert time.monotonic() - started < 4
        valkey.kill()
