"""The messages of a client that the application has not taken yet."""

from __future__ import annotations

import asyncio

import pytest

from realtime.server.fair_queue import FairQueue
from realtime.server.receive_queue import BYTES, MESSAGES, ReceiveQueue


async def test_messages_come_in_order() -> None:
    queue = ReceiveQueue(FairQueue())
    for number in range(5):
        queue.put({"n": number}, 1)
    assert [await queue.get() for _ in range(5)] == [{"n": number} for number in range(5)]
    assert len(queue) == 0


async def test_a_reader_waits_for_a_message() -> None:
    queue = ReceiveQueue(FairQueue())
    reader = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    queue.put({"n": 1}, 1)
    queue.put({"n": 2}, 1)  # while the first has not been taken
    assert await reader == {"n": 1}
    assert await queue.get() == {"n": 2}


async def test_a_reader_that_was_cancelled_takes_nothing() -> None:
    queue = ReceiveQueue(FairQueue())
    reader = asyncio.ensure_future(queue.get())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    queue.put({"n": 1}, 1)
    assert await queue.get() == {"n": 1}


@pytest.mark.parametrize(("count", "size"), [(MESSAGES, 0), (2, BYTES // 2)])
async def test_full_and_low(count: int, size: int) -> None:
    queue = ReceiveQueue(FairQueue())
    for number in range(count):
        assert not queue.is_full()
        queue.put({"n": number}, size)
    assert queue.is_full() and not queue.is_low()
    assert len(queue) == count * size
    await queue.get()
    assert not queue.is_full()
    while not queue.is_low():
        await queue.get()
    assert len(queue) == count // 2 * size


async def test_messages_that_wait_take_turns() -> None:
    """Two connections that have sent much are served alternately."""
    fair_queue = FairQueue()
    order: list[str] = []

    async def serve(name: str, queue: ReceiveQueue) -> None:
        for _ in range(3):
            await queue.get()
            order.append(name)

    queues = {name: ReceiveQueue(fair_queue) for name in "ab"}
    for queue in queues.values():
        for _ in range(3):
            queue.put({}, 0)
    await asyncio.gather(*(serve(name, queue) for name, queue in queues.items()))
    assert order == ["a", "b"] * 3


async def test_what_is_dropped_is_gone() -> None:
    queue = ReceiveQueue(FairQueue())
    queue.put({"n": 1}, BYTES)
    queue.clear()
    assert len(queue) == 0 and queue.is_low()
    queue.put({"n": 2}, 0)
    assert await queue.get() == {"n": 2}
