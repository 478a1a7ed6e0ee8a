"""Turns of connections that have sent much at once, and messages that wait for the application."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from realtime.server import incoming
from realtime.server.incoming import BYTES, MESSAGE, MESSAGES, ROUND, FairQueue, ReceiveQueue
from realtime.testing import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(incoming, "time", clock)
    return clock


async def count_rounds(until: asyncio.Event) -> int:
    """Return how often the loop could serve others before something happened."""
    rounds = 0
    while not until.is_set():
        await asyncio.sleep(0)
        rounds += 1
    return rounds


def test_first_come_first_served(clock: FakeClock) -> None:
    async def main() -> list[str]:
        queue, order, done = FairQueue(), list[str](), asyncio.Event()
        for name in "abc":
            queue.add(partial(order.append, name))
        queue.add(done.set)
        await done.wait()
        return order

    assert clock.run(main()) == ["a", "b", "c"]


def test_others_are_served_after_each_round(clock: FakeClock) -> None:
    async def rounds_of(turns: int) -> int:
        queue, done = FairQueue(), asyncio.Event()
        for _ in range(turns):
            queue.add(lambda: clock.advance(ROUND))
        queue.add(done.set)
        return await count_rounds(done)

    async def main() -> int:
        return await rounds_of(20) - await rounds_of(10)

    assert clock.run(main()) == 10  # each turn takes all of a round


def test_a_message_counts_though_it_is_carried_out_later(clock: FakeClock) -> None:
    async def rounds_of(messages: int) -> int:
        queue, done = FairQueue(), asyncio.Event()
        waiting = [asyncio.ensure_future(queue.turn()) for _ in range(messages)]
        await asyncio.sleep(0)
        queue.add(done.set)
        rounds = await count_rounds(done)
        await asyncio.gather(*waiting)
        return rounds

    in_a_round = round(ROUND / MESSAGE)

    async def main() -> int:
        return await rounds_of(10 * in_a_round) - await rounds_of(in_a_round)

    assert clock.run(main()) == 9


def test_one_that_fails_does_not_stop_the_others(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        queue, done = FairQueue(), asyncio.Event()
        queue.add(lambda: 1 / 0)
        queue.add(done.set)
        await done.wait()

    with caplog.at_level(logging.ERROR, logger="realtime.server.incoming"):
        clock.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_it_can_be_used_again_after_it_was_empty(clock: FakeClock) -> None:
    async def main() -> None:
        queue = FairQueue()
        for _ in range(2):
            await queue.turn()
            await asyncio.sleep(1)

    clock.run(main())


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
