"""Publishing: from anywhere, to whoever reads the groups, over few connections, or an error."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis as redis_library
from asgiref.sync import async_to_sync, sync_to_async
from channels.layers import get_channel_layer
from channels_redis.pubsub import RedisPubSubChannelLayer
from django.conf import settings
from django.db import transaction
from django.test import override_settings

import realtime
from realtime import (
    PublishError,
    apublish,
    apublish_many,
    publish,
    publish_failed,
    publish_many,
)
from realtime.cluster.clients import MAX_CONNECTIONS, Unavailable
from realtime.cluster.embedded import EmbeddedServer
from realtime.cluster.servers import layer_hosts
from realtime.log import get_log
from realtime.log.contract import Append, Appended, read_position, unpack
from realtime.protocol import SUBSCRIPTION_TYPES, Position
from realtime.publishing.publication import (
    MAX_APPEND_MESSAGES,
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    check_payload,
)
from tests.support import TIMEOUT, Server, client
from tests.support.layers import close_layer, layer_of

LARGEST = 1024 * 1024


def connections_opened(valkey: EmbeddedServer) -> int:
    """Return how many connections the server has ever taken, this one aside."""
    with redis_library.Redis(unix_socket_path=str(valkey.socket)) as asking:
        info = asking.info("stats")
    assert isinstance(info, dict)
    return int(info["total_connections_received"]) - 1


def open_connections(valkey: EmbeddedServer) -> int:
    """Return how many clients the server has, this one aside."""
    with redis_library.Redis(unix_socket_path=str(valkey.socket)) as asking:
        return len(asking.client_list()) - 1


class Reader:
    """What a Channels consumer in a type's group sees that knows messages by their positions."""

    def __init__(self, layer: Any, channel: str) -> None:
        self._layer = layer
        self._channel = channel
        self._payloads: list[Any] = []
        # Those of all messages so far.
        self.positions: list[Position] = []

    async def take(self, count: int) -> list[Any]:
        """Return the next so many payloads."""
        async with asyncio.timeout(TIMEOUT):
            while len(self._payloads) < count:
                message = await self._layer.receive(self._channel)
                if message["type"] == "stream.batch":
                    self._read(message)
        taken, self._payloads = self._payloads[:count], self._payloads[count:]
        return taken

    def _read(self, message: dict[str, Any]) -> None:
        first = read_position(message["position"])
        for offset, body in enumerate(unpack(message["messages"]), first.offset):
            position = Position(first.epoch, offset)
            if position not in self.positions:  # else a repeat
                self.positions.append(position)
                self._payloads.append(json.loads(body))

    async def expect_nothing_before(self, kind: str) -> None:
        """Check that nothing has been published but what is published now."""
        await apublish(kind, {"marker": True})
        assert await self.take(1) == [{"marker": True}]
        assert not self._payloads


@asynccontextmanager
async def reading(kind: str) -> AsyncIterator[Reader]:
    """Join a type's group as plain Channels code does, and wait until that works."""
    layer = get_channel_layer()
    group = f"realtime.{kind}"
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    joined = asyncio.create_task(layer.receive(channel))
    try:
        while not joined.done():
            await layer.group_send(group, {"type": "test.joined"})
            await asyncio.wait([joined], timeout=0.02)
        yield Reader(layer, channel)
    finally:
        await layer.group_discard(group, channel)
        await close_layer()


# Who receives


@pytest.mark.parametrize("kind", SUBSCRIPTION_TYPES)
async def test_each_type_has_its_group(layer: str, kind: str) -> None:
    async with reading(kind) as reader:
        for other in SUBSCRIPTION_TYPES:
            await apublish(other, {"type": other})
        assert await reader.take(1) == [{"type": kind}]
        await reader.expect_nothing_before(kind)


@pytest.mark.parametrize(
    ("broadcast", "kind"),
    [
        (realtime.broadcast_event, "events"),
        (realtime.broadcast_metrics, "metrics"),
        (realtime.broadcast_alert, "alerts"),
        (realtime.broadcast_prediction, "predictions"),
        (realtime.broadcast_aggregation, "aggregations"),
        (realtime.broadcast_system_status, "system_status"),
    ],
)
async def test_the_documents_coroutines_publish(
    layer: str, broadcast: Callable[[dict[str, Any]], Awaitable[None]], kind: str
) -> None:
    async with reading(kind) as reader:
        await broadcast({"n": 1})
        assert await reader.take(1) == [{"n": 1}]
        with pytest.raises(ValueError, match="payload"):
            await broadcast({"n": float("nan")})


async def test_a_thread_of_a_running_loop_publishes(layer: str) -> None:
    async with reading("events") as reader:
        await sync_to_async(publish)("events", {"n": 1})
        await sync_to_async(publish_many)("events", [{"n": 2}, {"n": 3}])
        await sync_to_async(publish, thread_sensitive=False)("events", {"n": 4})
        assert await reader.take(4) == [{"n": n} for n in (1, 2, 3, 4)]


async def test_a_coroutine_may_call_the_synchronous_function(valkey: EmbeddedServer) -> None:
    async with reading("events") as reader:
        publish("events", {"n": 1})
        await asyncio.to_thread(publish, "events", {"n": 2})
        assert await reader.take(2) == [{"n": 1}, {"n": 2}]


async def test_synchronous_code_may_call_the_coroutine(layer: str) -> None:
    async with reading("events") as reader:
        await sync_to_async(async_to_sync(apublish))("events", {"n": 1})
        assert await reader.take(1) == [{"n": 1}]


async def test_what_is_published_has_the_positions_that_are_returned(layer: str) -> None:
    async with reading("events") as reader:
        first = await apublish("events", {"n": 1})
        assert first is not None and first.offset > 0
        second = await sync_to_async(publish)("events", {"n": 2})
        more = await sync_to_async(publish_many)("events", [{"n": 3}, {"n": 4}])
        assert [first, second, *more] == [Position(first.epoch, first.offset + n) for n in range(4)]
        assert await reader.take(4) == [{"n": n} for n in (1, 2, 3, 4)]
        assert reader.positions == [first, second, *more]


async def test_an_encrypted_layer_sends_what_the_log_has(valkey: EmbeddedServer) -> None:
    with layer_of(settings.DATA_DIR, symmetric_encryption_keys=["a secret"]):
        async with reading("events") as reader:
            first = await apublish("events", {"n": 1})
            second = await sync_to_async(publish)("events", {"n": 2})
            assert await reader.take(2) == [{"n": 1}, {"n": 2}]
            assert reader.positions == [first, second]


class Counting(RedisPubSubChannelLayer):  # type: ignore[misc]  # channels_redis has no types
    """A layer that changes how messages are sent: it counts them."""

    sent = 0

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        Counting.sent += message["type"] == "stream.batch"
        await self._get_layer().group_send(group, message)


async def test_a_layer_that_changes_group_send_sends_by_it(valkey: EmbeddedServer) -> None:
    with layer_of(settings.DATA_DIR, f"{__name__}.Counting"):
        async with reading("events") as reader:
            await apublish("events", {"n": 1})
            await sync_to_async(publish)("events", {"n": 2})
            assert await reader.take(2) == [{"n": 1}, {"n": 2}]
            assert Counting.sent == 2


async def test_many_keep_their_order_in_parts_of_bounded_size(layer: str) -> None:
    count = 2 * MAX_BATCH_MESSAGES + 1
    sent = [{"n": n, "text": "x" * (5000 if n % 7 == 0 else 5)} for n in range(count)]
    assert sum(len(json.dumps(payload)) for payload in sent) > 2 * MAX_BATCH_BYTES
    async with reading("events") as reader:
        positions = await sync_to_async(publish_many)("events", (payload for payload in sent))
        assert await reader.take(count) == sent
        assert reader.positions == positions


async def test_publishing_nothing_sends_nothing(layer: str) -> None:
    async with reading("events") as reader:
        assert await sync_to_async(publish_many)("events", []) == []
        await reader.expect_nothing_before("events")


async def test_payloads_arrive_as_they_were_given(layer: str) -> None:
    payload = {"text": "é\U0001f600\x00", "list": [1, 1.5, None, True], "nested": {"": {}}}
    async with reading("events") as reader:
        await apublish("events", payload)
        assert await reader.take(1) == [payload]


async def test_a_bare_group_send_of_any_process_reaches_clients(server: Server, token: str) -> None:
    plain = RedisPubSubChannelLayer(hosts=layer_hosts(server.data_dir), prefix="realtime")
    async with client(server, token) as page:
        subscription_id = await page.subscribe("events", {"n": [1, 2]})
        try:
            for n in (0, 1):
                message = {"type": "stream.message", "payload": {"n": n}}
                await plain.group_send("realtime.events", message)
        finally:
            await plain.flush()
        received = await page.receive()
        assert received["data"] == {"event": {"n": 1}, "subscription_type": "events"}
        assert received["metadata"] == {}
        assert received["subscription_id"] == subscription_id
        await page.assert_silent()


async def test_what_is_published_reaches_clients(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("alerts")
        with layer_of(server.data_dir):
            await asyncio.to_thread(publish, "alerts", {"n": 1})
            await apublish("alerts", {"n": 2})
            await asyncio.to_thread(publish_many, "alerts", [{"n": 3}, {"n": 4}])
        assert [await page.assert_data("alerts") for _ in range(4)] == [
            {"n": n} for n in (1, 2, 3, 4)
        ]


# Connections


async def test_a_thousand_calls_of_twenty_threads_open_a_handful_of_connections(
    valkey: EmbeddedServer,
) -> None:
    before = connections_opened(valkey)
    start = threading.Barrier(20)

    def publish_fifty(thread: int) -> None:
        start.wait(TIMEOUT)
        for n in range(50):
            publish("events", {"thread": thread, "n": n})

    async with reading("events") as reader:
        own = connections_opened(valkey) - before
        with ThreadPoolExecutor(20) as threads:
            loop = asyncio.get_running_loop()
            await asyncio.gather(
                *(loop.run_in_executor(threads, publish_fifty, thread) for thread in range(20))
            )
        opened = connections_opened(valkey) - before - own
        assert opened <= MAX_CONNECTIONS + 2  # and those that asked
        assert open_connections(valkey) <= MAX_CONNECTIONS + own
        received = await reader.take(1000)
    for thread in range(20):
        numbers = [payload["n"] for payload in received if payload["thread"] == thread]
        assert numbers == list(range(50))


def test_one_thread_needs_one_connection(valkey: EmbeddedServer) -> None:
    publish("events", {})
    before = connections_opened(valkey)
    for n in range(100):
        publish("events", {"n": n})
    publish_many("events", ({"n": n} for n in range(100)))
    assert connections_opened(valkey) - before <= 1  # the one that asked


def test_loops_that_end_leave_no_connection_behind(valkey: EmbeddedServer) -> None:
    before = open_connections(valkey)
    for n in range(20):
        async_to_sync(apublish)("events", {"n": n})
        asyncio.run(apublish("events", {"n": n}))
    assert open_connections(valkey) <= before


async def test_a_loop_keeps_its_connections(valkey: EmbeddedServer) -> None:
    await asyncio.gather(*(apublish("events", {"n": n}) for n in range(50)))
    before = connections_opened(valkey)
    for _ in range(5):
        await asyncio.gather(*(apublish("events", {"n": n}) for n in range(50)))
    assert connections_opened(valkey) - before <= 1  # the one that asked
    assert open_connections(valkey) <= 2 * MAX_CONNECTIONS


# Transactions


@pytest.mark.django_db(transaction=True)
async def test_on_commit_publishes_after_the_commit(layer: str) -> None:
    payload = {"n": 1}

    def in_a_transaction() -> None:
        with transaction.atomic():
            publish("events", payload, on_commit=True)
            payload["n"] = 9  # too late: what counts is what was given
            publish("events", {"n": 0})

    async with reading("events") as reader:
        await sync_to_async(in_a_transaction)()
        assert await reader.take(2) == [{"n": 0}, {"n": 1}]


@pytest.mark.django_db(transaction=True)
async def test_on_commit_publishes_nothing_after_a_rollback(layer: str) -> None:
    def in_a_transaction() -> None:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            publish("events", {"n": 1}, on_commit=True)
            async_to_sync(apublish)("events", {"n": 2}, on_commit=True)
            raise ZeroDivisionError

    async with reading("events") as reader:
        await sync_to_async(in_a_transaction)()
        await reader.expect_nothing_before("events")


@pytest.mark.django_db(transaction=True)
async def test_on_commit_without_a_transaction_publishes_at_once(layer: str) -> None:
    async with reading("events") as reader:
        assert await sync_to_async(publish)("events", {"n": 1}, on_commit=True) is None
        assert await apublish("events", {"n": 2}, on_commit=True) is None
        assert await reader.take(2) == [{"n": 1}, {"n": 2}]


@pytest.mark.django_db(transaction=True)
async def test_the_coroutine_waits_for_the_commit_of_the_code_around_it(layer: str) -> None:
    def in_a_transaction() -> None:
        with transaction.atomic():
            async_to_sync(apublish)("events", {"n": 1}, on_commit=True)
            publish("events", {"n": 0})

    async with reading("events") as reader:
        await sync_to_async(in_a_transaction)()
        assert await reader.take(2) == [{"n": 0}, {"n": 1}]


@pytest.mark.django_db(transaction=True)
async def test_on_commit_a_failure_stops_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, layer: str
) -> None:
    """It is logged and reported; what else waits for the commit is called."""
    called, failed = [], []
    append = type(get_log()).append

    def fail_once(log: Any, what: Append) -> Appended:
        if b'{"n":1}' in what.batches[0].bodies:
            raise Unavailable("away")
        return append(log, what)

    def note(kind: str, payload: Any, error: Exception, **_: Any) -> None:
        failed.append((kind, payload, type(error)))

    def in_a_transaction() -> None:
        with transaction.atomic():
            publish("events", {"n": 1}, on_commit=True)
            publish("events", {"n": 2}, on_commit=True)
            transaction.on_commit(lambda: called.append("another app's"))

    monkeypatch.setattr(type(get_log()), "append", fail_once)
    publish_failed.connect(note)
    try:
        async with reading("events") as reader:
            await sync_to_async(in_a_transaction)()
            assert await reader.take(1) == [{"n": 2}]
    finally:
        publish_failed.disconnect(note)
    assert called == ["another app's"]
    assert failed == [("events", {"n": 1}, PublishError)]
    assert "events: not published after the commit: " in caplog.text


@pytest.mark.django_db(transaction=True)
def test_on_commit_no_error_of_any_kind_stops_what_follows(
    monkeypatch: pytest.MonkeyPatch, layer: str
) -> None:
    called = []

    def fail(*_: Any) -> Appended:
        raise RuntimeError("nobody expects this")

    monkeypatch.setattr(type(get_log()), "append", fail)
    monkeypatch.setattr(type(get_log()), "aappend", fail)
    with transaction.atomic():
        publish("events", {"n": 1}, on_commit=True)
        transaction.on_commit(lambda: called.append("another app's"))
    assert called == ["another app's"]


@pytest.mark.django_db(transaction=True)
def test_on_commit_refuses_a_wrong_payload_at_once() -> None:
    with transaction.atomic(), pytest.raises(ValueError, match="payload"):
        publish("events", {"n": float("nan")}, on_commit=True)


# Once


async def test_the_same_key_publishes_once_and_gives_the_first_position(layer: str) -> None:
    once = sync_to_async(publish)
    async with reading("events") as reader:
        first = await once("events", {"n": 1}, idempotency_key="order-1")
        other = await apublish("events", {"n": 11}, idempotency_key="order-2")
        for n in (2, 3):
            assert await once("events", {"n": n}, idempotency_key="order-1") == first
            assert await apublish("events", {"n": n}, idempotency_key="order-1") == first
            assert await apublish("events", {"n": n}, idempotency_key="order-2") == other
        assert await reader.take(2) == [{"n": 1}, {"n": 11}]
        assert reader.positions == [first, other]
        await reader.expect_nothing_before("events")


async def test_many_with_one_key_are_published_once(layer: str) -> None:
    many = partial(sync_to_async(publish_many), "events", idempotency_key="all of them")
    payloads = [{"n": n} for n in range(2 * MAX_APPEND_MESSAGES + 1)]
    async with reading("events") as reader:
        positions = await many(payloads)
        assert await many(payloads) == positions
        assert await reader.take(len(payloads)) == payloads
        await reader.expect_nothing_before("events")


async def test_a_key_made_of_another_is_no_key_of_a_publisher(layer: str) -> None:
    async with reading("events") as reader:
        await apublish_many("events", [{"n": 1}], idempotency_key="import")
        for n, key in enumerate(("import:0", "import 0", "1 import", "('import', 0)"), 2):
            await apublish("events", {"n": n}, idempotency_key=key)
        assert await reader.take(5) == [{"n": n} for n in range(1, 6)]


async def test_a_key_belongs_to_its_type(layer: str) -> None:
    async with reading("metrics") as reader:
        await apublish("alerts", {"n": 1}, idempotency_key="same")
        await apublish("metrics", {"n": 2}, idempotency_key="same")
        assert await reader.take(1) == [{"n": 2}]


@pytest.mark.parametrize("key", ["", "é" * 10_000, "a\x00b", "\ud800"])
async def test_any_text_is_a_key(layer: str, key: str) -> None:
    async with reading("events") as reader:
        await apublish("events", {"n": 1}, idempotency_key=key)
        await apublish("events", {"n": 2}, idempotency_key=key)
        assert await reader.take(1) == [{"n": 1}]
        await reader.expect_nothing_before("events")


async def test_of_twenty_threads_with_one_key_one_publishes(layer: str) -> None:
    async with reading("events") as reader:
        with ThreadPoolExecutor(20) as threads:
            loop = asyncio.get_running_loop()
            once = partial(publish, "events", idempotency_key="race")
            positions = await asyncio.gather(
                *(loop.run_in_executor(threads, once, {"n": n}) for n in range(20))
            )
        await reader.take(1)
        assert set(positions) == set(reader.positions)
        await reader.expect_nothing_before("events")


def test_a_key_is_forgotten_after_the_history(valkey: EmbeddedServer) -> None:
    with redis_library.Redis(unix_socket_path=str(valkey.socket)) as asking:
        before = set(asking.scan_iter())
        publish("events", {}, idempotency_key="forgotten some day")
        [key] = set(asking.scan_iter()) - before
        assert 3590 < asking.ttl(key) <= 3600


# Errors


@pytest.mark.parametrize("kind", ["event", "", "EVENTS", "realtime.events", "*", None, 5])
async def test_an_unknown_type_is_refused(layer: str, kind: Any) -> None:
    with pytest.raises(ValueError, match="no subscription type: events, metrics"):
        publish(kind, {})
    with pytest.raises(ValueError, match="no subscription type: events, metrics"):
        publish_many(kind, [])
    with pytest.raises(ValueError, match="no subscription type: events, metrics"):
        await apublish(kind, {})


@pytest.mark.parametrize(
    "payload",
    [None, [], "{}", 1, {"n": float("nan")}, {"n": object()}, {"text": "x" * LARGEST}],
)
async def test_a_wrong_payload_is_refused(layer: str, payload: Any) -> None:
    async with reading("events") as reader:
        with pytest.raises(ValueError, match=r"^payload: "):
            publish("events", payload)
        with pytest.raises(ValueError, match=r"^payload: "):
            await apublish("events", payload)
        with pytest.raises(ValueError, match=r"^payload: "):
            publish_many("events", [{"n": 1}, payload, {"n": 2}])
        with pytest.raises(ValueError, match=r"^payload: "):
            check_payload(payload)
        await reader.expect_nothing_before("events")


async def test_the_largest_payload_is_published(layer: str) -> None:
    payload = {"x": "y" * (LARGEST - len('{"x":""}'))}
    async with reading("events") as reader:
        await apublish("events", payload)
        [received] = await reader.take(1)
        assert received == payload
    payload["x"] += "y"
    with pytest.raises(ValueError, match=r"^payload: 1048577 bytes, more than max_message_size"):
        publish("events", payload)


async def test_without_a_server_it_is_a_publish_error(data_dir: Path) -> None:
    with layer_of(data_dir):
        with pytest.raises(PublishError, match="did not confirm") as caught:
            publish("events", {})
        assert "\n" not in str(caught.value)
        with pytest.raises(PublishError, match="did not confirm"):
            publish("events", {}, idempotency_key="x")
        with pytest.raises(PublishError, match="did not confirm"):
            publish_many("events", [{}])
        with pytest.raises(PublishError, match="did not confirm"):
            await apublish("events", {})
        with pytest.raises(PublishError, match="did not confirm"):
            await apublish("events", {}, idempotency_key="x")
        with pytest.raises(PublishError, match="did not confirm"):
            await realtime.broadcast_event({})


def test_without_a_server_every_thread_hears_of_it(data_dir: Path) -> None:
    def attempt(n: int) -> bool:
        try:
            publish("events", {"n": n})
        except PublishError:
            return True
        return False

    with layer_of(data_dir), ThreadPoolExecutor(20) as threads:
        assert all(threads.map(attempt, range(40)))


@pytest.mark.processes
async def test_it_works_again_when_the_server_is_back(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    with layer_of(data_dir):
        for _ in range(2):
            server.ensure_running()
            publish("events", {})
            await apublish("events", {})
            server.stop()
            with pytest.raises(PublishError):
                publish("events", {})
            with pytest.raises(PublishError):
                await apublish("events", {})


async def test_another_layer_is_a_publish_error() -> None:
    core = {"BACKEND": "channels_redis.core.RedisChannelLayer"}
    with override_settings(CHANNEL_LAYERS={"default": core}):
        with pytest.raises(PublishError, match="neither the pub/sub layer"):
            await apublish("events", {})
        with pytest.raises(PublishError, match="neither the pub/sub layer"):
            await sync_to_async(publish)("events", {})


async def test_without_a_layer_it_is_a_publish_error() -> None:
    with override_settings(CHANNEL_LAYERS={}):
        with pytest.raises(PublishError, match="no channel layer is configured"):
            await apublish("events", {})
        with pytest.raises(PublishError, match="no channel layer is configured"):
            await sync_to_async(publish)("events", {})
