"""``GET /api/stream/TYPE``: the same rights, limits, log and bounds as over WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from realtime.testing.proxy import Proxy
from tests.end_to_end.event_source import event_source, subscribed
from tests.support import TIMEOUT, Server, client, following, newest, running, wait_until

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that says something each second, for pages of one origin, with little room."""
    with running(
        tmp_path_factory.mktemp("quick"),
        ping_interval="1",
        max_connections="3",
        max_buffered_bytes="65536",
        allowed_origins='["https://app.example.com"]',
    ) as server:
        yield server


def connections(server: Server) -> int:
    """Return how many clients the server's process counts."""
    found: int = server.administer(
        "from realtime.cluster.connections import connections\nresult = connections().total"
    )
    return found


class TestDelivery:
    """What a stream carries."""

    async def test_messages_as_over_websockets(self, server: Server, token: str) -> None:
        before = await newest(server, token)
        async with (
            client(server, token) as page,
            subscribed(
                server, "events", token, filter=["kind=click", "user=1", "user=2"]
            ) as opened,
        ):
            source, first = opened
            filters = {"kind": "click", "user": [1, 2]}
            await page.subscribe("events", filters)
            assert first.data["data"] == {
                "type": "events",
                "filters": filters,
                **before,
                "recovered": False,
                "replayed": 0,
            }
            assert first.id == "{epoch}:{offset}".format_map(before)
            server.publish("events", {"kind": "click", "user": 3}, {"kind": "click", "user": 2})
            event = await source.next()
            assert event.name == "message" and event.data == await page.receive()
            assert event.id == "{epoch}:{offset}".format_map(event.data["metadata"])
        assert source.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert "no-cache" in source.headers["cache-control"]

    async def test_filters_as_one_object(self, server: Server, token: str) -> None:
        filters = {"a=b": "1", "n": [None, True]}
        async with subscribed(server, "alerts", token, filter=json.dumps(filters)) as (_, first):
            assert first.data["data"]["filters"] == filters

    async def test_from_a_position_on(self, server: Server, token: str) -> None:
        before = await newest(server, token)
        server.publish("events", {"n": 1}, {"n": 2})
        async with subscribed(server, "events", token, last_event_id=before) as (source, first):
            assert first.data["data"]["recovered"] and first.data["data"]["replayed"] == 2
            assert first.id == ""  # a client that is cut off now has not received them
            server.publish("events", {"n": 3})
            assert await source.payloads(3) == [{"n": 1}, {"n": 2}, {"n": 3}]
        place = "{epoch}:{offset}".format_map(following(before, 2)[1])
        async with subscribed(server, "events", token, last_event_id=place) as (source, _):
            assert await source.payloads(1) == [{"n": 3}]

    async def test_the_position_may_be_in_the_query(self, server: Server, token: str) -> None:
        place = await newest(server, token)
        server.publish("events", {"n": 1})
        path = f"events?last_event_id={place['epoch']}:{place['offset']}&"
        async with subscribed(server, path, token) as (source, _):
            assert await source.payloads(1) == [{"n": 1}]

    async def test_a_position_of_another_log(self, server: Server, token: str) -> None:
        async with subscribed(server, "events", token, last_event_id="other:1") as (_, first):
            assert first.data["data"]["recovered"] is False

    async def test_rewind(self, server: Server, token: str) -> None:
        server.publish("events", {"n": 1}, {"n": 2}, {"n": 3})
        async with subscribed(server, "events", token, rewind=2) as (source, _):
            assert await source.payloads(2) == [{"n": 2}, {"n": 3}]

    async def test_silence_carries_the_position(self, quick: Server) -> None:
        async with subscribed(quick, "events", quick.new_token(), filter="n=1") as (source, _):
            [position] = quick.publish("events", {"n": 2})
            place = "id: {epoch}:{offset}".format_map(position)
            while await source.block() != [place]:
                pass

    async def test_every_message_once_through_cuts(self, server: Server, token: str) -> None:
        """Messages are numbered; the client comes back with the id it has."""
        seen: list[int] = []
        place: Any = await newest(server, token)
        async with Proxy(server.port) as proxy:

            async def disturb() -> None:
                for number in range(20):
                    numbers = range(number * 20, number * 20 + 20)
                    await asyncio.to_thread(server.publish, "events", *({"n": n} for n in numbers))
                    proxy.reset()

            disturbing = asyncio.create_task(disturb())
            async with asyncio.timeout(60):
                while seen[-1:] != [399]:
                    with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                        async with event_source(
                            proxy.port, "events", token, last_event_id=place
                        ) as source:
                            while (event := await source.next()).name in ("message", "subscribed"):
                                place = event.id or place
                                if event.name == "message":
                                    seen.append(event.data["data"]["event"]["n"])
                                if seen[-1:] == [399]:
                                    break
            await disturbing
        assert seen == list(range(400))


class TestRights:
    """Who may."""

    async def test_refusals(self, server: Server, token: str) -> None:
        narrow = server.new_token(types=["alerts"])
        cases: list[tuple[str | None, str, dict[str, Any], int, str]] = [
            (None, "events", {}, 401, "auth_required"),
            ("", "events", {}, 401, "invalid_credentials"),
            ("rt_wrong", "events", {}, 401, "invalid_credentials"),
            (narrow, "events", {}, 403, "forbidden"),
            (token, "nothing", {}, 404, "invalid_subscription"),
            (token, "", {}, 404, "invalid_subscription"),
            (token, "events/", {}, 404, "invalid_subscription"),
            (token, "events", {"filter": "x"}, 400, "invalid_subscription"),
            (token, "events", {"filter": "{"}, 400, "invalid_subscription"),
            (token, "events", {"filter": '{"a":[]}'}, 400, "invalid_subscription"),
            (token, "events", {"filter": "a..b=1"}, 400, "invalid_subscription"),
            (token, "events", {"rewind": "-1"}, 400, "invalid_subscription"),
            (token, "events", {"rewind": "1001"}, 400, "invalid_subscription"),
            (token, "events", {"rewind": "²"}, 400, "invalid_subscription"),
            (token, "events", {"explain": "true"}, 400, "invalid_subscription"),
            (token, "events", {"last_event_id": "x"}, 400, "invalid_subscription"),
            (None, f"events?token={token}&", {}, 400, "invalid_message"),
            (None, "events?token=ct_wrong&", {}, 401, "invalid_credentials"),
        ]
        for secret, kind, query, status, code in cases:
            async with event_source(server, kind, secret, **query) as source:
                assert source.status == status, (kind, query, source.status)
                answer = await source.body()
                assert answer["code"] == code and answer["error"], answer
                assert ("www-authenticate" in source.headers) == (status == 401)

    async def test_only_read(self, server: Server, token: str) -> None:
        for method in ("POST", "PUT", "DELETE"):
            async with event_source(server, "events", token, method=method) as source:
                assert (source.status, source.headers["allow"]) == (405, "GET, OPTIONS")

    async def test_a_short_lived_token_in_the_query(self, server: Server) -> None:
        short = server.administer(
            "from django.contrib.auth import get_user_model\n"
            "from realtime.auth.connection_tokens import issue\n"
            "user = get_user_model().objects.create_superuser('streamer')\n"
            "result = issue(user)[0]"
        )
        async with event_source(server, f"events?token={short}&") as source:
            assert source.status == 200

    async def test_a_tokens_own_filters_hold(self, server: Server) -> None:
        narrow = server.new_token(filters={"tenant": 1})
        async with subscribed(server, "events", narrow) as (source, first):
            assert first.data["data"]["filters"] == {}
            server.publish("events", {"tenant": 2}, {"tenant": 1})
            assert await source.payloads(1) == [{"tenant": 1}]

    async def test_revoked(self, server: Server) -> None:
        token = server.new_token(name="revoked stream")
        async with subscribed(server, "events", token) as (source, _):
            server.manage("revoke_token", "revoked stream")
            await source.assert_closed(1008, "token revoked")
        async with event_source(server, "events", token) as source:
            assert source.status == 401

    async def test_a_type_that_is_not_allowed_any_more(self, server: Server) -> None:
        token = server.new_token(name="narrowed stream")
        async with subscribed(server, "events", token) as (source, _):
            server.administer(
                "AccessToken.objects.filter(name='narrowed stream').update(types=['alerts'])"
            )
            event = await source.next()
            assert (event.name, event.data["data"]) == ("unsubscribed", {"reason": "forbidden"})
            assert (await source.next()).name == "end"

    async def test_origins(self, quick: Server) -> None:
        token = quick.new_token()
        ours, other = {"Origin": "https://app.example.com"}, {"Origin": "https://evil.example"}
        async with event_source(quick, "events", token, headers=ours) as source:
            assert source.status == 200
            assert source.headers["access-control-allow-origin"] == ours["Origin"]
            assert source.headers["vary"] == "Origin"
        async with event_source(quick, "events", token, headers=other) as source:
            assert source.status == 403
            assert "access-control-allow-origin" not in source.headers
            assert (await source.body())["error"] == "origin not allowed"
        async with event_source(quick, "events", headers=ours, method="OPTIONS") as source:
            assert source.status == 204
            assert "Authorization" in source.headers["access-control-allow-headers"]
        async with event_source(quick, "events", headers=other, method="OPTIONS") as source:
            assert "access-control-allow-origin" not in source.headers


class TestLimits:
    """How many, how much, how long."""

    async def test_a_tokens_connections(self, server: Server) -> None:
        token = server.new_token(max_connections=1)
        async with subscribed(server, "events", token):
            async with event_source(server, "events", token) as source:
                assert source.status == 429 and int(source.headers["retry-after"]) >= 1
                assert (await source.body())["error"] == "token connection limit"
            async with client(server) as page:
                await page.send({"type": "auth", "data": {"token": token}})
                await page.assert_closed(1013, "token connection limit")
        async with asyncio.timeout(TIMEOUT):
            while True:
                async with event_source(server, "events", token) as source:
                    if source.status == 200:
                        break

    async def test_capacity(self, quick: Server) -> None:
        token = quick.new_token()
        await asyncio.to_thread(wait_until, lambda: connections(quick) == 0)
        async with (
            subscribed(quick, "events", token),
            subscribed(quick, "alerts", token),
            client(quick, token),
            event_source(quick, "events", token) as source,
        ):
            assert source.status == 503 and "retry-after" in source.headers
            assert (await source.body())["error"] == "server at capacity"
        # Whoever has left leaves nothing behind.
        await asyncio.to_thread(wait_until, lambda: connections(quick) == 0)

    async def test_an_operator_sees_and_ends_it(self, server: Server) -> None:
        token = server.new_token(name="watched stream")
        async with subscribed(server, "metrics", token) as (source, _):
            found = server.administer(
                "from realtime.cluster.connections import connections, disconnect\n"
                f"[found] = connections({token[:11]!r}).connections\n"
                "result = [found.subscriptions[0].type, disconnect(found.client_id)]"
            )
            assert found == ["metrics", True]
            await source.assert_closed(1008, "disconnected by an administrator")

    async def test_a_client_that_does_not_read(self, quick: Server) -> None:
        token = quick.new_token()
        payload = {"text": "x" * 16_000}
        async with (
            subscribed(quick, "events", token) as (source, _),
            client(quick, token) as page,
        ):
            await page.subscribe("events")
            process = psutil.Process(quick.process.pid)
            before = process.memory_info().rss
            source.reader._transport.pause_reading()  # type: ignore[attr-defined]
            for _ in range(60):
                quick.publish("events", *[payload] * 20)
                for _ in range(20):
                    assert await page.assert_data("events") == payload
            assert process.memory_info().rss - before < 20 * MEBIBYTE
            source.reader._transport.resume_reading()  # type: ignore[attr-defined]
            received = 0
            while (event := await source.next()).name == "message":
                received += 1
            assert (event.name, event.data) == ("close", {"code": 1013, "reason": "slow consumer"})
            assert received < 1200

    async def test_a_client_that_may_miss_messages(self, quick: Server) -> None:
        token = quick.new_token()
        payload = {"text": "x" * 16_000}
        async with (
            subscribed(quick, "events", token, on_overflow="drop") as (source, _),
            client(quick, token) as page,
        ):
            await page.subscribe("events")
            source.reader._transport.pause_reading()  # type: ignore[attr-defined]
            sent = []
            for _ in range(60):
                sent += [one["offset"] for one in quick.publish("events", *[payload] * 20)]
                for _ in range(20):
                    assert await page.assert_data("events") == payload
            source.reader._transport.resume_reading()  # type: ignore[attr-defined]
            received: list[int] = []
            lost: list[int] = []
            while sent[-1] not in received + lost:
                event = await source.next()
                if event.name == "data_lost":
                    details = event.data["data"]["details"]
                    assert details["reason"] == "overflow"
                    lost += range(details["from"], details["to"] + 1)
                else:
                    assert event.name == "message"
                    received.append(event.data["metadata"]["offset"])
            assert lost and sorted(received + lost) == sent

    def test_the_end_of_a_server(self, data_dir: Path) -> None:
        async def follow(server: Server, token: str) -> None:
            async with subscribed(server, "events", token) as (source, _):
                server.process.send_signal(signal.SIGTERM)
                event = await source.next()
                assert event.name == "restarting"
                assert event.data["data"]["details"]["retry_after"] >= 0
                await source.assert_closed(1012, "server restarting")

        with running(data_dir, drain_timeout="5") as server:
            asyncio.run(follow(server, server.new_token()))
            assert server.process.wait(TIMEOUT) == 0
