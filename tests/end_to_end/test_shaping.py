"""Options of a subscription over real sockets, alone and with filters, resume and rewind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from realtime.protocol import PAYLOAD_KEYS, SUBSCRIPTION_TYPES
from tests.end_to_end.event_source import event_source
from tests.end_to_end.event_source import subscribed as subscribed_stream
from tests.end_to_end.test_history import FLUSH
from tests.support import (
    CLOSE,
    TEXT,
    TIMEOUT,
    Client,
    RawClient,
    Server,
    client,
    following,
    newest,
    running,
)

# A rate at which no test waits for a second message.
SELDOM = 0.001


def batch_of(message: dict[str, Any]) -> list[Any]:
    """Return the payloads of a ``data_batch``."""
    assert message["type"] == "data_batch", message
    key = PAYLOAD_KEYS[message["data"]["subscription_type"]]
    return [one[key] for one in message["data"]["messages"]]


@contextlib.asynccontextmanager
async def subscribed(
    server: Server, token: str, kind: str, **data: Any
) -> AsyncIterator[tuple[Client, dict[str, Any]]]:
    """Connect and subscribe; give the client and the answer's data."""
    async with client(server, token) as page:
        yield page, await page.subscribed(kind, **data)


async def received_until(page: Client, kind: str, last: Any) -> list[Any]:
    """Return the payloads up to one that is the last."""
    found: list[Any] = []
    while not found or found[-1] != last:
        found.append(await page.assert_data(kind))
    return found


class TestAsking:
    async def test_the_answer_says_what_is_in_force(self, server: Server, token: str) -> None:
        wanted = {
            "max_rate": 5,
            "conflate": "host",
            "batch_ms": 100,
            "fields": ["cpu", "host", "cpu"],
            "on_overflow": "drop",
        }
        async with subscribed(server, token, "metrics", **wanted) as (page, answer):
            assert answer["options"] == wanted | {"fields": ["cpu", "host"]}
            assert (await page.subscribed("metrics", conflate="a"))["options"] == {
                "conflate": "a",
                "max_rate": 1,
            }
            plain = await page.subscribed("metrics", max_rate=None, on_overflow="close")
            assert "options" not in plain

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("max_rate", 0),
            ("max_rate", 10**400),
            ("conflate", "a..b"),
            ("batch_ms", 10_001),
            ("fields", ["a"] * 65),
            ("on_overflow", "wait"),
        ],
    )
    async def test_what_is_wrong_is_named(
        self, server: Server, token: str, name: str, value: Any
    ) -> None:
        async with client(server, token) as page:
            await page.send({"type": "subscribe", "data": {"type": "events", name: value}})
            error = await page.assert_error("invalid_subscription")
            assert error["error"].startswith(f"Invalid subscription: {name}: ")
            assert await page.positions() == {}

    async def test_equal_options_are_the_same_subscription(
        self, server: Server, token: str
    ) -> None:
        async with client(server, token) as page, client(server, token) as other:
            ask = {"type": "subscribe", "data": {"type": "events"}}
            plain = await page.call(ask)
            limited = ask | {"data": {"type": "events", "max_rate": 1, "fields": ["b", "a"]}}
            first = await page.call(limited)
            again = limited | {"data": {"type": "events", "max_rate": 1.0, "fields": ["a", "b"]}}
            again["subscription_id"] = "another"
            assert (await page.call(again))["subscription_id"] == first["subscription_id"]
            assert (await other.call(limited))["subscription_id"] == first["subscription_id"]
            assert (await other.call(ask))["subscription_id"] == plain["subscription_id"]
            assert len(await page.positions()) == 2
            server.publish("events", {"a": 1, "c": 2})
            found = [await page.receive(), await page.receive()]
            assert {one["subscription_id"]: one["data"]["event"] for one in found} == {
                plain["subscription_id"]: {"a": 1, "c": 2},
                first["subscription_id"]: {"a": 1},
            }
            taken = ask | {"data": {"type": "events", "max_rate": 2}}
            taken["subscription_id"] = first["subscription_id"]
            await page.send(taken)
            await page.assert_error("duplicate_subscription")


class TestMaxRate:
    async def test_the_first_at_once_and_the_newest_when_it_may(
        self, server: Server, token: str
    ) -> None:
        async with subscribed(server, token, "events", max_rate=4) as (page, _):
            server.publish("events", {"n": 0})
            await page.assert_data("events", {"n": 0})
            start = time.monotonic()
            server.publish("events", *({"n": n} for n in range(1, 50)))
            found = await received_until(page, "events", {"n": 49})
            # 0.25 s after the other, whatever else came between the two.
            assert len(found) <= 1 + (time.monotonic() - start) * 4 + 1
            await page.assert_silent()

    async def test_the_position_stays_before_what_is_held(self, server: Server, token: str) -> None:
        async with subscribed(server, token, "alerts", max_rate=SELDOM) as (page, answer):
            plain = (await page.call({"type": "subscribe", "data": {"type": "alerts"}}))[
                "subscription_id"
            ]
            sent = server.publish("alerts", *({"n": n} for n in range(3)))
            # Else the next may come with these, and be the newest that is sent at once.
            found = [(await page.receive())["metadata"] for _ in range(4)]
            assert found.count(sent[2]) == 2
            sent += server.publish("alerts", {"n": 3})
            assert sent == following(answer, 4)
            deadline = time.monotonic() + TIMEOUT
            known: dict[str, Any] = {}
            while known.get(plain) != sent[-1]:
                assert time.monotonic() < deadline
                await page.send({"type": "ping"})
                while (message := await page.receive())["type"] != "pong":
                    pass
                known = message["data"]["positions"]
            [limited] = [known[one] for one in known if one != plain]
            assert limited == sent[2]
        # Which is why nothing is lost: the newest comes, what it superseded does not.
        async with subscribed(server, token, "alerts", max_rate=SELDOM, resume=limited) as (
            page,
            answer,
        ):
            assert (answer["recovered"], answer["replayed"]) == (True, 1)
            await page.assert_data("alerts", {"n": 3})
            await page.assert_silent()

    async def test_every_client_of_a_group_is_served_alike(
        self, server: Server, token: str
    ) -> None:
        async with (
            subscribed(server, token, "events", max_rate=2) as (page, _),
            subscribed(server, token, "events", max_rate=2) as (other, _),
        ):
            server.publish("events", {"n": 0})
            server.publish("events", {"n": 1}, {"n": 2})
            for each in (page, other):
                await received_until(each, "events", {"n": 2})

    async def test_who_joins_gets_nothing_of_before(self, server: Server, token: str) -> None:
        async with subscribed(server, token, "events", max_rate=1) as (page, _):
            server.publish("events", {"n": 0})
            await page.assert_data("events", {"n": 0})
            (position,) = server.publish("events", {"n": 1})
            async with client(server, token) as other:
                plain = await other.subscribed("events")
                if plain["offset"] < position["offset"]:  # the process did not have it yet
                    await other.assert_data("events", {"n": 1})
                await other.subscribed("events", max_rate=1, resume=position)
                await page.assert_data("events", {"n": 1})
                (position,) = server.publish("events", {"n": 2})
                # Once plain, once after a while; never what was held before.
                await other.assert_positions([position, position])

    async def test_filters(self, server: Server, token: str) -> None:
        async with subscribed(server, token, "events", max_rate=20, filters={"k": [1, 2]}) as (
            page,
            _,
        ):
            server.publish("events", *({"k": n % 4, "n": n} for n in range(100)))
            found = await received_until(page, "events", {"k": 2, "n": 98})
            assert {one["k"] for one in found} <= {1, 2}

    async def test_what_is_in_no_log(self, server: Server, token: str) -> None:
        async with subscribed(server, token, "events", max_rate=10) as (page, answer):
            server.administer(
                "from asgiref.sync import async_to_sync\n"
                "for n in range(3):\n"
                "    async_to_sync(get_channel_layer().group_send)('realtime.events', "
                "{'type': 'stream.message', 'payload': {'n': n}})"
            )
            found = await received_until(page, "events", {"n": 2})
            assert len(found) <= 3
            [position] = (await page.positions()).values()
            assert position == {"epoch": answer["epoch"], "offset": answer["offset"]}


class TestConflate:
    async def test_the_newest_of_each_value(self, server: Server, token: str) -> None:
        async with subscribed(server, token, "metrics", conflate="tags.host", max_rate=2) as (
            page,
            answer,
        ):
            rows = [{"n": n, "tags": {"host": f"h{n % 3}"}} for n in range(30)]
            server.publish("metrics", rows[0])
            await page.assert_data("metrics", rows[0])
            sent = server.publish("metrics", *rows[1:], {"n": 30})
            assert [await page.assert_data("metrics") for _ in range(4)] == [*rows[27:], {"n": 30}]
            await page.assert_silent()
            [position] = (await page.positions()).values()
            assert position == sent[-1] == following(answer, 31)[-1]

    async def test_resume_replays_the_newest_of_each_value(
        self, server: Server, token: str
    ) -> None:
        start = await newest(server, token, "metrics")
        rows = [{"n": n, "host": n % 3} for n in range(100)]
        sent = server.publish("metrics", *rows)
        for more, expected in (
            ({"conflate": "host"}, rows[97:]),
            ({"conflate": "host", "filters": {"host": [0, 1]}}, [rows[97], rows[99]]),
            ({"max_rate": 1}, rows[99:]),
            ({"fields": ["n", "host"]}, rows),
        ):
            async with subscribed(server, token, "metrics", resume=start, **more) as (page, answer):
                assert (answer["recovered"], answer["replayed"]) == (True, len(expected))
                for row in expected:
                    await page.assert_data("metrics", row)
                await page.assert_silent()
                assert list((await page.positions()).values()) == [sent[-1]]

    async def test_rewind_is_history(self, server: Server, token: str) -> None:
        rows = [{"n": n, "host": n % 3} for n in range(20)]
        server.publish("metrics", *rows)
        for more, expected in (({"max_rate": 1}, rows[-10:]), ({"conflate": "host"}, rows[-3:])):
            async with subscribed(server, token, "metrics", rewind=10, **more) as (page, answer):
                assert answer["replayed"] == len(expected)
                for row in expected:
                    await page.assert_data("metrics", row)
                await page.assert_silent()


class TestFields:
    @pytest.mark.parametrize("kind", SUBSCRIPTION_TYPES)
    async def test_only_these_parts(self, server: Server, token: str, kind: str) -> None:
        async with subscribed(
            server, token, kind, fields=["a", "deep.x"], filters={"secret": 1}
        ) as (page, answer):
            server.publish(
                kind,
                {"secret": 1, "a": [1], "deep": {"x": {"y": "é"}, "z": 1}},
                {"secret": 1, "deep": {"z": 1}},
                {"secret": 2, "a": 1},
            )
            first, second = [await page.receive(), await page.receive()]
            key = PAYLOAD_KEYS[kind]
            assert first["data"][key] == {"a": [1], "deep": {"x": {"y": "é"}}}
            assert second["data"][key] == {}
            assert [first["metadata"], second["metadata"]] == following(answer, 2)
            await page.assert_silent()

    async def test_compressed(self, server: Server, token: str) -> None:
        async with client(server, token, compression="deflate") as page:
            await page.subscribed("events", fields=["text"], batch_ms=1)
            await page.subscribed("events", fields=["text"])
            server.publish("events", {"text": "x" * 5000, "more": "y" * 5000})
            found = [await page.receive(), await page.receive()]
            assert {one["type"] for one in found} == {"data", "data_batch"}
            [batch] = [one for one in found if one["type"] == "data_batch"]
            assert batch_of(batch) == [{"text": "x" * 5000}]


class TestBatch:
    async def test_several_in_one_frame(self, server: Server, token: str) -> None:
        async with subscribed(server, token, "events", batch_ms=300) as (page, answer):
            positions = server.publish("events", *({"n": n} for n in range(50)))
            message = await page.receive()
            assert batch_of(message) == [{"n": n} for n in range(50)]
            held = [one["metadata"] for one in message["data"]["messages"]]
            assert held == positions == following(answer, 50)
            await page.assert_silent()

    async def test_replayed_messages_come_in_batches(self, server: Server, token: str) -> None:
        start = await newest(server, token)
        server.publish("events", *({"n": n, "text": "x" * 1000} for n in range(200)))
        async with subscribed(server, token, "events", batch_ms=1, resume=start, fields=["n"]) as (
            page,
            answer,
        ):
            assert answer["replayed"] == 200
            found: list[Any] = []
            frames = 0
            while len(found) < 200:
                found += batch_of(await page.receive())
                frames += 1
            assert found == [{"n": n} for n in range(200)] and frames < 20
            server.publish("events", {"n": 200})
            assert batch_of(await page.receive()) == [{"n": 200}]

    async def test_all_options_together(self, server: Server, token: str) -> None:
        wanted = {"max_rate": 5, "conflate": "k", "batch_ms": 50, "fields": ["k", "n"]}
        async with subscribed(server, token, "events", filters={"on": True}, **wanted) as (page, _):
            rows = [{"k": n % 5, "n": n} for n in range(200)]
            server.publish("events", *(row | {"on": n % 2 == 0} for n, row in enumerate(rows)))
            newest: dict[int, int] = {}
            while sorted(newest.values()) != [190, 192, 194, 196, 198]:
                for one in batch_of(await page.receive()):
                    assert one["n"] > newest.get(one["k"], -1) and one["n"] % 2 == 0
                    newest[one["k"]] = one["n"]


class TestEventStream:
    async def test_options(self, server: Server, token: str) -> None:
        query = {"max_rate": "2", "conflate": "k", "fields": ["n", "deep.x,k"]}
        async with subscribed_stream(server, "events", token, **query) as (source, first):
            assert first.data["data"]["options"] == {
                "max_rate": 2,
                "conflate": "k",
                "fields": ["deep.x", "k", "n"],
            }
            server.publish("events", {"k": 0, "n": 0, "m": 0})
            assert (await source.next()).data["data"]["event"] == {"k": 0, "n": 0}
            sent = server.publish("events", *({"k": n % 2, "n": n} for n in range(1, 11)))
            for n in (9, 10):
                event = await source.next()
                assert event.data["data"]["event"] == {"k": n % 2, "n": n}
                assert event.id == "{epoch}:{offset}".format_map(sent[n - 1])

    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_rate": "fast"},
            {"max_rate": "0"},
            {"max_rate": ""},
            {"conflate": "a..b"},
            {"batch_ms": "100"},
            {"fields": ""},
            {"fields": "a,,b"},
            {"on_overflow": "wait"},
        ],
    )
    async def test_what_is_wrong_is_named(
        self, server: Server, token: str, wrong: dict[str, Any]
    ) -> None:
        async with event_source(server, "events", token, **wrong) as source:
            [name] = wrong
            assert source.status == 400
            body = await source.body()
            assert body["code"] == "invalid_subscription"
            assert body["error"].startswith(f"Invalid subscription: {name}: ")


class TestEnds:
    async def test_nothing_held_comes_after_unsubscribe(self, server: Server, token: str) -> None:
        async with client(server, token) as page:
            plain = await page.subscribe("events")
            limited = (
                await page.call({"type": "subscribe", "data": {"type": "events", "max_rate": 3}})
            )["subscription_id"]
            server.publish("events", {"n": 0})
            (last,) = server.publish("events", {"n": 1})
            while (await page.receive())["metadata"] != last:
                pass
            reply = await page.call({"type": "unsubscribe", "data": {"subscription_id": limited}})
            while reply["type"] == "data":
                reply = await page.receive()
            assert reply["type"] == "unsubscribed"
            (last,) = server.publish("events", {"n": 2})
            message = await page.receive()
            assert (message["subscription_id"], message["metadata"]) == (plain, last)
            await page.assert_silent()

    async def test_rights_that_change_let_go_of_what_is_held(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """What the new filters let through comes, the rest does not, and the rate goes on."""
        with running(tmp_path_factory.mktemp("rights")) as server:
            secret = server.new_token()
            async with client(server, secret) as page:
                await page.subscribed("events", conflate="k", max_rate=SELDOM)
                plain = await page.subscribe("events")
                server.publish("events", {"k": 0})
                found = [await page.receive() for _ in range(2)]
                (last,) = server.publish("events", {"k": 1}, {"k": 2})[1:]
                found += [await page.receive() for _ in range(2)]
                assert [one["metadata"]["offset"] for one in found] == [1, 1, 2, 3]
                narrower = server.new_token(filters={"k": 2})
                await page.send({"type": "auth", "data": {"token": narrower}})
                message = await page.receive()
                while message["type"] != "data":
                    message = await page.receive()
                assert message["metadata"] == last and message["subscription_id"] != plain
                assert set(map(json.dumps, (await page.positions()).values())) == {json.dumps(last)}

    async def test_what_is_held_comes_before_what_is_lost(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        with running(tmp_path_factory.mktemp("lost")) as server:
            token = server.new_token()
            async with client(server, token) as page, client(server, token) as other:
                await page.subscribed("events", max_rate=SELDOM)
                server.publish("events", {"n": 0})
                await page.assert_data("events", {"n": 0})
                await other.subscribe("events")
                (held,) = server.publish("events", {"n": 1})
                await other.assert_positions([held])
                server.administer(FLUSH)
                await page.assert_data("events", {"n": 1})
                error = await page.assert_error("data_lost")
                assert error["details"] == {"from": 3, "to": None, "reason": "epoch_changed"}
                server.publish("events", {"n": 2})
                await page.assert_silent()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which a client may leave 256 KiB unread."""
    with running(
        tmp_path_factory.mktemp("narrow"),
        max_buffered_bytes="262144",
        rate_limit_per_minute="100000",
    ) as server:
        yield server


class SlowClient(RawClient):
    """A client that takes little in at once, and reads only when told."""

    def __init__(self, server: Server, token: str, **data: Any) -> None:
        super().__init__(server)
        self.socket.close()
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", server.port))
        self.connect()
        self.send_message({"type": "auth", "data": {"token": token}})
        assert self.read_message()["type"] == "auth_success"
        self.send_message({"type": "subscribe", "data": {"type": "events"} | data})
        assert self.read_message()["type"] == "subscribed"

    def read_text(self) -> dict[str, Any]:
        """Return the next message, past the server's pings."""
        while (frame := self.read_frame()).first_byte != TEXT:
            assert frame.first_byte != CLOSE, frame
        message: dict[str, Any] = json.loads(frame.payload)
        return message

    def assert_slow(self) -> None:
        """Read up to the close frame of one who does not read."""
        while (frame := self.read_frame()).first_byte != CLOSE:
            pass
        assert frame.payload == b"\x03\xf5slow consumer", frame


ROWS = [{"n": n, "text": "x" * 10_000} for n in range(100)]


class TestOverflow:
    @pytest.mark.parametrize("more", [{}, {"batch_ms": 1}, {"max_rate": 1000, "conflate": "n"}])
    async def test_what_is_dropped_is_named(self, narrow: Server, more: dict[str, Any]) -> None:
        token = narrow.token()
        slow = await asyncio.to_thread(SlowClient, narrow, token, on_overflow="drop", **more)
        with slow:
            async with client(narrow, token) as page:
                await page.subscribe("events")
                sent = []
                for _ in range(15):  # 15 MB, more than kernel and server keep for a client
                    sent += await asyncio.to_thread(narrow.publish, "events", *ROWS)
                    for _ in ROWS:
                        await page.assert_data("events")
            offsets = [one["offset"] for one in sent]
            received, lost = await asyncio.to_thread(read_up_to, slow, offsets[-1])
            narrow.publish("events", {"n": -1})
            assert offsets_of(await asyncio.to_thread(slow.read_text)) == [offsets[-1] + 1]
        assert received == sorted(set(received)) and lost == sorted(set(lost)) and lost
        assert not set(received) & set(lost)
        assert offsets == sorted(received + lost)

    async def test_by_default_the_client_is_closed(self, narrow: Server) -> None:
        token = narrow.token()
        slow = await asyncio.to_thread(SlowClient, narrow, token, batch_ms=1)
        with slow:
            for _ in range(15):
                await asyncio.to_thread(narrow.publish, "events", *ROWS)
            await asyncio.to_thread(slow.assert_slow)


def offsets_of(message: dict[str, Any]) -> list[int]:
    """Return the offsets of the messages in one frame."""
    if message["type"] == "data":
        return [message["metadata"]["offset"]]
    assert message["type"] == "data_batch", message
    return [one["metadata"]["offset"] for one in message["data"]["messages"]]


def read_up_to(slow: SlowClient, newest: int) -> tuple[list[int], list[int]]:
    """Return the offsets that came, and those that are said to be lost, up to one."""
    received: list[int] = []
    lost: list[int] = []
    while newest not in received + lost:
        message = slow.read_text()
        if message["type"] == "error":
            details = message["data"]["details"]
            assert (message["data"]["code"], details["reason"]) == ("data_lost", "overflow")
            lost += range(details["from"], details["to"] + 1)
        else:
            received += offsets_of(message)
    return received, lost
