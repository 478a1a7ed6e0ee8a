"""``manage.py serve`` from its first line to its exit status, and what becomes of its clients."""

from __future__ import annotations

import asyncio
import subprocess
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import psutil
import pytest

from realtime.cluster.servers import ANSWER_TIMEOUT
from tests.support import (
    RawClient,
    Server,
    client,
    free_port,
    is_gone,
    manage,
    running,
    wait_until,
)


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
            await page.assert_silent()


async def test_the_embedded_valkey_is_started_again(data_dir: Path) -> None:
    with running(data_dir, require_auth="false") as server:
        server.may_fail = True  # the channel layer logs the outage with a traceback
        async with client(server) as page:
            await page.subscribe("events")
            server.publish("events", {"n": 0})
            assert await page.assert_data("events") == {"n": 0}
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
                assert await page.assert_data("events") == {"n": expected}
            server.publish("events", {"n": n + 1})
            assert await page.assert_data("events") == {"n": n + 1}
            await page.subscribe("metrics")
            server.publish("metrics", {"n": 1})
            assert await page.assert_data("metrics") == {"n": 1}
        assert len(server.valkey()) == 1


async def test_a_channel_layer_that_does_not_answer(data_dir: Path) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}"
    with running(data_dir, REDIS_URL=nobody, require_auth="false") as server:
        assert server.valkey() == []
        async with client(server) as page:
            for explain in (False, True):
                data = {"type": "events", "explain": explain}
                await page.send({"type": "subscribe", "data": data})
                error = await page.assert_error("unavailable")
                assert error.pop("details")["retry_after"] > 0
                assert error == {"error": "Temporarily unavailable", "code": "unavailable"}
            await page.assert_silent()
            reply = await page.call({"type": "auth", "data": {"token": server.new_token()}})
            assert reply["type"] == "auth_success"


async def test_a_channel_layer_that_hangs(data_dir: Path) -> None:
    with running(data_dir, require_auth="false") as server:
        (valkey,) = server.valkey()
        async with AsyncExitStack() as stack:
            pages = [await stack.enter_async_context(client(server)) for _ in range(8)]
            valkey.suspend()
            async with asyncio.timeout(3 * ANSWER_TIMEOUT):  # all wait together, not in turn
                for number, page in enumerate(pages):
                    data = {"type": "events", "explain": number % 2 == 0}
                    await page.send({"type": "subscribe", "data": data})
                for page in pages:
                    error = await page.assert_error("unavailable")
                    assert error["details"]["retry_after"] > 0
            valkey.resume()
            for page in pages:
                await page.subscribe("events")
            server.publish("events", {"n": 1})
            for page in pages:
                assert await page.assert_data("events") == {"n": 1}


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
            assert await page.assert_data("events") == {"n": 1}
            await other.assert_silent()
    async with client(server, token) as page:  # the other one's end is not its own
        await page.subscribe("events")
        server.publish("events", {"n": 2})
        assert await page.assert_data("events") == {"n": 2}


def test_a_crowd_that_connects_while_the_server_pauses(server: Server) -> None:
    paused = psutil.Process(server.process.pid)
    with ExitStack() as stack:
        paused.suspend()
        try:  # else the system would have the rest try again after a second or more
            crowd = [stack.enter_context(RawClient(server)) for _ in range(120)]
        finally:
            paused.resume()
        for raw in crowd:
            raw.connect()


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
        assert await page.assert_data("events") == {"n": 1}


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
