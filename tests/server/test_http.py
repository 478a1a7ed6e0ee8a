"""Bodies of requests that are handed on as they arrive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from realtime.server.http import MOST_WAITING, Body, arrives_in_parts


class Source:
    """A connection that notes whether it is read."""

    def __init__(self) -> None:
        self.is_read = True

    def pauseProducing(self) -> None:
        self.is_read = False

    def resumeProducing(self) -> None:
        self.is_read = True


@pytest.fixture
def source() -> Source:
    return Source()


async def test_parts_are_joined_until_they_are_taken(source: Source) -> None:
    body = Body(source)
    body.feed(b"a")
    body.feed(b"b")
    assert await body.receive() == {"type": "http.request", "body": b"ab", "more_body": True}
    body.feed(b"c")
    body.complete()
    assert await body.receive() == {"type": "http.request", "body": b"c", "more_body": False}


async def test_nothing_more_is_read_until_the_application_asks(source: Source) -> None:
    body = Body(source)
    body.feed(b"a")
    assert not source.is_read
    await body.receive()
    assert source.is_read


async def test_a_client_waits_for_a_slow_application(source: Source) -> None:
    body = Body(source)
    body.feed(b"a")
    await body.receive()
    body.feed(b"x" * MOST_WAITING)
    assert source.is_read
    body.feed(b"x")
    assert not source.is_read
    assert len((await body.receive())["body"]) == MOST_WAITING + 1
    assert source.is_read


async def test_the_application_waits_for_a_slow_client(source: Source) -> None:
    body = Body(source)
    receiving = asyncio.ensure_future(body.receive())
    await asyncio.sleep(0)
    assert not receiving.done()
    body.complete()
    assert await receiving == {"type": "http.request", "body": b"", "more_body": False}


async def test_a_client_that_leaves(source: Source) -> None:
    body = Body(source)
    body.feed(b"a")
    body.put_nowait({"type": "http.request", "body": b"Daphne's own"})
    body.put_nowait({"type": "http.disconnect"})
    assert (await body.receive())["body"] == b"a"
    assert await body.receive() == {"type": "http.disconnect"}


async def test_a_body_that_nobody_wants_is_read_and_thrown_away(source: Source) -> None:
    body = Body(source)
    body.feed(b"a")
    body.drop()
    assert source.is_read
    body.feed(b"x" * 2 * MOST_WAITING)
    assert source.is_read
    body.complete()
    assert (await body.receive())["body"] == b""


class Headers:
    """The headers of a request, of which some are there."""

    def __init__(self, *names: bytes) -> None:
        self._names = names

    def hasHeader(self, name: bytes) -> bool:
        return name in self._names


@pytest.mark.parametrize(
    ("command", "path", "length", "headers", "expected"),
    [
        (b"POST", b"/api/publish/events", 5, [], True),
        (b"POST", b"/api/publish/events", None, [], True),  # in chunks
        (b"POST", b"/api/publish/events", 0, [], False),
        (b"PUT", b"/api/publish/events", 5, [], False),
        (b"POST", b"/admin/", 5, [], False),
        (b"POST", b"/api/publish/events", 5, [b"Upgrade"], False),
    ],
)
def test_which_requests_are_served_before_their_body_has_come(
    command: bytes, path: bytes, length: int | None, headers: list[bytes], expected: bool
) -> None:
    class Channel:
        _command, _path, _version = command, path, b"HTTP/1.1"

    class Request:
        requestHeaders = Headers(*headers)

    channel: Any = Channel()
    channel.length = length
    assert arrives_in_parts(channel, Request()) is expected
