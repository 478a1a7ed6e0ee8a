"""What is kept and for how long; what a restart, a kill or a lost log make of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import (
    TIMEOUT,
    Client,
    Position,
    Server,
    client,
    following,
    newest,
    running,
    wait_until,
)

# Appends to the log what the group is not told of.
APPEND = """
import time
from realtime.log import get_log
from realtime.log.contract import Append, Batch, pack
bodies = [b'{"n":%d}' % n for n in range(count)]
result = get_log().append(Append("events", [Batch(bodies, pack(bodies))])).first
"""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that keeps a hundred messages of each type."""
    with running(
        tmp_path_factory.mktemp("short"), require_auth="false", history_size="100"
    ) as server:
        yield server


@asynccontextmanager
async def resumed(
    server: Server, position: Position, *, recovered: bool, replayed: int, **data: Any
) -> AsyncIterator[Client]:
    """Connect and subscribe with a position; check the answer."""
    async with client(server) as page:
        answer = await page.subscribed("events", resume=position, **data)
        assert (answer["recovered"], answer["replayed"]) == (recovered, replayed)
        yield page


class TestSize:
    """``history_size`` messages of a type are kept."""

    async def test_older_ones_are_lost_and_delivery_starts_at_what_is_kept(
        self, short: Server
    ) -> None:
        start = await newest(short, None)
        sent = short.publish("events", *({"n": n} for n in range(250)))
        async with resumed(short, start, recovered=False, replayed=100) as page:
            await page.assert_positions(sent[-100:])
            await page.assert_positions(short.publish("events", {"n": "live"}))
            await page.assert_silent()

    async def test_exactly_so_many(self, short: Server) -> None:
        sent = short.publish("events", *({"n": n} for n in range(200)))
        async with resumed(short, sent[99], recovered=True, replayed=100) as page:
            await page.assert_positions(sent[100:])
        async with resumed(short, sent[98], recovered=False, replayed=100) as page:
            await page.assert_positions(sent[100:])

    async def test_of_one_message_after_another(self, short: Server) -> None:
        start = await newest(short, None)
        short.publish_singly("events", *({"n": n} for n in range(150)))
        async with resumed(short, start, recovered=False, replayed=100) as page:
            await page.assert_positions(following(start, 150)[-100:])

    async def test_also_if_what_is_lost_would_not_have_matched(self, short: Server) -> None:
        """Nobody knows what it was."""
        start = await newest(short, None)
        sent = short.publish("events", *({"odd": n % 2} for n in range(150)))
        odd = {"odd": 1}
        async with resumed(short, start, recovered=False, replayed=50, filters=odd) as page:
            await page.assert_positions(sent[51::2])

    async def test_of_another_epoch_everything_kept_is_delivered(self, short: Server) -> None:
        sent = short.publish("events", *({"n": n} for n in range(100)))
        stale = {"epoch": "another", "offset": sent[50]["offset"]}
        async with resumed(short, stale, recovered=False, replayed=100) as page:
            await page.assert_positions(sent)

    async def test_a_type_does_not_wear_out_another(self, short: Server) -> None:
        start = await newest(short, None)
        sent = short.publish("events", {"n": 0})
        short.publish("metrics", *({"n": n} for n in range(500)))
        async with resumed(short, start, recovered=True, replayed=1) as page:
            await page.assert_positions(sent)


class TestWhatTheGroupDoesNotBring:
    """It comes from the log, late rather than never; or the client hears that it is lost."""

    async def test_it_is_found_in_the_log(self, short: Server) -> None:
        async with client(short) as page:
            start = await page.subscribed("events")
            short.administer(APPEND, count=100)
            await page.assert_positions(following(start, 100))
            short.administer(APPEND, count=1)
            positions = following(start, 101)[-1:] + short.publish("events", {"n": 0})
            await page.assert_positions(positions)
            await page.assert_silent()

    async def test_what_is_trimmed_meanwhile_is_named(self, short: Server) -> None:
        async with client(short) as page:
            start = await page.subscribed("events")
            subscription_id = await page.subscribe("events")
            short.administer(APPEND, count=250)
            message = await page.receive()
            offset = start["offset"]
            assert message["type"] == "error" and message["subscription_id"] == subscription_id
            assert message["data"] == {
                "error": "Data lost",
                "code": "data_lost",
                "details": {"from": offset + 1, "to": offset + 150, "reason": "trimmed"},
            }
            await page.assert_positions(following(start, 250)[150:])
            await page.assert_positions(short.publish("events", {"n": 0}))
            await page.assert_silent()

    async def test_a_log_that_is_gone_is_another_epoch(self, data_dir: Path) -> None:
        with running(data_dir, require_auth="false") as server:
            async with client(server) as page, client(server) as late:
                await page.subscribe("events")
                sent = server.publish("events", *({"n": n} for n in range(5)))
                await page.assert_positions(sent)
                server.administer(FLUSH)
                error = await page.assert_error("data_lost")
                expected = {"from": 6, "to": None, "reason": "epoch_changed"}
                assert error["details"] == expected
                (first, second) = server.publish("events", {"n": 5}, {"n": 6})
                assert first["epoch"] != sent[0]["epoch"] and first["offset"] == 1
                await page.assert_positions([first, second])
                await page.assert_silent()
                answer = await late.subscribed("events", resume=sent[2])
                assert (answer["recovered"], answer["replayed"]) == (False, 2)
                await late.assert_positions([first, second])


FLUSH = """
from realtime.cluster.clients import sync_client
from realtime.cluster.layer import group_address
sync_client(group_address("events")[0]).flushall()
"""


class TestTime:
    """Messages are kept for ``history_ttl`` seconds."""

    async def test_older_ones_are_lost(self, data_dir: Path) -> None:
        with running(data_dir, require_auth="false", history_ttl="2") as server:
            start = await newest(server, None)
            sent = server.publish("events", *({"n": n} for n in range(10)))
            async with resumed(server, start, recovered=True, replayed=10) as page:
                await page.assert_positions(sent)
                await self.wait_until_lost(server, start)
                # Who is there is told nothing, since it has them; and offsets go on.
                live = server.publish("events", {"n": 10})
                assert live == following(sent[-1], 1)
                await page.assert_positions(live)
            async with resumed(server, sent[-1], recovered=True, replayed=1) as page:
                await page.assert_positions(live)
            async with resumed(server, sent[-2], recovered=False, replayed=1) as page:
                await page.assert_positions(live)
            async with client(server) as page:
                assert (await page.subscribed("events", rewind=1000))["replayed"] == 1

    @staticmethod
    async def wait_until_lost(server: Server, start: Position) -> None:
        """Resume until nothing is replayed; until then it is all or the newer part."""
        deadline = time.monotonic() + TIMEOUT
        replayed = 10
        while replayed:
            assert time.monotonic() < deadline
            async with client(server) as page:
                answer = await page.subscribed("events", resume=start)
            assert answer["replayed"] <= replayed
            replayed = answer["replayed"]
            assert answer["recovered"] == (replayed == 10)
            assert answer["offset"] == start["offset"] + 10
            await asyncio.sleep(0.1)

    async def test_so_are_idempotency_keys(self, data_dir: Path) -> None:
        statements = (
            "from realtime import publish\n"
            "result = publish('events', {'n': 0}, idempotency_key='key').offset"
        )
        with running(data_dir, history_ttl="1") as server:
            first = server.administer(statements)
            assert first == 1
            wait_until(lambda: server.administer(statements) > first)
            assert server.administer(statements) == 2


class TestRestarts:
    """The log survives what runs it."""

    async def test_a_server_that_was_killed(self, data_dir: Path) -> None:
        with running(data_dir, require_auth="false") as server:
            start = await newest(server, None)
            sent = server.publish("events", *({"n": n} for n in range(1000)))
            valkeys = server.valkey()
            server.process.kill()
            server.process.wait()
            wait_until(lambda: not any(valkey.is_running() for valkey in valkeys))
        with running(data_dir, require_auth="false") as server:
            async with resumed(server, start, recovered=True, replayed=1000) as page:
                sent += server.publish("events", {"n": 1000})
                assert sent == following(start, 1001)
                await page.assert_positions(sent)
                await page.assert_silent()

    async def test_a_server_that_was_stopped(self, data_dir: Path) -> None:
        with running(data_dir, require_auth="false") as server:
            start = await newest(server, None)
            sent = server.publish("events", *({"n": n} for n in range(10)))
        with running(data_dir, require_auth="false") as server:
            async with resumed(server, sent[4], recovered=True, replayed=5) as page:
                await page.assert_positions(following(start, 10)[5:])

    async def test_clients_of_the_killed_one_go_on_at_another(self, data_dir: Path) -> None:
        """The other process finds the embedded server gone and starts it again."""
        with (
            running(data_dir, require_auth="false") as first,
            running(data_dir, require_auth="false") as second,
        ):
            second.may_fail = True  # the channel layer logs the outage with a traceback
            async with client(first) as page:
                await page.subscribe("events")
                sent = second.publish("events", *({"n": n} for n in range(10)))
                await page.assert_positions(sent)
                missed = second.publish("events", {"n": 10}, {"n": 11})
                first.process.kill()
            first.process.wait()
            wait_until(lambda: len(second.valkey()) == 1)
            async with resumed(second, sent[-1], recovered=True, replayed=2) as page:
                await page.assert_positions(missed + second.publish("events", {"n": 12}))

    async def test_a_valkey_that_was_killed(self, data_dir: Path) -> None:
        with running(data_dir, require_auth="false") as server:
            server.may_fail = True
            async with client(server) as page:
                start = await page.subscribed("events")
                sent = server.publish("events", *({"n": n} for n in range(100)))
                await page.assert_positions(sent)
                (valkey,) = server.valkey()
                valkey.kill()
                wait_until(lambda: server.try_to_publish("events", {"n": 100}) == "published")
                await page.assert_positions(following(start, 101)[-1:])
            async with resumed(server, sent[49], recovered=True, replayed=51) as page:
                await page.assert_positions(following(start, 101)[50:])
