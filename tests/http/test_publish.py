"""Publishing over HTTP: who may, what is refused and how, and how long it is waited for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from realtime.http.publish import BODY_TIMEOUT, JSON, NDJSON, SILENCE, ingest
from realtime.log import get_log
from realtime.protocol.subscribe import read_subscribe_request
from tests.http.asgi import SECRET, Exchange, Site, in_no_time, site_in_memory
from tests.support.layers import Configure


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, configure: Configure) -> Iterator[Site]:
    """A site whose token may publish."""
    configure(rate_limit_per_minute="5", max_message_size="1024")
    with site_in_memory(monkeypatch, "realtime.http.publish") as site:
        site.database.add(SECRET, can_publish=True)
        yield site


def post(kind: str = "events", form: str = JSON, query: str = "", **headers: str) -> Exchange:
    """Begin a request."""
    headers = {
        "authorization": f"Bearer {SECRET}",
        "content_type": form,
        "transfer_encoding": "chunked",
    } | headers
    return Exchange(ingest, "POST", f"/api/publish/{kind}", query, **headers)


async def head() -> int:
    """Return the offset of the newest message."""
    return (await get_log().heads(["events"]))["events"].offset


@in_no_time
async def test_one_payload(site: Site) -> None:
    exchange = post()
    await exchange.give(b'{"n"')
    await exchange.give(b": 1}", more=False)
    position = await exchange.answer()
    assert exchange.status == 200 and set(position) == {"epoch", "offset"}
    chunk = await get_log().read("events", position["offset"] - 1)
    assert [entry.body for entry in chunk.entries] == [b'{"n":1}']
    await site.node.authority.record_uses()
    assert site.database.uses == {1}


@in_no_time
async def test_lines_are_published_as_they_come(site: Site) -> None:
    exchange = post(form=NDJSON)
    start = await head()
    await exchange.give(b'{"n": 1}\n{"n":')
    assert await head() == start + 1
    await exchange.give(b" 2}\n", more=False)
    report = await exchange.answer()
    assert (exchange.status, report["count"], report["last"]) == (200, 2, start + 2)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": ""}, 401, "auth_required"),
        ({"authorization": "Bearer "}, 401, "auth_required"),
        ({"authorization": "Basic x"}, 401, "auth_required"),
        ({"authorization": "Bearer wrong"}, 401, "invalid_credentials"),
        ({"kind": "alerts"}, 403, "forbidden"),
        ({"kind": "nothing"}, 404, "invalid_subscription"),
        ({"form": "text/plain"}, 415, "unsupported_media_type"),
        ({"form": "application/json; charset=latin-1"}, 415, "unsupported_media_type"),
        ({"content_encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"idempotency_key": "two words"}, 400, "invalid_message"),
        ({"content_length": "2000"}, 413, "too_large"),
    ],
)
def test_refusals(site: Site, headers: dict[str, str], status: int, code: str) -> None:
    async def ask(site: Site) -> None:
        site.database.add(SECRET, can_publish=True, types=frozenset({"events"}))
        exchange = post(**headers)
        answer = await exchange.answer()
        assert (exchange.status, answer["code"]) == (status, code)
        assert ("www-authenticate" in exchange.headers) == (status == 401)

    in_no_time(ask)(site)


@in_no_time
async def test_another_method_is_told_which_there_is(site: Site) -> None:
    exchange = Exchange(ingest, "GET", "/api/publish/events")
    await exchange.answer()
    assert (exchange.status, exchange.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[1]", 400, "invalid_message"),
        (b"nonsense", 400, "invalid_message"),
        (b'{"tenant": "b"}', 403, "forbidden"),
        (b'{"tenant": "a", "x": "%b"}' % (b"x" * 1024), 413, "too_large"),
    ],
)
def test_payloads_that_are_refused(site: Site, body: bytes, status: int, code: str) -> None:
    """Alone, and as a line after one that is published: its number is told."""

    async def ask(site: Site) -> None:
        filters = read_subscribe_request({"type": "events", "filters": {"tenant": "a"}}).filters
        site.database.add(SECRET, can_publish=True, filters=filters)
        alone, second = post(), post(form=NDJSON)
        await alone.give(body, more=False)
        refusal = await alone.answer()
        assert (alone.status, refusal["code"]) == (status, code) and "details" not in refusal
        await second.give(b'{"tenant": "a"}\n' + body + b"\n", more=False)
        in_line = await second.answer()
        assert (second.status, in_line["error"]) == (status, refusal["error"])
        assert in_line["details"]["line"] == 2 and in_line["details"]["count"] == 1

    in_no_time(ask)(site)


@in_no_time
async def test_invalid_lines_may_be_skipped(site: Site) -> None:
    exchange = post(form=NDJSON, query="skip_invalid=1")
    await exchange.give(b'{"n": 1}\nx\n{"n": 2}\n', more=False)
    report = await exchange.answer()
    assert (exchange.status, report["count"], report["skipped"]) == (200, 2, 1)
    assert report["errors"][0]["line"] == 2


@in_no_time
async def test_requests_are_limited(site: Site) -> None:
    statuses = []
    for _ in range(6):
        exchange = post()
        await exchange.give(b"{}", more=False)
        answer = await exchange.answer()
        statuses.append(exchange.status)
    assert statuses == [200] * 5 + [429]
    assert answer["details"]["retry_after"] > 50 and "retry-after" in exchange.headers
    assert site.node.stats.rate_limited == 1


@in_no_time
async def test_a_body_that_does_not_come_is_given_up(site: Site) -> None:
    for form, timeout in ((JSON, BODY_TIMEOUT), (NDJSON, SILENCE)):
        before = site.clock.now
        exchange = post(form=form)
        await exchange.give(b'{"n": 1}\n')
        answer = await exchange.answer()
        assert (exchange.status, answer["code"]) == (408, "timeout")
        assert timeout <= site.clock.now - before < timeout + 2
    assert answer["details"]["count"] == 1 and answer["details"]["line"] == 2


@in_no_time
async def test_a_revoked_token_publishes_no_more(site: Site) -> None:
    exchange = post(form=NDJSON)
    await exchange.give(b'{"n": 1}\n')
    site.database.revoke(SECRET)
    await site.node.authority.follow()
    await exchange.give(b'{"n": 2}\n')
    answer = await exchange.answer()
    assert (exchange.status, answer["code"]) == (401, "invalid_credentials")
    assert answer["details"]["line"] == 2 and answer["details"]["count"] == 1


@in_no_time
async def test_without_a_database_nobody_knows_who_it_is(site: Site) -> None:
    await site.node.start()
    site.database.is_away = True
    exchange = post()
    answer = await exchange.answer()
    assert (exchange.status, answer["details"]) == (503, {"retry_after": 1})


@in_no_time
async def test_a_drain_ends_a_stream(site: Site) -> None:
    silent, busy = post(form=NDJSON), post(form=NDJSON)
    for exchange in (silent, busy):
        await exchange.give(b'{"n": 1}\n')
    await site.node.drain.run()
    before = site.clock.now
    await busy.give(b'{"n": 2}\n')
    answers = [await busy.answer()]
    assert site.clock.now - before < 0.2
    answers.append(await silent.answer())
    assert (silent.status, busy.status) == (503, 503)
    assert {answer["error"] for answer in answers} == {"Server restarting"}
    assert [answer["details"]["count"] for answer in answers] == [2, 1]
    assert all(answer["details"]["retry_after"] >= 1 for answer in answers)
    late = post()
    assert (await late.answer())["error"] == "Server restarting"


@in_no_time
async def test_a_client_that_leaves_is_not_answered(site: Site) -> None:
    exchange = post(form=NDJSON)
    await exchange.give(b'{"n": 1}\n')
    await exchange.leave()
    assert exchange.status == 0 and exchange.body == b""
