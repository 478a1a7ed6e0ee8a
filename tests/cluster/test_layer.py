"""The channel layer: what of its libraries is private and used all the same, and its settings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.test import override_settings
from redis.exceptions import ReadOnlyError

from realtime.cluster.layer import (
    check_writing,
    connection,
    group_address,
    key,
    layer_servers,
    new_channel,
    received,
    renew,
)
from realtime.cluster.servers import Server
from realtime.protocol import SUBSCRIPTION_TYPES
from tests.support.layers import IN_MEMORY, PUBSUB, close_layer
from tests.support.redis_servers import RedisServer

MESSAGE = {"type": "something"}


def layers(**config: Any) -> Any:
    """Use a channel layer with this configuration."""
    return override_settings(CHANNEL_LAYERS={"default": {"BACKEND": PUBSUB, "CONFIG": config}})


async def receive_something(kind: str) -> None:
    """Check that a message to a channel is in the queue that :func:`received` returns."""
    layer: Any = get_channel_layer()
    channel = await new_channel(layer, kind)
    await layer.send(channel, MESSAGE)
    queue = received(layer, channel)
    async with asyncio.timeout(10):
        while queue is None or queue.empty():
            await asyncio.sleep(0.01)
            queue = received(layer, channel)
        assert await layer.receive(channel) == MESSAGE
    assert queue.empty()


async def test_a_channel_in_memory_has_a_queue() -> None:
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        layer: Any = get_channel_layer()
        assert received(layer, await new_channel(layer, "events")) is None
        await receive_something("events")


async def test_a_channel_of_the_pubsub_layer_has_a_queue(valkey: object) -> None:
    await receive_something("events")
    await close_layer()


@pytest.mark.processes
async def test_a_new_channel_is_on_its_groups_server(data_dir: Any) -> None:
    with (
        RedisServer(data_dir / "a") as first,
        RedisServer(data_dir / "b") as second,
        layers(hosts=[first.url, second.url]),
    ):
        layer: Any = get_channel_layer()
        for kind in ("events", "metrics"):
            await receive_something(kind)
            channel = await new_channel(layer, kind)
            shard = layer._get_layer()._get_shard(channel).host["address"]
            assert shard == group_address(kind)[0].url
        assert group_address("events")[0] != group_address("metrics")[0]
        await close_layer()


@pytest.mark.parametrize(
    ("count", "numbers"),
    [(2, [1, 0, 1, 0, 0, 1]), (3, [2, 1, 1, 0, 0, 2]), (4, [3, 1, 2, 1, 0, 3])],
)
@pytest.mark.parametrize("prefix", ["realtime", "realtime@1", "realtime@3-0"])
def test_types_stay_where_their_logs_are(count: int, numbers: list[int], prefix: str) -> None:
    """Another hash would move types to servers that have no log of them; see operations.md."""
    urls = [f"redis://example.com:{port}" for port in range(count)]
    with layers(hosts=urls, prefix=prefix):
        assert [urls.index(group_address(kind)[0].url) for kind in SUBSCRIPTION_TYPES] == numbers


def test_settings_are_read_again_when_they_are_overridden() -> None:
    with layers(hosts=["redis://one:1"], prefix="p"):
        assert layer_servers() == (Server("redis://one:1"),)
        assert key("x") == "p:x"
        first = group_address("events")
        assert group_address("events") is first
        with layers(hosts=["redis://two:2"]):
            assert layer_servers() == (Server("redis://two:2"),)
            assert key("x") == "asgi:x"
            assert group_address("events") == (
                Server("redis://two:2"),
                "asgi__group__realtime.events",
            )
        assert group_address("events") == first


@pytest.mark.processes
async def test_what_renewing_a_connection_touches(data_dir: Any) -> None:
    with RedisServer(data_dir / "redis") as server, layers(hosts=[server.url]):
        layer: Any = get_channel_layer()
        channel = await new_channel(layer, "events")
        await layer.group_add("group", channel)
        before = connection(layer, layer_servers()[0])
        assert before is layer._get_layer()._shards[0]
        await check_writing(before)
        assert before._lock.locked() is False and before._receive_task is not None
        await renew(layer, before)
        after = connection(layer, layer_servers()[0])
        assert after._subscribed_to == {channel, "asgi__group__group"}
        # What was replaced has let go of everything.
        assert before._redis is before._receive_task is None
        await renew(layer, before)
        assert connection(layer, layer_servers()[0]) is after
        await layer.group_send("group", MESSAGE)
        assert await layer.receive(channel) == MESSAGE
        await close_layer()


@pytest.mark.processes
async def test_a_replica_is_refused_and_nothing_is_changed(data_dir: Any) -> None:
    with RedisServer(data_dir / "redis") as server, layers(hosts=[server.url]):
        layer: Any = get_channel_layer()
        await receive_something("events")
        before = connection(layer, layer_servers()[0])
        server.client().replicaof("127.0.0.1", "1")
        for refused in (check_writing(before), renew(layer, before)):
            with pytest.raises(ReadOnlyError):
                await refused
        assert connection(layer, layer_servers()[0]) is before
        await receive_something("events")
        await close_layer()
