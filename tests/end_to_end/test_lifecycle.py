"""``manage.py serve`` from its first line to its exit status, and what becomes of its clients."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support import TIMEOUT, RawClient, Server, client, free_port, manage, running, wait_until

RESTARTING = {"error": "Server restarting", "code": "restarting"}


def is_gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended, though nobody may have collected it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


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
                await page.expect_nothing_but_close(1012, "server restarting")
        assert await asyncio.to_thread(server.process.wait, TIMEOUT) == 0
        assert time.monotonic() - started < 10
        assert is_gone(valkey)
        assert server.log() == ""


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
        stubborn.expect_close(1012, "server restarting")
        wait_until(lambda: refuses_connections(server))
        answer = early.shake_hands()
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        check_restarting(early.read_message())
        early.expect_close(1012, "server restarting")
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
        stubborn.expect_close(1012, "server restarting")
        assert server.process.poll() is None
        server.process.terminate()
        assert server.process.wait(2) == 0
        wait_until(lambda: is_gone(valkey))


async def test_after_a_sigkill_nothing_is_left_and_a_new_start_works(data_dir: Path) -> None:
    with running(data_dir) as server:
        valkeys = server.valkey()
        assert len(valkeys) == 1
        token = server.new_token()
        server.process.kill()
        server.process.wait()
        wait_until(lambda: all(is_gone(valkey) for valkey in valkeys))
    with running(data_dir) as server:
        async with client(server, token) as page:
            await page.subscribe("events")
            await page.expect_silence()


async def test_the_embedded_valkey_is_started_again(data_dir: Path) -> None:
    with running(data_dir, require_auth="false") as server:
        server.may_fail = True  # the channel layer logs the outage with a traceback
        async with client(server) as page:
            await page.subscribe("events")
            server.publish("events", {"n": 0})
            assert await page.expect_data("event") == {"n": 0}
            (valkey,) = server.valkey()
            valkey.kill()
            receiving = asyncio.create_task(page.receive(timeout=20))
            n = 0
            while not receiving.done():
                n += 1
                await asyncio.to_thread(server.try_to_publish, "events", {"n": n})
                await asyncio.wait([receiving], timeout=0.1)
            first = (await receiving)["data"]["event"]["n"]
            for expected in range(first + 1, n + 1):
                assert await page.expect_data("event") == {"n": expected}
            server.publish("events", {"n": n + 1})
            assert await page.expect_data("event") == {"n": n + 1}
            await page.subscribe("metrics")
            server.publish("metrics", {"n": 1})
            assert await page.expect_data("metrics") == {"n": 1}
        assert len(server.valkey()) == 1


async def test_a_channel_layer_that_does_not_answer(data_dir: Path) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}"
    with running(data_dir, REDIS_URL=nobody, require_auth="false") as server:
        assert server.valkey() == []
        async with client(server) as page:
            for _ in range(2):
                await page.send({"type": "subscribe", "data": {"type": "events"}})
                error = await page.expect_error("unavailable")
                assert error.pop("details")["retry_after"] > 0
                assert error == {"error": "Temporarily unavailable", "code": "unavailable"}
            await page.expect_silence()
            reply = await page.call({"type": "auth", "data": {"token": server.new_token()}})
            assert reply["type"] == "auth_success"


async def test_two_servers_with_two_data_directories(
    server: Server, token: str, data_dir: Path
) -> None:
    with running(data_dir, require_auth="false") as second:
        assert second.port != server.port and len(second.valkey()) == 1
        async with client(server, token) as page, client(second) as other:
            reply = await other.call({"type": "auth", "data": {"token": token}})
            assert reply["type"] == "auth_failed"
            await page.subscribe("events")
            await other.subscribe("events")
            server.publish("events", {"n": 1})
            assert await page.expect_data("event") == {"n": 1}
            await other.expect_silence()
    async with client(server, token) as page:  # the other one's end is not its own
        await page.subscribe("events")
        server.publish("events", {"n": 2})
        assert await page.expect_data("event") == {"n": 2}


def check_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that a command has failed, saying why in one line."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n"), done.stderr
    for word in words:
        assert word in done.stderr


async def test_a_port_that_is_taken(server: Server, token: str) -> None:
    arguments = ("serve", "--host", "127.0.0.1", "--port", str(server.port))
    check_one_line(server.manage(*arguments), str(server.port), "in use")
    async with client(server, token) as page:  # the one that has it goes on
        await page.subscribe("events")
        server.publish("events", {"n": 1})
        assert await page.expect_data("event") == {"n": 1}


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("port", "99999", "65535"),
        ("allowed_origins", "example.com", "scheme://host"),
        ("prot", "1", "did you mean STREAMING_WEBSOCKET__PORT"),
    ],
)
def test_a_wrong_value(data_dir: Path, name: str, value: str, allowed: str) -> None:
    done = manage("serve", "--port", "0", data_dir=data_dir, **{name: value})
    check_one_line(done, f"STREAMING_WEBSOCKET__{name.upper()}", allowed)
    if name != "prot":
        assert value in done.stderr
