"""``POST /api/publish/TYPE``: what is published when, what is answered, what may be repeated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from realtime.publishing.batches import MOST_LINES
from tests.end_to_end.poster import NDJSON, Answer, Post, lines, post, posting, streaming
from tests.support import TIMEOUT, Server, client, newest, running, wait_until


def numbered(start: int, end: int, **more: Any) -> list[dict[str, Any]]:
    """Return payloads with these numbers."""
    return [{"n": number, **more} for number in range(start, end)]


async def retained(server: Server, token: str, kind: str, after: dict[str, Any]) -> list[Any]:
    """Return the numbers of all that a type has after a position."""
    head = await newest(server, token, kind)
    async with client(server, token) as page:
        await page.subscribed(kind, resume=after)
        count = head["offset"] - after["offset"]
        return [(await page.assert_data(kind))["n"] for _ in range(count)]


async def passed(server: Server, token: str, kind: str, position: dict[str, Any]) -> None:
    """Wait until a type has a message after a position."""
    async with client(server, token) as page:
        await page.subscribed(kind, resume=position)
        await page.assert_data(kind)


async def test_one_payload(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("events")
        answer = await post(server, "events", token, b' {"n": 1, "text": "\xc3\xa9"}\r\n')
        message = await page.receive()
        assert message["data"]["event"] == {"n": 1, "text": "é"}
        assert (answer.status, answer.said) == (200, message["metadata"])
        assert answer.headers["content-type"] == "application/json"


async def test_lines_are_published_as_they_come(server: Server, token: str) -> None:
    async with client(server, token) as page, streaming(server, "events", token) as post:
        await page.subscribe("events")
        await post.send(b'{"n": 1}\n{"n"')
        first = await page.receive()
        assert first["data"]["event"] == {"n": 1}
        await post.send(b": 2}\n\n")
        assert await page.assert_data("events") == {"n": 2}
        await post.send(b'{"n": 3}')
        await page.assert_silent()
        answer = await post.end()
        assert await page.assert_data("events") == {"n": 3}
        epoch, offset = first["metadata"]["epoch"], first["metadata"]["offset"]
        expected = {"count": 3, "epoch": epoch, "first": offset, "last": offset + 2}
        assert (answer.status, answer.said) == (200, expected)


@pytest.mark.parametrize("body", [b"", b"\n \r\n"])
async def test_nothing_is_published(server: Server, token: str, body: bytes) -> None:
    answer = await post(server, "events", token, body, NDJSON)
    assert (answer.status, answer.said["count"], answer.said["epoch"]) == (200, 0, None)


async def test_what_is_before_a_bad_line_is_published(server: Server, token: str) -> None:
    before = await newest(server, token)
    async with streaming(server, "events", token) as post:
        # The answer arrives though much more is under way, and though nobody ends the body.
        good, bad = lines(numbered(0, 5)), b"\n[6]\n"
        await post.send(good + bad + lines(numbered(7, 9)))
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                await post.send(b"x" * 65_536)
        answer = await post.answer()
    assert answer.status == 400
    assert answer.said["code"] == "invalid_message"
    assert "expected an object, got list" in answer.said["error"]
    details = answer.said["details"]
    assert (details["line"], details["count"]) == (7, 5)
    assert details["last"] - details["first"] == 4
    assert answer.headers["connection"] == "close"
    assert await retained(server, token, "events", before) == [0, 1, 2, 3, 4]


async def test_bad_lines_are_skipped(data_dir: Path) -> None:
    with running(data_dir, max_message_size="1024") as server:
        token = server.token("--publish")
        before = await newest(server, token)
        body = b'{"n": 1}\nno\n{"n": 2}\n' + b"{" + b" " * 100_000 + b'"n":3}\n{"n": 4}\n'
        answer = await post(server, "events?skip_invalid=1", token, body, NDJSON)
        assert (answer.status, answer.said["count"], answer.said["skipped"]) == (200, 3, 2)
        assert [one["line"] for one in answer.said["errors"]] == [2, 4]
        assert "not JSON" in answer.said["errors"][0]["error"]
        assert "max_message_size" in answer.said["errors"][1]["error"]
        assert await retained(server, token, "events", before) == [1, 2, 4]
        # Without it, a line that never ends is not waited for.
        async with streaming(server, "events", token) as endless:
            await endless.send(b'{"n": 5}\n' + b" " * 2000)
            refused = await endless.answer()
        assert (refused.status, refused.said["code"]) == (413, "too_large")
        assert (refused.said["details"]["line"], refused.said["details"]["count"]) == (2, 1)


async def test_a_key_makes_one_message(server: Server, token: str) -> None:
    first = await post(server, "alerts", token, b'{"n": 1}', Idempotency_Key='"order 17"')
    again = await post(server, "alerts", token, b'{"n": 1}', Idempotency_Key='"order 17"')
    assert first.status == 200 and again[::2] == first[::2]
    assert (await newest(server, token, "alerts"))["offset"] == first.said["offset"]
    # It is this token's, and this type's.
    for kind, secret in [("metrics", token), ("alerts", server.token("--publish"))]:
        before = await newest(server, token, kind)
        other = await post(server, kind, secret, b'{"n": 1}', Idempotency_Key='"order 17"')
        assert other.said["offset"] == before["offset"] + 1


async def send_in_parts(server: Server, token: str, key: str, body: bytes, size: int) -> Answer:
    """Publish lines in chunks of so many bytes."""
    async with streaming(server, "metrics", token, key) as post:
        for start in range(0, len(body), size):
            await post.send(body[start : start + size])
        return await post.end()


async def test_a_key_makes_lines_once_however_they_arrive(server: Server, token: str) -> None:
    before = await newest(server, token, "metrics")
    count = 2 * MOST_LINES + 500
    body = lines(numbered(0, count))
    async with streaming(server, "metrics", token, "upload-1") as broken:
        for start in range(0, len(body) * 3 // 4, 1000):
            await broken.send(body[start : start + 1000])
        await passed(server, token, "metrics", before)
    answer = await send_in_parts(server, token, "upload-1", body, 7777)
    assert answer.status == 200
    assert answer.said["count"] == count
    assert (answer.said["first"], answer.said["last"]) == (
        before["offset"] + 1,
        before["offset"] + count,
    )
    again = await send_in_parts(server, token, "upload-1", body, 100_000)
    assert again.said == answer.said
    assert await retained(server, token, "metrics", before) == list(range(count))


async def test_other_lines_under_the_same_key_are_not_dropped(server: Server, token: str) -> None:
    before = await newest(server, token, "alerts")
    for payload in numbered(0, 2):
        await post(server, "alerts", token, lines([payload]), NDJSON, Idempotency_Key="once")
    assert await retained(server, token, "alerts", before) == [0, 1]


REFUSED: list[tuple[int, str, dict[str, Any]]] = [
    (401, "auth_required", {"token": None}),
    (401, "auth_required", {"Authorization": "Basic eDp5", "token": None}),
    (401, "invalid_credentials", {"token": "rt_00000000_wrong"}),
    (404, "invalid_subscription", {"path": "nothing"}),
    (404, "invalid_subscription", {"path": "events/1"}),
    (405, "method_not_allowed", {"method": "PUT"}),
    (415, "unsupported_media_type", {"content_type": "text/plain"}),
    (415, "unsupported_media_type", {"content_type": "application/json; charset=utf-16"}),
    (415, "unsupported_media_type", {"Content_Encoding": "gzip"}),
    (400, "invalid_message", {"body": b"[]"}),
    (400, "invalid_message", {"body": b"{"}),
    (400, "invalid_message", {"body": b""}),
    (400, "invalid_message", {"body": b'{"n": NaN}'}),
    (400, "invalid_message", {"body": b'{"text": "\xff"}'}),
    (400, "invalid_message", {"body": b"[" * 100_000}),
    (400, "invalid_message", {"Idempotency_Key": '"open'}),
    (400, "invalid_message", {"Idempotency_Key": "x" * 300}),
    (413, "too_large", {"body": b'{"text": "' + b"x" * 1024 * 1024 + b'"}'}),
]


@pytest.mark.parametrize(("status", "code", "changes"), REFUSED)
async def test_refusals(
    server: Server, token: str, status: int, code: str, changes: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"path": "events", "token": token, "body": b"{}"} | changes
    answer = await post(server, **request)
    assert (answer.status, answer.said["code"]) == (status, code), answer.said
    assert answer.said["error"]
    assert ("www-authenticate" in answer.headers) == (status == 401)
    if status == 405:
        assert answer.headers["allow"] == "POST"


async def test_a_body_without_a_length(server: Server, token: str) -> None:
    async with posting(server) as connection:
        connection.begin(
            "events", {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        )
        answer = await connection.answer()
    assert (answer.status, answer.said["code"]) == (411, "length_required")


async def test_a_token_may_publish_what_it_allows(server: Server) -> None:
    only_read = server.token()
    answer = await post(server, "events", only_read, b"{}")
    assert (answer.status, answer.said) == (403, {"error": "Not permitted", "code": "forbidden"})
    narrow = server.token("--publish", "--types", "events", "--filter", "tenant=acme")
    assert (await post(server, "alerts", narrow, b'{"tenant": "acme"}')).status == 403
    assert (await post(server, "events", narrow, b'{"tenant": "acme"}')).status == 200
    outside = await post(server, "events", narrow, b'{"tenant": "other"}')
    assert (outside.status, outside.said["code"]) == (403, "forbidden")
    body = b'{"tenant": "acme"}\n{"tenant": "other"}\n'
    some = await post(server, "events", narrow, body, NDJSON)
    assert (some.status, some.said["details"]["line"], some.said["details"]["count"]) == (403, 2, 1)


async def test_requests_are_limited(server: Server) -> None:
    token = server.token("--publish", "--rate-limit", "2")
    for _ in range(2):
        assert (await post(server, "events", token, lines(numbered(0, 9)), NDJSON)).status == 200
    answer = await post(server, "events", token, b"{}")
    assert (answer.status, answer.said["code"]) == (429, "rate_limited")
    assert 0 < answer.said["details"]["retry_after"] <= 60
    assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_wrong_tokens_are_slowed_and_audited(data_dir: Path) -> None:
    with running(data_dir, auth_failures_per_minute="1") as server:
        for _ in range(2):
            assert (await post(server, "events", "rt_0123abcd_wrong", b"{}")).status == 401
        written = [json.loads(line) for line in (data_dir / "audit.log").read_text().splitlines()]
    failed = [line for line in written if line["event"] == "auth_failed"]
    assert [line["token"] for line in failed] == ["rt_0123abcd"] * 2


async def test_one_connection_serves_one_request_after_another(server: Server, token: str) -> None:
    async with posting(server) as connection:
        for number in range(3):
            body = b'{"n": %d}' % number
            connection.begin(
                "events",
                {
                    "Authorization": f"Bearer {token}",
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    "Expect": "100-continue",
                },
            )
            connection.writer.write(body)
            assert (await connection.answer()).status == 200
        # What follows a request that is refused early is its body, never another request.
        hidden = b"POST /api/publish/events HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        connection.begin("nothing", {"Content-Length": "1000000"})
        connection.writer.write(hidden)
        refused = await connection.answer()
        assert (refused.status, refused.headers["connection"]) == (404, "close")
        connection.writer.write(hidden)
        connection.writer.write_eof()
        await connection.assert_end()


async def test_a_revoked_token_publishes_no_more(server: Server) -> None:
    token = server.new_token(name="publisher", can_publish=True)
    async with streaming(server, "events", token) as post:
        await post.send(b'{"n": 1}\n')
        assert server.manage("revoke_token", "publisher").returncode == 0
        answer = asyncio.ensure_future(post.answer())
        async with asyncio.timeout(TIMEOUT):
            while not answer.done():
                await post.send(b'{"n": 2}\n')
                await asyncio.sleep(0.05)
    assert (answer.result().status, answer.result().said["code"]) == (401, "invalid_credentials")
    assert answer.result().said["details"]["count"] >= 1


async def test_a_drain_ends_a_stream(data_dir: Path) -> None:
    with running(data_dir) as server:
        token = server.token("--publish")
        async with client(server, token) as page, streaming(server, "events", token) as post:
            await page.subscribe("events")
            await post.send(b'{"n": 1}\n')
            await page.assert_data("events")
            server.process.send_signal(signal.SIGTERM)
            answer = await post.answer()
        assert (answer.status, answer.said["error"]) == (503, "Server restarting")
        assert answer.said["details"]["line"] == 2
        wait_until(lambda: server.process.poll() is not None)
        assert server.process.returncode == 0


async def test_a_client_waits_while_the_log_does_not_answer(data_dir: Path) -> None:
    with running(data_dir, history_size="200000") as server:
        server.may_fail = True
        token = server.token("--publish")
        before = await newest(server, token)
        (valkey,) = server.valkey()
        body = lines(numbered(0, 60_000, text="x" * 200))
        async with streaming(server, "events", token, "big") as post:

            async def send() -> None:
                for start in range(0, len(body), 100_000):
                    await post.send(body[start : start + 100_000])

            sending = asyncio.ensure_future(send())
            valkey.suspend()
            memory = psutil.Process(server.process.pid).memory_info().rss
            await asyncio.wait({sending}, timeout=1.0)
            # 13 MB do not fit into buffers: the server has not taken them.
            assert not sending.done()
            assert psutil.Process(server.process.pid).memory_info().rss - memory < 8_000_000
            valkey.resume()
            await sending
            answer = await post.end()
        if answer.status == 503:  # it took too long: then again, with the same key
            answer = await send_all(server, token, body)
        assert (answer.status, answer.said["count"]) == (200, 60_000)
        after = await newest(server, token)
        assert after["offset"] - before["offset"] == 60_000


async def send_all(server: Server, token: str, body: bytes) -> Answer:
    """Publish everything under the key of the attempt before."""
    return await post(server, "events", token, body, NDJSON, Idempotency_Key="big")


async def test_a_log_that_is_away(data_dir: Path) -> None:
    with running(data_dir) as server:
        server.may_fail = True
        token = server.token("--publish")
        before = await newest(server, token)
        body = lines(numbered(0, MOST_LINES + 10))
        async with streaming(server, "events", token, "away") as post_:
            part = body.index(b'{"n": %d}' % (MOST_LINES + 5))
            await post_.send(body[:part])
            await passed(server, token, "events", before)
            for process in server.valkey():
                process.suspend()
            await post_.send(body[part:])
            answer = await post_.end()
            for process in server.valkey():
                process.resume()
        assert (answer.status, answer.said["code"]) == (503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        details = answer.said["details"]
        assert (details["count"], details["line"]) == (MOST_LINES, MOST_LINES + 1)
        again = await post(server, "events", token, body, NDJSON, Idempotency_Key="away")
        assert (again.status, again.said["count"]) == (200, MOST_LINES + 10)
        assert await retained(server, token, "events", before) == list(range(MOST_LINES + 10))


async def test_a_body_that_is_no_http_ends_the_connection(server: Server, token: str) -> None:
    before = await newest(server, token, "alerts")
    async with streaming(server, "alerts", token) as connection:
        await connection.send(b'{"n": 1}\n')
        await passed(server, token, "alerts", before)
        connection.writer.write(b"no chunk\r\n" * 3)
        assert (await connection.reader.readline()).startswith(b"HTTP/1.1 400 ")
        await connection.reader.read()
    assert (await post(server, "alerts", token, b'{"n": 2}')).status == 200
    assert await retained(server, token, "alerts", before) == [1, 2]


async def test_a_client_that_leaves_publishes_what_has_come(server: Server, token: str) -> None:
    before = await newest(server, token, "alerts")
    async with streaming(server, "alerts", token) as connection:
        await connection.send(b'{"n": 1}\n{"n": 2')
        await passed(server, token, "alerts", before)
    assert (await post(server, "alerts", token, b'{"n": 3}')).status == 200
    assert await retained(server, token, "alerts", before) == [1, 3]


def _is_stuck(post: Post) -> bool:
    """Tell whether the system takes no more of what is sent."""
    return post.writer.transport.get_write_buffer_size() > 0


async def test_a_strangers_body_is_not_kept(data_dir: Path) -> None:
    with running(data_dir, auth_failures_per_minute="1000") as server:
        process = psutil.Process(server.process.pid)
        await post(server, "events", "wrong", b"{}")
        memory = process.memory_info().rss
        # All have sent what the system takes when the server gets to the first of them.
        process.suspend()
        async with AsyncExitStack() as stack:
            strangers = [
                await stack.enter_async_context(streaming(server, "events", "wrong"))
                for _ in range(100)
            ]

            async def send(stranger: Post) -> None:
                with contextlib.suppress(ConnectionError):
                    while True:
                        await stranger.send(b"x" * 65_536)

            sending = [asyncio.ensure_future(send(stranger)) for stranger in strangers]
            async with asyncio.timeout(TIMEOUT):
                while not all(map(_is_stuck, strangers)):  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.01)
            process.resume()
            for stranger in strangers:
                answer = await stranger.answer()
                assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert process.memory_info().rss - memory < 30_000_000
            await asyncio.gather(*sending)  # cut, though none of them ends
