"""Event streams: what a request may ask for, what it is refused, and how a stream ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from realtime import apublish
from realtime.http.event_stream import CHUNK, EventTransport, event_stream
from realtime.protocol import (
    CloseCode,
    CloseReason,
    Position,
    encode_data_head,
    encode_data_tail,
    sse,
    text_frame,
)
from realtime.testing import FakeClock
from tests.http.asgi import SECRET, Exchange, Site, in_no_time, site_in_memory
from tests.support.layers import Configure

BEARER = f"Bearer {SECRET}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> Iterator[Site]:
    """A site with a token."""
    configure(allowed_origins="https://app.example.com", ping_interval="10")
    modules = ("realtime.sessions.session",)
    with site_in_memory(monkeypatch, *modules) as site:
        site.database.add(SECRET)
        yield site


def get(query: str = "", kind: str = "events", method: str = "GET", **headers: str) -> Exchange:
    """Begin a request, with the token unless another credential is given."""
    headers = {"authorization": BEARER} | headers
    return Exchange(event_stream, method, f"/api/stream/{kind}", query, **headers)


@in_no_time
async def test_a_stream_begins_with_the_confirmation(site: Site) -> None:
    exchange = get("filter=n%3D1&fields=n")
    await asyncio.sleep(1)
    assert exchange.status == 200
    assert exchange.headers["content-type"] == "text/event-stream; charset=utf-8"
    retry, event, _, data, _ = exchange.body.decode().split("\n", 4)
    assert retry.startswith("retry: ") and event == "event: subscribed"
    assert '"filters":{"n":1}' in data and '"options":{"fields":["n"]}' in data
    for n in (1, 2):
        await apublish("events", {"n": n, "more": 1})
    await asyncio.sleep(1)
    assert exchange.body.count(b'"event":') == 1 and b'"event":{"n":1}' in exchange.body
    await asyncio.sleep(15)
    assert exchange.body.rstrip().rpartition(b"\n")[2].startswith(b"id: ")  # a sign of life
    await exchange.leave()


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        ({"kind": "nothing"}, 404, "Invalid subscription: type: expected one of "),
        ({"method": "POST"}, 405, "Method not allowed"),
        ({"authorization": ""}, 401, "Authentication required"),
        ({"authorization": "Bearer wrong"}, 401, "Invalid credentials"),
        ({"authorization": "", "query": f"token={SECRET}"}, 400, "Invalid message format: token: "),
        ({"query": "batch_ms=5"}, 400, "Invalid subscription: batch_ms: "),
        ({"query": "rewind=-1"}, 400, "Invalid subscription: rewind: "),
        ({"query": "explain=yes"}, 400, "Invalid subscription: explain: "),
        ({"query": "max_rate=fast"}, 400, "Invalid subscription: max_rate: "),
        ({"query": "filter={"}, 400, "Invalid subscription: filter: not JSON"),
        ({"last_event_id": "x"}, 400, "Invalid subscription: Last-Event-ID: "),
        ({"query": "&".join(["a=1"] * 2001)}, 400, "Invalid subscription: too many parameters"),
        ({"kind": "metrics"}, 403, "Not permitted"),
        ({"origin": "https://evil.example.com"}, 403, "origin not allowed"),
    ],
)
def test_refusals(site: Site, request_: dict[str, Any], status: int, error: str) -> None:
    async def ask(site: Site) -> None:
        exchange = get(**request_)
        answer = await exchange.answer()
        assert (exchange.status, answer["error"][: len(error)]) == (status, error)
        assert exchange.headers["vary"] == "Origin"

    in_no_time(ask)(site)


@in_no_time
async def test_what_is_wrong_is_told_to_those_who_may_ask(site: Site) -> None:
    wrong = "max_rate=0"
    assert (await get(wrong, authorization="").answer())["code"] == "auth_required"
    assert (await get(wrong).answer())["code"] == "invalid_subscription"


@in_no_time
async def test_a_token_may_have_so_many_streams(site: Site) -> None:
    site.database.add(SECRET, max_connections=1)
    first = get()
    await asyncio.sleep(1)
    second = get()
    answer = await second.answer()
    assert (second.status, answer["error"]) == (429, "token connection limit")
    await first.leave()
    third = get()
    await asyncio.sleep(1)
    assert third.status == 200
    await third.leave()


@in_no_time
async def test_who_is_ended_while_it_authenticates_is_told_why(site: Site) -> None:
    exchange = get(authorization="Bearer wrong")
    await asyncio.sleep(0.001)  # a wrong credential is answered later
    [client] = site.node.roster.clients
    client.end(CloseCode.POLICY_VIOLATION, CloseReason.DISCONNECTED)
    answer = await exchange.answer()
    assert (exchange.status, answer["error"]) == (401, "disconnected by an administrator")


@in_no_time
async def test_a_stream_ends_with_its_token(site: Site) -> None:
    exchange = get()
    await asyncio.sleep(1)
    site.database.revoke(SECRET)
    await exchange.ended()
    assert b'event: close\ndata: {"code":1008,"reason":"token revoked"}' in exchange.body


@in_no_time
async def test_a_stream_ends_with_its_right(site: Site) -> None:
    exchange = get()
    await asyncio.sleep(1)
    site.database.add(SECRET, types=frozenset({"alerts"}))
    await exchange.ended()
    assert b"event: unsubscribed" in exchange.body and b"event: close" not in exchange.body


@in_no_time
async def test_a_drain_ends_streams_and_takes_no_more(site: Site) -> None:
    exchange = get()
    await asyncio.sleep(1)
    await site.node.drain.run()
    await exchange.ended()
    assert b"event: restarting" in exchange.body and b'"code":1012' in exchange.body
    late = get()
    answer = await late.answer()
    assert (late.status, answer["error"]) == (503, "Server restarting")
    assert answer["details"]["retry_after"] >= 1


@in_no_time
async def test_without_a_database_nobody_knows_who_it_is(site: Site) -> None:
    await site.node.start()
    site.database.is_away = True
    exchange = get()
    answer = await exchange.answer()
    assert (exchange.status, answer["details"]) == (503, {"retry_after": 1})
    assert site.node.stats.auth_unavailable == 1


@in_no_time
async def test_a_page_of_an_allowed_origin_may_read(site: Site) -> None:
    origin = "https://app.example.com"
    preflight = get(method="OPTIONS", origin=origin)
    await preflight.ended()
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == origin
    assert preflight.headers["access-control-allow-methods"] == "GET"
    exchange = get(origin=origin)
    await asyncio.sleep(1)
    assert exchange.headers["access-control-allow-origin"] == origin
    await exchange.leave()


def test_only_streams_that_began_are_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "realtime.access")

    async def ask(site: Site) -> None:
        await get(authorization="Bearer wrong").answer()
        exchange = get()
        await asyncio.sleep(1)
        await exchange.leave()

    in_no_time(ask)(site)
    lines = [record.getMessage() for record in caplog.records if record.name == "realtime.access"]
    assert len(lines) == 1 and "transport=event-stream" in lines[0] and "code=1005" in lines[0]


# The buffer of an event stream: what leaves together, and what a slow reader gets.


PLACE = Position("e1", 7)


def data_frames(payload: bytes, position: Position) -> bytes:
    """Return the frames of a message, as the hub makes them."""
    head = encode_data_head("events", payload, "2024-01-01T12:00:00.000Z", position)
    return text_frame(head + encode_data_tail("s"))


async def test_what_waits_leaves_together() -> None:
    transport = EventTransport(lambda: 10_000)
    frames = data_frames(b'{"a":1}', PLACE)
    transport.write(frames)
    transport.write(frames)
    assert await transport.read(1) == sse.events(frames) * 2
    assert transport.buffered_bytes() == transport.bytes_sent == len(sse.events(frames)) * 2
    assert await transport.read(0) == b""
    assert transport.buffered_bytes() == 0


async def test_who_waits_is_woken() -> None:
    transport = EventTransport(lambda: 10_000)
    reading = asyncio.create_task(transport.read(10))
    await asyncio.sleep(0)
    transport.write(data_frames(b"{}", PLACE))
    assert (await reading or b"").startswith(b"id: e1:7")


def test_what_comes_when_the_time_is_over_is_read_before_a_sign_of_life() -> None:
    """Else the position in that would include a message that has yet to be sent."""

    async def read() -> bytes | None:
        transport = EventTransport(lambda: 10_000)
        reading = asyncio.create_task(transport.read(1))
        await asyncio.sleep(0)
        # At the same moment, after the end of the wait and before the reader goes on.
        asyncio.get_running_loop().call_later(1, transport.write, data_frames(b"{}", PLACE))
        return await reading

    assert (FakeClock().run(read()) or b"").startswith(b"id: e1:7")


async def test_large_messages_leave_one_by_one() -> None:
    transport = EventTransport(lambda: 10 * CHUNK)
    large = data_frames(b'{"a":"%b"}' % (b"x" * CHUNK), PLACE)
    for _ in range(2):
        transport.write(large)
    assert await transport.read(1) == await transport.read(1) == sse.events(large)


async def test_a_client_that_does_not_read_is_closed() -> None:
    frames = data_frames(b'{"a":"%b"}' % (b"x" * 1000), PLACE)
    transport = EventTransport(lambda: 3000)
    ended: list[CloseReason] = []
    transport.on_ended = ended.append
    for _ in range(5):
        transport.write(frames)
    assert ended == [CloseReason.SLOW_CONSUMER]
    assert transport.buffered_bytes() < 4000
    read = await transport.read(1) or b""
    assert read == sse.events(frames) * 2 + sse.close_event(
        CloseCode.TRY_AGAIN_LATER, CloseReason.SLOW_CONSUMER
    )
    assert await transport.read(1) is None


async def test_what_is_being_sent_counts_as_waiting() -> None:
    frames = data_frames(b'{"a":"%b"}' % (b"x" * 1000), PLACE)
    transport = EventTransport(lambda: 2000)
    transport.write(frames)
    await transport.read(1)
    transport.write(frames)
    assert transport.closed is not None


async def test_one_large_message_is_taken_by_an_empty_buffer() -> None:
    transport = EventTransport(lambda: 100)
    transport.write(data_frames(b'{"a":"%b"}' % (b"x" * 1000), PLACE))
    assert transport.closed is None


async def test_nothing_follows_the_end() -> None:
    transport = EventTransport(lambda: 10_000)
    transport.close(CloseCode.POLICY_VIOLATION, CloseReason.TOKEN_REVOKED)
    transport.close(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)
    transport.write(data_frames(b"{}", PLACE))
    assert (
        await transport.read(1) == b'event: close\ndata: {"code":1008,"reason":"token revoked"}\n\n'
    )
    assert await transport.read(1) is None
