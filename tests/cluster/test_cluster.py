"""The cluster: the same promises of Redis and of one process, what only Redis can keep, members."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis as redis_library
from django.test import override_settings

from realtime.cluster import Membership, contract, get_cluster
from realtime.cluster import redis as redis_cluster
from realtime.cluster.clients import Unavailable, sync_client
from realtime.cluster.contract import PROCESSES, Answer, LocalCluster
from realtime.cluster.embedded import EmbeddedServer
from realtime.cluster.layer import key, layer_servers
from realtime.cluster.redis import RedisCluster
from realtime.tasks import end
from tests.support.layers import IN_MEMORY, PUBSUB, close_layer, layer_of
from tests.support.redis_servers import RedisServer

Cluster = LocalCluster | RedisCluster


@pytest.fixture(params=["valkey", "in-memory"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    """Each of the clusters in turn, empty."""
    if request.param == "valkey":
        valkey: EmbeddedServer = request.getfixturevalue("valkey")
        with redis_library.Redis(unix_socket_path=str(valkey.socket)) as client:
            client.flushall()
        yield get_cluster()
        await close_layer()
    else:
        with override_settings(CHANNEL_LAYERS=IN_MEMORY):
            yield get_cluster()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Members are gone as soon as they have beaten."""
    monkeypatch.setattr(contract, "GONE_AFTER", 0)
    monkeypatch.setattr(redis_cluster, "GONE_AFTER", 0)
    yield


def test_only_redis_is_shared(cluster: Cluster) -> None:
    assert cluster.is_shared is not isinstance(cluster, LocalCluster)
    assert get_cluster() is cluster


# Presence


async def test_members_see_each_other(cluster: Cluster) -> None:
    assert await cluster.beat("work", "b") == (["b"], True)
    assert await cluster.beat("work", "a") == (["a", "b"], True)
    assert await cluster.beat("work", "b") == (["a", "b"], False)
    assert await cluster.beat("other work", "c") == (["c"], True)
    await cluster.leave("work", "a")
    assert await cluster.beat("work", "b") == (["b"], False)
    await cluster.leave("work", "nobody")


async def test_a_member_learns_that_it_was_taken_for_gone(cluster: Cluster, quick: None) -> None:
    assert (await cluster.beat("work", "a")).was_gone
    assert (await cluster.beat("work", "a")).was_gone


async def test_a_silent_member_is_gone(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (contract, redis_cluster):
        monkeypatch.setattr(module, "GONE_AFTER", 1)
    await cluster.beat("work", "silent")
    async with asyncio.timeout(10):
        while (await cluster.beat("work", "alive")).members != ["alive"]:  # noqa: ASYNC110 - time passes
            await asyncio.sleep(0.1)


# Questions


@asynccontextmanager
async def listening(cluster: Cluster, process: str, answer: Answer) -> AsyncIterator[None]:
    """Have a process answer."""
    await cluster.beat(PROCESSES, process)
    task = asyncio.create_task(cluster.listen(process, answer))
    try:
        await asyncio.sleep(0)
        yield
    finally:
        await end(task)
        await cluster.leave(PROCESSES, process)


async def echo(question: bytes) -> bytes:
    if question == b"fail":
        raise ValueError("a mistake")
    return question * 2


async def fail(question: bytes) -> bytes:
    raise ValueError("a mistake")


async def test_all_processes_answer(cluster: Cluster) -> None:
    assert await asyncio.to_thread(cluster.ask_all, b"hm") == ({}, [])
    question = b"line\nand another"
    async with listening(cluster, "a", echo), listening(cluster, "b", echo):
        answers = await asyncio.to_thread(cluster.ask_all, question)
    assert answers == ({"a": question * 2, "b": question * 2}, [])
    assert await asyncio.to_thread(cluster.ask_all, b"hm") == ({}, [])


async def test_a_process_that_fails_or_does_not_listen_is_missing(cluster: Cluster) -> None:
    await cluster.beat(PROCESSES, "deaf")
    async with listening(cluster, "a", echo), listening(cluster, "failing", fail):
        answers = await asyncio.to_thread(cluster.ask_all, b"hm")
        assert answers == ({"a": b"hmhm"}, ["deaf", "failing"])


async def test_a_failure_does_not_end_the_answers(cluster: Cluster) -> None:
    async with listening(cluster, "a", echo):
        assert await asyncio.to_thread(cluster.ask_all, b"fail") == ({}, ["a"])
        assert await asyncio.to_thread(cluster.ask_all, b"hm") == ({"a": b"hmhm"}, [])


# Figures


async def test_figures_are_those_of_the_processes_that_are_there(cluster: Cluster) -> None:
    for process in ("a", "b"):
        await cluster.beat(PROCESSES, process)
    assert await cluster.exchange("a", b"old") == [b"old"]
    assert await cluster.exchange("a", b"1") == [b"1"]
    assert sorted(await cluster.exchange("b", b"2")) == [b"1", b"2"]
    assert sorted(await asyncio.to_thread(cluster.read_figures)) == [b"1", b"2"]
    await cluster.leave(PROCESSES, "a")
    assert await asyncio.to_thread(cluster.read_figures) == [b"2"]
    assert await cluster.exchange("b", b"3") == [b"3"]


# Counting


async def test_events_are_counted_in_periods(cluster: Cluster) -> None:
    assert [await cluster.count("x", 60) for _ in range(3)] == [1, 2, 3]
    assert await cluster.count("y", 1) == 1
    started = time.monotonic()
    async with asyncio.timeout(10):
        while await cluster.count("y", 1) != 1:  # noqa: ASYNC110 - time passes
            await asyncio.sleep(0.05)
    assert time.monotonic() - started < 2
    assert await cluster.count("x", 60) == 4


async def test_connections_are_limited(cluster: Cluster) -> None:
    first, second, third = (f"{number:036}" for number in range(3))
    for process in ("p", "q"):
        await cluster.beat(PROCESSES, process)
    assert await cluster.acquire("holder", first, "p", 2)
    assert await cluster.acquire("holder", second, "q", 2)
    assert not await cluster.acquire("holder", third, "p", 2)
    assert await cluster.acquire("holder", second, "q", 2), "it has it already"
    assert await cluster.acquire("another", third, "p", 1)
    await cluster.set_connections("q", {("holder", second): False})
    assert await cluster.acquire("holder", third, "p", 2)
    await cluster.set_connections("q", {("holder", second): True})
    assert not await cluster.acquire("holder", first, "p", 2)


async def test_connections_of_processes_that_are_gone_do_not_count(cluster: Cluster) -> None:
    first, second = (f"{number:036}" for number in range(2))
    for process in ("p", "q"):
        await cluster.beat(PROCESSES, process)
    assert await cluster.acquire("holder", first, "p", 1)
    assert not await cluster.acquire("holder", second, "q", 1)
    await cluster.leave(PROCESSES, "p")
    assert await cluster.acquire("holder", second, "q", 1)


# Tables


async def test_rows_are_written_and_removed(cluster: Cluster) -> None:
    assert await cluster.read_rows("table") == {}
    await cluster.write_rows("table", {"a": b"1", "b": b"2"}, [], 60)
    await cluster.write_rows("table", {"a": b"3"}, ["b", "c"], 60)
    assert await cluster.read_rows("table") == {"a": b"3"}
    await cluster.write_rows("table", {}, [], 60)
    assert await cluster.read_rows("other") == {}


# One process alone: what it forgets


async def test_the_oldest_count_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalCluster, "MAX_COUNTS", 2)
    cluster = LocalCluster()
    assert [await cluster.count(name, 60) for name in "abca"] == [1, 1, 1, 1]


async def test_each_layer_in_memory_has_a_cluster(settings: object) -> None:
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        first = get_cluster()
        await first.beat("work", "a")
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        assert get_cluster() is not first
    with override_settings(CHANNEL_LAYERS={}):
        assert not get_cluster().is_shared


# Redis alone: when servers do not answer


async def test_every_question_says_that_nobody_answers(data_dir: Path) -> None:
    config = {"hosts": [f"unix://{data_dir}/nobody.sock"]}
    layers = {"default": {"BACKEND": PUBSUB, "CONFIG": config}}
    with override_settings(CHANNEL_LAYERS=layers):
        cluster = get_cluster()
        attempts = (
            lambda: cluster.beat("work", "a"),
            lambda: cluster.leave("work", "a"),
            lambda: cluster.exchange("a", b""),
            lambda: cluster.count("x", 1),
            lambda: cluster.acquire("holder", "connection", "a", 1),
            lambda: cluster.set_connections("a", {("holder", "connection"): True}),
            lambda: cluster.read_rows("table"),
            lambda: cluster.write_rows("table", {}, [], 1),
            lambda: asyncio.to_thread(cluster.ask_all, b""),
            lambda: asyncio.to_thread(cluster.read_figures),
        )
        for attempt in attempts:
            with pytest.raises(Unavailable):
                await attempt()
        await close_layer()


@pytest.mark.processes
async def test_a_hanging_server_is_not_waited_for_while_a_client_waits(data_dir: Path) -> None:
    with RedisServer(data_dir / "a") as server:
        layers = {"default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [server.url]}}}
        with override_settings(CHANNEL_LAYERS=layers):
            await get_cluster().count("x", 60)
            server.pause()
            async with asyncio.timeout(redis_cluster.COUNT_TIMEOUT + 1):
                with pytest.raises(Unavailable, match="no answer in time"):
                    await get_cluster().count("x", 60)
            server.resume()
            await close_layer()


@pytest.mark.processes
async def test_another_server_stands_in_for_one_that_is_away(data_dir: Path) -> None:
    with RedisServer(data_dir / "a") as first, RedisServer(data_dir / "b") as second:
        config = {"hosts": [first.url, second.url]}
        with override_settings(CHANNEL_LAYERS={"default": {"BACKEND": PUBSUB, "CONFIG": config}}):
            cluster = get_cluster()
            one, other = (sync_client(server) for server in layer_servers())
            async with listening(cluster, "a", echo):
                await cluster.exchange("a", b"1")
                assert one.exists(key(PROCESSES)) and not other.exists(key(PROCESSES))
                first.kill()
                with pytest.raises(Unavailable):
                    await cluster.beat(PROCESSES, "a")
                assert await cluster.beat(PROCESSES, "a") == (["a"], True)
                await cluster.exchange("a", b"2")
                assert await asyncio.to_thread(cluster.read_figures) == [b"2"]

                async def is_answered() -> bool:
                    answers = await asyncio.to_thread(cluster.ask_all, b"hm")
                    return answers.by_process == {"a": b"hmhm"}

                async with asyncio.timeout(20):
                    while not await is_answered():
                        pass
                first.start()
                await cluster.beat(PROCESSES, "a")  # which finds out that it is back
                await cluster.beat(PROCESSES, "a")
                assert one.exists(key(PROCESSES))
            await close_layer()


async def test_an_error_is_an_answer(valkey: EmbeddedServer) -> None:
    with redis_library.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.flushall()
        client.set(key("table"), "no hash")
        cluster = get_cluster()
        with pytest.raises(Unavailable, match="WRONGTYPE"):
            await cluster.read_rows("table")
        client.delete(key("table"))
    assert isinstance(cluster, redis_cluster.RedisCluster) and not cluster._away & {
        *layer_servers()
    }
    assert await cluster.read_rows("table") == {}
    await close_layer()


# This process among them


async def test_with_a_layer_in_memory_this_process_is_asked_itself() -> None:
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        process = Membership()
        assert await process.beat() == ([process.name], False)
        listening = asyncio.create_task(process.listen(echo))
        await asyncio.sleep(0)
        answers = await asyncio.to_thread(get_cluster().ask_all, b"hm")
        assert answers == ({process.name: b"hmhm"}, [])
        await end(listening)
        await process.leave()
        assert await asyncio.to_thread(get_cluster().ask_all, b"hm") == ({}, [])


async def test_a_question_that_fails_does_not_end_the_answers(
    valkey: object, caplog: pytest.LogCaptureFixture
) -> None:
    process = Membership()
    await process.beat()
    listening = asyncio.create_task(process.listen(echo))
    assert (await asyncio.to_thread(get_cluster().ask_all, b"fail")).missing == [process.name]
    assert "a mistake" in caplog.text
    question = b"line\nand another"
    assert (await asyncio.to_thread(get_cluster().ask_all, question)).by_process == {
        process.name: question * 2
    }
    await end(listening)
    await process.leave()
    assert await asyncio.to_thread(get_cluster().ask_all, b"hm") == ({}, [])
    await close_layer()


async def test_a_process_learns_that_it_was_taken_for_gone(
    valkey: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Membership()
    assert (await process.beat()).was_gone is False
    assert (await process.beat()).was_gone is False
    monkeypatch.setattr(redis_cluster, "GONE_AFTER", 0)
    assert (await process.beat()).was_gone is True
    await process.leave()
    await close_layer()


@pytest.mark.processes
async def test_leaving_never_fails(data_dir: Path) -> None:
    server = EmbeddedServer(data_dir)
    with layer_of(data_dir):
        await Membership("work").leave()
        server.ensure_running()
        member = Membership("work")
        await member.beat()
        server.stop()
        await member.leave()
        with pytest.raises(Unavailable):
            await member.beat()
        await close_layer()


@pytest.mark.processes
async def test_it_listens_again_when_the_layer_is_back(data_dir: Path) -> None:
    with layer_of(data_dir):
        process = Membership()
        listening = asyncio.create_task(process.listen(echo))
        with pytest.raises(Unavailable):
            await asyncio.to_thread(get_cluster().ask_all, b"hm")
        server = EmbeddedServer(data_dir)
        server.ensure_running()
        try:
            await process.beat()
            answers: list[bytes] = []

            def is_answered() -> bool:
                answers[:] = get_cluster().ask_all(b"hm").by_process.values()
                return bool(answers)

            await asyncio.to_thread(lambda: [None for _ in iter(is_answered, True)])
            assert answers == [b"hmhm"]
        finally:
            await end(listening)
            await close_layer()
            server.stop()
