"""Turns of the event loop for connections that have sent much at once."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from realtime.server import fair_queue
from realtime.server.fair_queue import MESSAGE, ROUND, FairQueue
from realtime.testing import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    clock = FakeClock()
    monkeypatch.setattr(fair_queue, "time", clock)
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

    with caplog.at_level(logging.ERROR, logger="realtime.server.fair_queue"):
        clock.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_it_can_be_used_again_after_it_was_empty(clock: FakeClock) -> None:
    async def main() -> None:
        queue = FairQueue()
        for _ in range(2):
            await queue.turn()
            await asyncio.sleep(1)

    clock.run(main())
