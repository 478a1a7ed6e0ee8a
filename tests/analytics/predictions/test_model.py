"""The thread in which predictors' code is called."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from realtime.analytics.predictions.model import CallThread


@pytest.fixture
def thread() -> Iterator[CallThread]:
    thread = CallThread("predictor of a test")
    yield thread
    thread.close()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def fail(error: BaseException) -> None:
    raise error


async def test_functions_and_coroutine_functions_are_called(thread: CallThread) -> None:
    assert await thread.run(double, 4) == await thread.run(lambda: 8) == 8
    assert await thread.run(threading.current_thread) is not threading.current_thread()
    assert (await thread.run(threading.current_thread)).name == "predictor of a test"


async def test_code_that_is_not_async_is_called_outside_of_a_loop(thread: CallThread) -> None:
    """Else Django's ORM would refuse, and so would ``asyncio.run``."""
    assert await thread.run(lambda: asyncio.run(double(4))) == 8


async def test_what_is_raised_comes_through(thread: CallThread) -> None:
    with pytest.raises(ValueError, match="wrong"):
        await thread.run(fail, ValueError("wrong"))
    for error in (SystemExit(), KeyboardInterrupt(), StopIteration()):
        with pytest.raises(RuntimeError, match="was raised"):
            await thread.run(fail, error)


async def test_a_caller_that_is_cancelled_leaves_the_thread_usable(thread: CallThread) -> None:
    began, may_end = threading.Event(), threading.Event()

    def wait() -> bool:
        began.set()
        return may_end.wait(30)

    calls = [asyncio.create_task(thread.run(wait)) for _ in range(2)]
    assert await asyncio.to_thread(began.wait, 30)
    for call in calls:
        call.cancel()
    may_end.set()
    assert await thread.run(double, 1) == 2
    assert all(call.cancelled() for call in calls)
