"""Members among others, and processes that answer questions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from django.test import override_settings

from realtime.cluster import get_cluster
from realtime.cluster import redis as redis_cluster
from realtime.cluster.clients import Unavailable
from realtime.cluster.contract import Answers
from realtime.cluster.embedded import EmbeddedServer
from realtime.cluster.membership import Membership, Process
from realtime.tasks import end
from tests.support.layers import IN_MEMORY, close_layer, layer_of


def ask_all(question: bytes) -> Answers:
    return get_cluster().ask_all(question)


async def echo(question: bytes) -> bytes:
    if question == b"fail":
        raise ValueError("a mistake")
    return question * 2


async def test_with_a_layer_in_memory_this_process_is_asked_itself() -> None:
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        process = Process(echo)
        assert await process.beat() == ([process.name], False)
        listening = asyncio.create_task(process.listen())
        await asyncio.sleep(0)
        answers = await asyncio.to_thread(ask_all, b"hm")
        assert answers == ({process.name: b"hmhm"}, [])
        await end(listening)
        await process.leave()
        assert await asyncio.to_thread(ask_all, b"hm") == ({}, [])


async def test_a_question_that_fails_does_not_end_the_answers(
    valkey: object, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(echo)
    await process.beat()
    listening = asyncio.create_task(process.listen())
    assert (await asyncio.to_thread(ask_all, b"fail")).missing == [process.name]
    assert "a mistake" in caplog.text
    question = b"line\nand another"
    assert (await asyncio.to_thread(ask_all, question)).by_process == {process.name: question * 2}
    await end(listening)
    await process.leave()
    assert await asyncio.to_thread(ask_all, b"hm") == ({}, [])
    await close_layer()


async def test_a_process_learns_that_it_was_taken_for_gone(
    valkey: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Process(echo)
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
        process = Process(echo)
        listening = asyncio.create_task(process.listen())
        with pytest.raises(Unavailable):
            await asyncio.to_thread(ask_all, b"hm")
        server = EmbeddedServer(data_dir)
        server.ensure_running()
        try:
            await process.beat()
            answers: list[bytes] = []

            def is_answered() -> bool:
                answers[:] = ask_all(b"hm").by_process.values()
                return bool(answers)

            await asyncio.to_thread(lambda: [None for _ in iter(is_answered, True)])
            assert answers == [b"hmhm"]
        finally:
            await end(listening)
            await close_layer()
            server.stop()
