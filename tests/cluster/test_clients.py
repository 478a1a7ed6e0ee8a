"""Lua programs: all are found, are programs, and are run by their digests.

What each does is tested with the module that has it: ``test_cluster``, ``log/test_log``,
``publishing/test_deduplication`` and ``analytics/processing/test_runner``.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
)

from realtime.cluster.clients import (
    Script,
    Unavailable,
    as_text,
    ask,
    ask_blocking,
    close_async_clients,
    is_misled,
    sync_client,
)
from realtime.cluster.clients import async_client as async_client_of
from realtime.cluster.embedded import EmbeddedServer
from realtime.cluster.servers import KEEPALIVE, Server
from realtime.testing.proxy import Proxy
from tests.support import ROOT
from tests.support.redis_servers import RedisServer

FILES = sorted((ROOT / "realtime").rglob("*.lua"))
INCLUDED = {"append", "open"}


def package(path: Path) -> str:
    """Return the package beside whose modules a program is."""
    return ".".join(path.parent.relative_to(ROOT).parts)


@pytest.fixture
def client(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    """A client of an empty server."""
    with redis.Redis(unix_socket_path=str(valkey.socket)) as client:
        client.flushall()
        client.script_flush()
        yield client


@pytest.fixture
async def async_client(valkey: EmbeddedServer) -> AsyncIterator[AsyncRedis]:
    """A client of the running loop."""
    async with AsyncRedis(unix_socket_path=str(valkey.socket)) as client:
        await client.script_flush()
        yield client


def test_there_are_programs() -> None:
    assert len(FILES) == 14


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_program_compiles(path: Path, client: redis.Redis) -> None:
    script = Script(package(path), path.stem)
    assert client.script_load(script.text) == script.digest
    assert "-- include" not in script.text
    assert script.text.count("local function append(") == int(
        path.stem in {"append", "append_once", "take", "save"}
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_program_is_used_by_a_module_beside_it(path: Path) -> None:
    modules = "".join(module.read_text() for module in path.parent.glob("*.py"))
    scripts = re.findall(r"Script\(\s*\"([\w.]+)\", (\w+|\"\w+\")\)", modules)
    assert package(path) in {name for name, _ in scripts}
    assert path.stem in INCLUDED or f'"{path.stem}"' in modules


def test_a_server_that_has_no_program_yet_gets_it(client: redis.Redis) -> None:
    script = Script("realtime.cluster", "beat")
    assert script.call(client, ["key"], "a", 6, 60) == [1, b"a"]
    assert client.script_exists(script.digest) == [True]
    client.script_flush()
    assert script.call(client, ["key"], "b", 6, 60) == [1, b"a", b"b"]


async def test_and_the_same_for_coroutines(async_client: AsyncRedis, client: redis.Redis) -> None:
    script = Script("realtime.cluster", "beat")
    for was_gone in (1, 0):
        assert await script.acall(async_client, ["key"], "a", 6, 60) == [was_gone, b"a"]
    await async_client.script_flush()
    assert await script.acall(async_client, ["key"], "a", 6, 60) == [0, b"a"]


@pytest.mark.parametrize("value", [b"", b"\xff\x00\n", b"x" * 40, b"\x80" * 70_000])
def test_any_bytes_can_be_part_of_an_argument(client: redis.Redis, value: bytes) -> None:
    argument = msgspec.msgpack.encode({"value": as_text(value)})
    assert client.eval("return cmsgpack.unpack(ARGV[1]).value", 0, argument) == value


# Connections that lead to the wrong server


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ReadOnlyError("You can't write against a read only replica."), True),
        (BusyLoadingError("Redis is loading the dataset in memory"), True),
        (MasterDownError("Link with MASTER is down"), True),
        (ClusterDownError("The cluster is down"), True),
        (ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (ResponseError("Error running script (call to f_1): @user_script:1: -READONLY You"), True),
        (ResponseError("UNBLOCKED force unblock from blocking operation"), True),
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), False),
        (ResponseError("ERR unknown command"), False),
        (redis.ConnectionError("Connection refused"), False),
        (None, False),
    ],
)
def test_which_errors_say_that_a_connection_leads_to_the_wrong_server(
    error: Exception | None, expected: bool
) -> None:
    assert is_misled(error) is expected


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    """Two servers that know nothing of each other."""
    with RedisServer(tmp_path / "a") as first, RedisServer(tmp_path / "b") as second:
        yield first, second


def write(client: Any) -> Any:
    """Write in a script, as most of our questions do."""
    return client.eval("return redis.call('SET', KEYS[1], 1)", 1, "key")


@pytest.mark.processes
async def test_after_a_failover_each_connection_is_left_at_its_first_refusal(
    pair: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.cluster.clients.DROP_INTERVAL", 0)
    first, second = pair
    async with Proxy(first.port) as proxy:
        server = Server(f"redis://127.0.0.1:{proxy.port}")

        async def write_all() -> None:
            blocking = [asyncio.to_thread(ask_blocking, server, write) for _ in range(8)]
            await asyncio.gather(*blocking, *(ask(server, write) for _ in range(8)))

        await write_all()  # so that there are many connections
        first.client().replicaof("127.0.0.1", "1")
        proxy.target = second.port
        second.client().config_resetstat()
        for _ in range(3):
            await write_all()
        calls: Any = second.client().info("commandstats")
        assert calls["cmdstat_eval"]["calls"] == 48
        # While the address leads to a server that takes no writes, this is told at once.
        second.client().replicaof("127.0.0.1", "1")
        for question in (ask(server, write), asyncio.to_thread(ask_blocking, server, write)):
            with pytest.raises(Unavailable, match="read only"):
                await question
        second.client().replicaof("NO", "ONE")
        await write_all()
        await close_async_clients()
        sync_client.cache_clear()


@pytest.mark.processes
async def test_while_there_is_only_a_replica_few_connections_are_made(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    server = Server(pair[0].url)
    await ask(server, write)
    await asyncio.to_thread(ask_blocking, server, write)
    pair[0].client().replicaof("127.0.0.1", "1")
    before: Any = pair[0].client().info("stats")
    refused = 0
    for _ in range(200):
        for question in (ask(server, write), asyncio.to_thread(ask_blocking, server, write)):
            with pytest.raises(Unavailable, match="read only"):
                await question
            refused += 1
    after: Any = pair[0].client().info("stats")
    made = after["total_connections_received"] - before["total_connections_received"]
    assert made < refused / 10
    await close_async_clients()
    sync_client.cache_clear()


@pytest.mark.processes
async def test_what_does_not_answer_costs_one_answer_not_one_for_each_connection(
    pair: tuple[RedisServer, RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime.cluster.servers.ANSWER_TIMEOUT", 0.3)
    async with Proxy(pair[0].port) as proxy:
        server = Server(f"redis://127.0.0.1:{proxy.port}/1")
        blocking = [asyncio.to_thread(ask_blocking, server, write) for _ in range(8)]
        await asyncio.gather(*blocking, *(ask(server, write) for _ in range(8)))
        proxy.swallow()
        for question in (ask(server, write), asyncio.to_thread(ask_blocking, server, write)):
            with pytest.raises(Unavailable, match="Timeout"):
                await question
        blocking = [asyncio.to_thread(ask_blocking, server, write) for _ in range(8)]
        await asyncio.gather(*blocking, *(ask(server, write) for _ in range(8)))
        await close_async_clients()
        sync_client.cache_clear()


@pytest.mark.processes
async def test_the_system_looks_whether_the_other_end_is_there(
    pair: tuple[RedisServer, RedisServer],
) -> None:
    server = Server(pair[0].url)
    blocking: Any = sync_client(server).connection_pool
    pool: Any = (await async_client_of(server)).connection_pool
    writer = (await pool.get_connection())._writer
    for connected in (blocking.get_connection()._sock, writer.get_extra_info("socket")):
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        for option, value in KEEPALIVE.items():
            assert connected.getsockopt(socket.IPPROTO_TCP, option) == value
    await close_async_clients()
    sync_client.cache_clear()
