"""Database work off the event loop: bounded for the caller, whatever becomes of its thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
from django.db import InterfaceError, OperationalError

from realtime.database import MAX_HANGING, THREADS, Database, Unavailable


@pytest.fixture
def database() -> Iterator[Database]:
    """A database that has a tenth of a second to answer."""
    database = Database(timeout=0.1)
    yield database
    database.close()


@pytest.fixture
def recovery() -> Iterator[threading.Event]:
    """What calls that hang wait for; it comes at the end of the test at the latest."""
    event = threading.Event()
    yield event
    event.set()


async def expect_unavailable(database: Database, recovery: threading.Event) -> None:
    """Make a call that hangs until the recovery."""
    with pytest.raises(Unavailable):
        await database.run(recovery.wait)


def own_threads() -> list[threading.Thread]:
    """Return the threads that serve databases."""
    return [thread for thread in threading.enumerate() if "realtime-database" in thread.name]


async def test_a_call_returns_what_the_function_returns(database: Database) -> None:
    assert await database.run(divmod, 7, 2) == (3, 1)
    assert await database.run(threading.current_thread) is not threading.current_thread()


async def test_an_error_of_the_database_is_told_apart_from_others(database: Database) -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(Unavailable, match="gone"):
        await database.run(fail, OperationalError("gone"))
    with pytest.raises(KeyError):
        await database.run(fail, KeyError("no such thing"))


async def test_a_call_on_a_connection_that_broke_is_tried_again(database: Database) -> None:
    tries: list[int] = []

    def break_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise InterfaceError("connection already closed")
        return "done"

    assert await database.run(break_once) == "done"


async def test_other_calls_go_on_while_some_hang(
    database: Database, recovery: threading.Event
) -> None:
    hanging = [
        asyncio.create_task(expect_unavailable(database, recovery)) for _ in range(THREADS - 1)
    ]
    for _ in range(10):
        assert await database.run(abs, -1) == 1
    await asyncio.gather(*hanging)


async def test_calls_that_never_end_do_not_keep_the_database_away(
    database: Database, recovery: threading.Event
) -> None:
    await asyncio.gather(*(expect_unavailable(database, recovery) for _ in range(3 * THREADS)))
    assert await database.run(abs, -1) == 1  # the database is back; those calls are not


async def test_calls_that_never_end_take_a_bounded_number_of_threads(
    database: Database, recovery: threading.Event
) -> None:
    before = len(own_threads())
    for _ in range(MAX_HANGING // THREADS + 2):
        calls = (expect_unavailable(database, recovery) for _ in range(THREADS))
        await asyncio.gather(*calls)
    assert len(own_threads()) - before <= MAX_HANGING + THREADS
    recovery.set()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert await database.run(abs, -1) == 1
            break
        except Unavailable:
            assert time.monotonic() < deadline


async def test_a_caller_that_leaves_is_not_waited_for(
    database: Database, recovery: threading.Event
) -> None:
    for _ in range(2 * THREADS):
        call = asyncio.create_task(database.run(recovery.wait))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    assert await database.run(abs, -1) == 1
