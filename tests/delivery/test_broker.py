"""The broker: a joined group's messages all arrive, in order; nothing arrives after leaving."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_library
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.test import override_settings

from realtime import PublishError, publish
from realtime.cluster.clients import Unavailable, close_async_clients
from realtime.cluster.embedded import EmbeddedServer
from realtime.delivery import broker as broker_module
from realtime.delivery import receiver as receiver_module
from realtime.delivery.broker import Broker
from realtime.delivery.feed import Lost
from realtime.hub.message import Message
from realtime.monitoring.metrics import Counters
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing import apublish, publish_many
from tests.support import TIMEOUT
from tests.support.layers import IN_MEMORY, close_layer, layer_of, until


class Arrivals:
    """A broker's handler: what it has handed on and told."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []
        self.batches: list[int] = []
        self.told: list[tuple[str, Lost]] = []
        self.failures: list[Exception] = []
        self._changed = asyncio.Event()

    async def deliver(self, kind: str, messages: list[Message], origins: Any) -> None:
        """Take what the broker hands on; fail first if that is wanted."""
        if self.failures:
            raise self.failures.pop()
        self.messages += [(kind, message) for message in messages]
        self.batches.append(len(messages))
        self._changed.set()

    def tell_lost(self, kind: str, lost: Lost) -> None:
        """Take what the broker says is lost."""
        self.told.append((kind, lost))

    def count_repaired(self, kind: str, count: int) -> None:
        """Which way a message came does not matter here."""

    async def take(self, count: int) -> list[tuple[str, Any]]:
        """Wait for so many messages; return all there are, as type and payload."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()
        taken, self.messages = self.messages, []
        return [(kind, json.loads(message.payload)) for kind, message in taken]


@asynccontextmanager
async def running_broker() -> AsyncIterator[tuple[Broker, Arrivals]]:
    """Run a broker and what it delivers to."""
    arrivals = Arrivals()
    broker = Broker(arrivals, Counters())
    try:
        yield broker, arrivals
    finally:
        await end(broker)


async def end(broker: Broker) -> None:
    """Close a broker and the connections of the layer below."""
    await broker.close()
    await close_layer()


async def send(kind: str, message: dict[str, Any]) -> None:
    """Send a message as plain Channels code does."""
    await get_channel_layer().group_send(f"realtime.{kind}", message)


def subscribers(valkey: EmbeddedServer, kind: str) -> int:
    """Return how many connections the server sends a type's messages to."""
    channel = f"realtime__group__realtime.{kind}"
    with redis_library.Redis(unix_socket_path=str(valkey.socket)) as asking:
        [(_, count)] = asking.pubsub_numsub(channel)
    return int(count)


async def test_what_is_sent_after_joining_arrives(layer: str) -> None:
    for number in range(10):  # a membership that is not confirmed would be missed now and then
        async with running_broker() as (broker, arrivals):
            await broker.join("events")
            assert broker.has_joined("events")
            await apublish("events", {"n": number})
            assert await arrivals.take(1) == [("events", {"n": number})]


async def test_another_connections_first_message_is_not_missed(valkey: EmbeddedServer) -> None:
    for number in range(10):
        async with running_broker() as (broker, arrivals):
            await broker.join("events")
            publish("events", {"n": number})
            assert await arrivals.take(1) == [("events", {"n": number})]


async def test_each_type_is_told_from_the_others(layer: str) -> None:
    async with running_broker() as (broker, arrivals):
        await asyncio.gather(*(broker.join(kind) for kind in SUBSCRIPTION_TYPES))
        for kind in SUBSCRIPTION_TYPES:
            await apublish(kind, {"sent to": kind})
        received = await arrivals.take(len(SUBSCRIPTION_TYPES))
        assert sorted(received) == sorted((kind, {"sent to": kind}) for kind in SUBSCRIPTION_TYPES)


async def test_joining_twice_delivers_once(layer: str) -> None:
    async with running_broker() as (broker, arrivals):
        await broker.join("events")
        await broker.join("events")
        await apublish("events", {"n": 1})
        await apublish("events", {"n": 2})
        assert [payload["n"] for _, payload in await arrivals.take(2)] == [1, 2]


async def test_all_of_many_arrive_in_order(layer: str) -> None:
    async with running_broker() as (broker, arrivals):
        await broker.join("events")
        for start in range(0, 3000, 100):
            batch = [{"n": n} for n in range(start, start + 100)]
            await sync_to_async(publish_many)("events", batch)
        assert [payload["n"] for _, payload in await arrivals.take(3000)] == list(range(3000))


async def test_messages_that_wait_are_handed_on_together(valkey: EmbeddedServer) -> None:
    async with running_broker() as (broker, arrivals):
        await broker.join("events")
        for n in range(500):
            publish("events", {"n": n})  # blocks the loop: all of them wait
        assert len(await arrivals.take(500)) == 500
        assert len(arrivals.batches) < 100
        assert max(arrivals.batches) <= receiver_module.MAX_BATCH


async def test_after_leaving_nothing_arrives(layer: str) -> None:
    async with running_broker() as (broker, arrivals):
        await broker.join("events")
        await broker.join("metrics")
        await broker.leave("events")
        assert not broker.has_joined("events") and broker.has_joined("metrics")
        await apublish("events", {"n": 1})
        await apublish("metrics", {"n": 2})
        assert await arrivals.take(1) == [("metrics", {"n": 2})]
        await broker.leave("events")  # twice is once
        await broker.join("events")
        await apublish("events", {"n": 3})
        assert await arrivals.take(1) == [("events", {"n": 3})]


async def test_the_server_sends_only_what_someone_wants(valkey: EmbeddedServer) -> None:
    async with running_broker() as (broker, _):
        assert subscribers(valkey, "events") == 0
        await broker.join("events")
        assert subscribers(valkey, "events") == 1
        assert subscribers(valkey, "metrics") == 0
        await broker.leave("events")
        assert subscribers(valkey, "events") == 0
        await broker.join("events")
        await broker.close()
        assert subscribers(valkey, "events") == 0


async def test_leaving_ends_its_task(layer: str) -> None:
    async with running_broker() as (broker, _):
        await broker.join("alerts")
        assert [task for task in asyncio.all_tasks() if task.get_name() == "broker alerts"]
        await broker.leave("alerts")
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "broker alerts"]


async def test_a_bare_message_is_read_and_what_is_none_is_dropped(
    layer: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "realtime.delivery.receiver")
    async with running_broker() as (broker, arrivals):
        await broker.join("events")
        await send("events", {"type": "stream.message", "payload": [1]})
        await send("events", {"type": "stream.message"})
        await send("events", {"type": "chat.message", "payload": {}})
        await send("events", {"type": "stream.probe", "probe": "another process's"})
        await send("events", {"type": "stream.message", "payload": {"n": 1}})
        assert await arrivals.take(1) == [("events", {"n": 1})]
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("realt")]
    assert warnings == [
        "dropped a message to realtime.events: payload: expected an object, got list",
        "dropped a message to realtime.events: payload: expected an object, got NoneType",
        "dropped a message to realtime.events: unknown type 'chat.message'",
    ]


async def test_a_message_that_fails_does_not_end_the_delivery(
    layer: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver_module, "RETRY_INTERVAL", 0.01)
    arrivals = Arrivals()
    arrivals.failures.append(ZeroDivisionError())
    broker = Broker(arrivals, Counters())
    await broker.join("events")
    await apublish("events", {"n": 1})
    await until(lambda: not arrivals.failures)
    await send("events", {"type": "stream.batch"})
    await send("events", {"type": "stream.message", "payload": {"n": 2}})
    assert await arrivals.take(1) == [("events", {"n": 2})]
    assert "ZeroDivisionError" in caplog.text
    await end(broker)


# When the layer does not answer


@pytest.mark.processes
async def test_without_a_server_joining_fails_in_bounded_time_and_leaves_nothing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "JOIN_TIMEOUT", 0.5)
    with layer_of(data_dir):
        async with running_broker() as (broker, arrivals):
            with pytest.raises(Unavailable):
                await broker.join("events")
            assert not broker.has_joined("events")
            assert not [t for t in asyncio.all_tasks() if t.get_name() == "broker events"]
            server = EmbeddedServer(data_dir)
            server.ensure_running()
            try:
                monkeypatch.setattr(broker_module, "JOIN_TIMEOUT", TIMEOUT)
                await broker.join("events")
                await apublish("events", {"n": 1})
                assert await arrivals.take(1) == [("events", {"n": 1})]
            finally:
                await broker.close()
                await close_async_clients()
                server.stop()


async def test_a_layer_that_swallows_messages_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def swallow(group: str, message: dict[str, Any]) -> None:
        """Lose a message, as a layer may."""

    monkeypatch.setattr(broker_module, "JOIN_TIMEOUT", 0.2)
    monkeypatch.setattr(receiver_module, "PROBE_INTERVAL", 0.01)
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        monkeypatch.setattr(get_channel_layer(), "group_send", swallow)
        async with running_broker() as (broker, _):
            with pytest.raises(Unavailable):
                await broker.join("events")
            assert not broker.has_joined("events")


async def test_without_a_layer_joining_fails() -> None:
    with override_settings(CHANNEL_LAYERS={}):
        async with running_broker() as (broker, _):
            with pytest.raises(Unavailable, match="no channel layer is configured"):
                await broker.join("events")


async def test_cancelled_joining_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def swallow(group: str, message: dict[str, Any]) -> None:
        """Lose a message, as a layer may."""

    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        layer = get_channel_layer()
        async with running_broker() as (broker, _):
            with monkeypatch.context() as patch:
                patch.setattr(layer, "group_send", swallow)
                joining = asyncio.create_task(broker.join("events"))
                await until(lambda: bool(layer.groups))
                joining.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await joining
            assert not broker.has_joined("events")
            assert not layer.groups
            await broker.join("events")


@pytest.mark.processes
async def test_messages_arrive_again_after_the_server_was_restarted(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    server.ensure_running()
    try:
        with layer_of(data_dir):
            async with running_broker() as (broker, arrivals):
                await broker.join("events")
                server.stop()
                with pytest.raises(PublishError):
                    publish("events", {"n": 0})
                server.ensure_running()
                await until(lambda: subscribers(server, "events") == 1)
                publish("events", {"n": 1})
                assert await arrivals.take(1) == [("events", {"n": 1})]
    finally:
        server.stop()
