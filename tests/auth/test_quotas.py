"""Connections of one holder over all processes, and what happens while nobody answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from django.test import override_settings

from realtime.auth.grants import Grant
from realtime.auth.quotas import ConnectionQuotas
from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable
from realtime.cluster.contract import PROCESSES
from tests.support.layers import IN_MEMORY, close_layer, layer_of, running_valkey

FIRST, SECOND, THIRD = (f"{number:036}" for number in range(3))
LIMITED = Grant("token:1", "rt_1", frozenset({"events"}), max_connections=1)
UNLIMITED = Grant("token:1", "rt_1", frozenset({"events"}))


async def process(name: str) -> ConnectionQuotas:
    """Return the quotas of a process that is there."""
    await get_cluster().beat(PROCESSES, name)
    return ConnectionQuotas(name, asyncio.create_task)


@pytest.fixture(params=["valkey", "in-memory"])
async def cluster(request: pytest.FixtureRequest, data_dir: Path) -> AsyncIterator[None]:
    """Each of the clusters in turn."""
    if request.param == "valkey":
        with running_valkey(data_dir):
            yield
            await close_layer()
    else:
        with override_settings(CHANNEL_LAYERS=IN_MEMORY):
            yield


async def test_a_limit_holds_over_all_processes(cluster: None) -> None:
    p, q = await process("p"), await process("q")
    assert await p.acquire(FIRST, LIMITED)
    assert await p.acquire(FIRST, LIMITED), "it has it already"
    assert not await q.acquire(SECOND, LIMITED)
    assert await q.acquire(SECOND, UNLIMITED)
    p.release(FIRST)
    p.release(FIRST)
    await p.write()
    assert await q.acquire(SECOND, LIMITED)


async def test_a_connection_that_is_there_counts_without_room(cluster: None) -> None:
    p, q = await process("p"), await process("q")
    assert await p.acquire(FIRST, LIMITED)
    q.hold(SECOND, UNLIMITED)
    q.hold(SECOND, LIMITED)
    await q.write()
    p.release(FIRST)
    await p.write()
    assert not await p.acquire(THIRD, LIMITED)


async def test_a_connection_with_another_holder_gives_back_the_first_ones(cluster: None) -> None:
    p, q = await process("p"), await process("q")
    assert await p.acquire(FIRST, LIMITED)
    assert await p.acquire(FIRST, Grant("token:2", "rt_2", frozenset(), max_connections=1))
    await p.write()
    assert await q.acquire(SECOND, LIMITED)


@pytest.mark.processes
async def test_what_could_not_be_written_is_written_later(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with layer_of(data_dir):
        p = ConnectionQuotas("p", asyncio.create_task)
        assert await p.acquire(FIRST, LIMITED), "nobody counts, so each has room"
        assert "counting the connections of token:1" in caplog.text
        with pytest.raises(Unavailable):
            await p.write()
        with running_valkey(data_dir):
            await get_cluster().beat(PROCESSES, "p")
            await p.write()
            q = await process("q")
            assert not await q.acquire(SECOND, LIMITED)
            await close_layer()


@pytest.mark.processes
async def test_all_is_written_again_for_a_server_that_has_forgotten(data_dir: Path) -> None:
    with running_valkey(data_dir):
        p, q = await process("p"), await process("q")
        assert await p.acquire(FIRST, LIMITED)
        await get_cluster().set_connections("p", {(LIMITED.holder, FIRST): False})
        await p.write()
        assert await q.acquire(SECOND, LIMITED)
        q.release(SECOND)
        await q.write()
        await p.write_all()
        assert not await q.acquire(SECOND, LIMITED)
        await close_layer()
