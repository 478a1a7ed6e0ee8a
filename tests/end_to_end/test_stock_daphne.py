"""The stock ``daphne`` command and ``runserver`` keep the contract too."""

from __future__ import annotations

import asyncio
import struct
import urllib.request
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from tests.end_to_end.poster import streaming
from tests.support import TEXT, TIMEOUT, OtherServer, RawClient, Server, client, manage

RATE = 12
SETTINGS = {
    "allowed_origins": "https://app.example.com",
    "auth_timeout_seconds": "1",
    "max_message_size": "4096",
    "rate_limit_per_minute": str(RATE),
    "ping_interval": "1",
}
PROGRAMS = {
    "daphne": ("-m", "daphne", "-p", "{port}", "streaming_site.asgi:application"),
    "runserver": ("manage.py", "runserver", "--noreload", "{port}"),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def other(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server started by another command, in a data directory of its own."""
    data_dir = tmp_path_factory.mktemp("other")
    if request.param == "daphne":
        done = manage("migrate", data_dir=data_dir)
        assert done.returncode == 0, done.stderr
    with OtherServer(data_dir, *PROGRAMS[request.param], **SETTINGS) as other:
        yield other


@pytest.fixture(scope="module")
def other_token(other: Server) -> str:
    """A token of that server."""
    return other.new_token()


async def test_a_conversation(other: Server, other_token: str) -> None:
    async with client(other, other_token) as page:
        await page.subscribe("events", {"user.id": ["a", "b"]})
        other.publish("events", {"user": {"id": "c"}}, {"user": {"id": "b"}, "n": 1})
        assert await page.assert_data("events") == {"user": {"id": "b"}, "n": 1}
        await page.send("")
        await page.assert_error("invalid_message")
        await page.assert_silent()


async def test_lines_are_published_as_they_come(other: Server) -> None:
    publisher = other.new_token(can_publish=True)
    async with client(other, publisher) as page, streaming(other, "events", publisher) as post:
        await page.subscribe("events")
        await post.send(b'{"n": 1}\n{"n":')
        assert await page.assert_data("events") == {"n": 1}
        await post.send(b" 2}")
        answer = await post.end()
        assert (answer.status, answer.said["count"]) == (200, 2)


async def test_policy_violations(other: Server, other_token: str) -> None:
    async with (
        client(other, origin="https://evil.example") as foreign,
        client(other) as silent,
        client(other) as guessing,
        client(other, other_token) as flooding,
    ):
        await foreign.assert_nothing_but_closed(1008, "origin not allowed")
        for _ in range(3):
            reply = await guessing.call({"type": "auth", "data": {"token": "wrong"}})
            assert reply["type"] == "auth_failed"
        await guessing.assert_nothing_but_closed(1008, "authentication failed")
        for _ in range(RATE + 10 * RATE):
            await flooding.send({"type": "ping"})
        await flooding.assert_closed(1008, "flooding")
        await silent.assert_nothing_but_closed(1008, "authentication timeout")


async def test_a_connection_too_many(other: Server) -> None:
    token = other.new_token(max_connections=1)
    async with client(other, token), client(other) as second:
        await second.send({"type": "auth", "data": {"token": token}})
        await second.assert_nothing_but_closed(1013, "token connection limit")


@pytest.mark.parametrize(
    ("code", "first_byte", "payload"),
    [
        (1002, 0x83, b""),
        (1002, 0xC1, b"{}"),
        (1002, 0x88, struct.pack("!H", 999)),
        (1007, TEXT, b"\xff"),
        (1009, TEXT, b"x" * 5000),
    ],
)
def test_errors_in_the_bytes(other: Server, code: int, first_byte: int, payload: bytes) -> None:
    with RawClient(other).connect() as raw:
        raw.send(first_byte, payload)
        reason = raw.assert_closed(code)
        assert reason == "message too big" if code == 1009 else reason
        raw.say_goodbye()


async def test_paths(other: Server, other_token: str) -> None:
    async with client(other, other_token, path="/") as page:
        await page.assert_silent()
    with pytest.raises(InvalidStatus) as refused:
        async with client(other, path="/nothing"):
            pass
    assert refused.value.response.status_code == 404
    # Static files are those of our app, of Django's, and Chart.js of another package.
    static_files = (
        "realtime/dashboard/icon.svg",
        "admin/css/base.css",
        "chartjs/chart.js",
    )
    for path in ("healthz", *(f"static/{name}" for name in static_files)):
        url = f"http://127.0.0.1:{other.port}/{path}"
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=TIMEOUT) as answer:
            assert answer.status == 200


async def test_sigterm_drains(other: Server, other_token: str) -> None:
    """The last test: the server is gone after it."""
    async with client(other, other_token) as page:
        await page.subscribe("events")
        other.process.terminate()
        error = await page.assert_error("restarting")
        assert error["details"]["retry_after"] > 0
        await page.assert_nothing_but_closed(1012, "server restarting")
    assert await asyncio.to_thread(other.process.wait, TIMEOUT) == 0
