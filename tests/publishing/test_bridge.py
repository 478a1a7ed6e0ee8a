"""What another system has numbered goes into the log once, whoever brings it and with what."""

from __future__ import annotations

import asyncio
import uuid

import pytest
import redis as redis_library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.cluster.embedded import EmbeddedServer
from realtime.log import get_log
from realtime.publishing.bridge import BLOCK, take
from realtime.publishing.publication import PublishError
from tests.support.layers import close_layer

pytestmark = pytest.mark.usefixtures("valkey")

NUMBERS = st.integers(0, 5) | st.sampled_from([BLOCK - 1, BLOCK, 3 * BLOCK, 2**53])


def numbered(*numbers: int) -> list[tuple[int, bytes]]:
    """Return messages whose payloads are their numbers."""
    return [(number, b'{"n":%d}' % number) for number in numbers]


@given(batches=st.lists(st.lists(NUMBERS, max_size=8), max_size=8))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_number_once(batches: list[list[int]]) -> None:
    source = str(uuid.uuid4())

    async def take_all() -> None:
        try:
            after = (await get_log().read("events", 2**53)).head
            new = [await take("events", source, numbered(*batch)) for batch in batches]
            chunk = await get_log().read("events", after)
        finally:
            await close_layer()
        expected = list(dict.fromkeys(number for batch in batches for number in batch))
        assert [entry.body for entry in chunk.entries] == [body for _, body in numbered(*expected)]
        assert sum(new) == len(expected)

    asyncio.run(take_all())


async def test_several_that_bring_the_same_at_once() -> None:
    try:
        after = (await get_log().read("alerts", 2**53)).head
        taken = await asyncio.gather(
            *(take("alerts", "same", numbered(*range(n, 60 + n))) for n in range(20))
        )
        assert sum(taken) == 79
        assert (await get_log().read("alerts", after)).head == after + 79
        assert await take("alerts", "another", numbered(*range(60))) == 60
        assert await take("metrics", "same", numbered(*range(60))) == 60
    finally:
        await close_layer()


async def test_what_is_remembered_is_small_and_ends(valkey: EmbeddedServer) -> None:
    try:
        await take("alerts", "small", numbered(*range(2000)))
    finally:
        await close_layer()
    with redis_library.Redis(unix_socket_path=str(valkey.socket)) as asking:
        for key in asking.scan_iter("*:taken:*"):
            assert 0 < asking.ttl(key) <= 7 * 86_400
            assert asking.memory_usage(key) < 20_000


async def test_a_log_that_is_away(valkey: EmbeddedServer) -> None:
    valkey.stop()
    try:
        with pytest.raises(PublishError):
            await take("events", "away", numbered(1))
    finally:
        valkey.ensure_running()
        await close_layer()
