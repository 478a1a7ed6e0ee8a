"""Lua programs: all are found, are programs, and are run by their digests.

What each does is tested with the module that has it: ``test_cluster``, ``log/test_log``,
``publishing/test_deduplication`` and ``analytics/processing/test_runner``.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from redis.asyncio import Redis as AsyncRedis

from realtime.cluster.clients import Script, as_text
from realtime.cluster.embedded import EmbeddedServer
from tests.support import ROOT

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
    assert len(FILES) == 13


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
