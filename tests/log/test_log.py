"""The log: one promise of Valkey's and of the one in memory, then what only Valkey's can keep."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_library
from channels.layers import get_channel_layer

from realtime import PublishError, apublish, publish, publish_many
from realtime.cluster import servers
from realtime.cluster.clients import Unavailable
from realtime.cluster.embedded import EmbeddedServer
from realtime.log import Log, get_log
from realtime.log.contract import (
    READ_BYTES,
    READ_ENTRIES,
    Append,
    Batch,
    MemoryLog,
    pack,
    read_position,
)
from realtime.log.redis import RedisLog
from realtime.protocol import SUBSCRIPTION_TYPES, Position
from realtime.publishing.publication import MAX_APPEND_MESSAGES
from tests.support import ROOT, TIMEOUT, environment, wait_until
from tests.support.layers import Configure, close_layer, layer_of, running_valkey, until

# Seconds: a connection and an answer, each waited for once; see ``realtime.cluster.servers``.
FAILS_WITHIN = servers.CONNECT_TIMEOUT + servers.ANSWER_TIMEOUT + 1


class Clock:
    """The time that a log sees. A server's own clock stays: all that it has gets older instead."""

    def __init__(self) -> None:
        self.server: EmbeddedServer | None = None
        self._passed = 0.0

    def time(self) -> float:
        """Return the time."""
        return time.time() + self._passed

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._passed += seconds
        if self.server is None:
            return
        milliseconds = int(1000 * seconds)
        with asking(self.server) as server:
            for key in list(server.scan_iter()):
                left = server.pttl(key)
                if server.type(key) == b"stream":
                    entries = server.xrange(key)
                    server.delete(key)
                    for entry_id, fields in entries:
                        last, _, time_ = entry_id.decode().partition("-")
                        server.xadd(key, fields, f"{last}-{int(time_) - milliseconds}")
                elif server.type(key) == b"hash" and server.hexists(key, "time"):
                    server.hincrby(key, "time", -milliseconds)
                if left >= 0:
                    server.pexpire(key, left - milliseconds)  # at once if none is left


def asking(server: EmbeddedServer) -> redis_library.Redis:
    """Return a client of the test's own."""
    return redis_library.Redis(unix_socket_path=str(server.socket))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The log's clock."""
    clock = Clock()
    monkeypatch.setattr("realtime.log.contract.time", clock)
    return clock


@pytest.fixture
def stored(valkey: EmbeddedServer, clock: Clock) -> RedisLog:
    """The log of an empty server."""
    clock.server = valkey
    with asking(valkey) as server:
        server.flushall()
    return RedisLog()


@pytest.fixture(params=["valkey", "in-memory"])
def log(request: pytest.FixtureRequest, clock: Clock) -> Log:
    """Each of the logs in turn, empty."""
    if request.param == "valkey":
        stored: RedisLog = request.getfixturevalue("stored")
        return stored
    return MemoryLog()


@pytest.fixture(autouse=True)
async def closing() -> AsyncIterator[None]:
    """Close what a test has opened."""
    yield
    await close_layer()


def batch(*bodies: bytes) -> Batch:
    """Return messages that are kept as one piece."""
    return Batch(bodies, pack(bodies))


def numbered(start: int, end: int) -> list[bytes]:
    """Return bodies that tell their offsets."""
    return [b"%d" % number for number in range(start, end)]


async def append(log: Log, *bodies: bytes, kind: str = "events", **once: Any) -> Position:
    """Append messages as one piece."""
    return (await log.aappend(Append(kind, [batch(*bodies)], **once))).first


async def read_all(log: Log, after: int = 0, kind: str = "events") -> dict[int, bytes]:
    """Read to the end, in as many reads as it takes: offset -> body."""
    found: dict[int, bytes] = {}
    while True:
        chunk = await log.read(kind, after)
        found |= dict(enumerate((entry.body for entry in chunk.entries), chunk.first))
        after = chunk.first + len(chunk.entries) - 1
        if after >= chunk.head:
            return found


def expected(start: int, end: int) -> dict[int, bytes]:
    """Return what is read of :func:`numbered` messages."""
    return dict(zip(range(start, end), numbered(start, end), strict=True))


# Offsets and epoch


async def test_offsets_are_dense_from_1_in_one_epoch(log: Log) -> None:
    positions = [await append(log, body) for body in numbered(1, 4)]
    positions.append(log.append(Append("events", [batch(*numbered(4, 9))])).first)
    positions.append(await append(log, b"9"))
    assert [position.offset for position in positions] == [1, 2, 3, 4, 9]
    [epoch] = {position.epoch for position in positions}
    assert epoch
    chunk = await log.read("events", 0)
    assert (chunk.epoch, chunk.head, chunk.first) == (epoch, 9, 1)
    assert await log.heads(["events"]) == {"events": Position(epoch, 9)}
    assert await read_all(log) == expected(1, 10)


async def test_each_type_has_a_log_of_its_own(log: Log) -> None:
    for count, kind in enumerate(SUBSCRIPTION_TYPES, 1):
        for number in range(1, count + 1):
            assert (await append(log, b"%d" % number, kind=kind)).offset == number
    heads = await log.heads(SUBSCRIPTION_TYPES)
    assert [heads[kind].offset for kind in SUBSCRIPTION_TYPES] == [1, 2, 3, 4, 5, 6]
    assert len({position.epoch for position in heads.values()}) == 6
    for count, kind in enumerate(SUBSCRIPTION_TYPES, 1):
        assert await read_all(log, kind=kind) == expected(1, count + 1)


async def test_many_are_appended_in_one_call(log: Log) -> None:
    await append(log, b"1")
    batches = [batch(*numbered(2, 1002)), batch(b"1002"), batch(*numbered(1003, 1500))]
    position = (await log.aappend(Append("events", batches))).first
    assert position.offset == 2
    assert (await log.heads(["events"]))["events"] == Position(position.epoch, 1499)
    assert await read_all(log) == expected(1, 1500)


async def test_bodies_and_times_come_back_as_they_were(log: Log) -> None:
    bodies = [b"", b"\x00\xff\r\n", "é\U0001f600".encode(), b"x" * 3_000_000]
    appended = await log.aappend(Append("events", [batch(*bodies)]))
    last = await log.aappend(Append("events", [batch(b"last")]))
    assert time.time() - 5 < appended.timestamp <= last.timestamp < time.time() + 5
    chunk = await log.read("events", 0)
    assert last.timestamp <= chunk.time < time.time() + 5
    chunk.entries.extend((await log.read("events", len(chunk.entries))).entries)
    assert [entry.body for entry in chunk.entries] == [*bodies, b"last"]
    times = [entry.timestamp for entry in chunk.entries]
    assert times == [appended.timestamp] * 4 + [last.timestamp]


async def test_an_empty_log_is_at_0(log: Log) -> None:
    chunk = await log.read("events", 0)
    assert (chunk.head, chunk.first, chunk.entries) == (0, 1, [])
    assert await log.heads(["events"]) == {"events": Position(chunk.epoch, 0)}
    assert (await append(log, b"1")) == Position(chunk.epoch, 1)


async def test_of_no_types_there_are_no_heads(log: Log) -> None:
    assert await log.heads([]) == {}


# Reading


@pytest.mark.parametrize("after", [0, 1, 2, 6, 7, 9, 10, 11, 1000, 2**53])
async def test_what_is_after_an_offset_is_read(log: Log, after: int) -> None:
    for start, end in ((1, 2), (2, 7), (7, 8), (8, 11)):  # also from the middle of a batch
        await append(log, *numbered(start, end))
    chunk = await log.read("events", after)
    first = min(after + 1, 11)
    assert (chunk.head, chunk.first) == (10, first)
    assert [entry.body for entry in chunk.entries] == numbered(first, 11)


async def test_a_read_gives_so_many_messages_at_most(log: Log) -> None:
    count = 2 * READ_ENTRIES + 3
    for body in numbered(1, count):
        await append(log, body)
    chunk = await log.read("events", 0)
    assert [entry.body for entry in chunk.entries] == numbered(1, READ_ENTRIES + 1)
    chunk = await log.read("events", READ_ENTRIES)
    assert chunk.first == READ_ENTRIES + 1 and len(chunk.entries) == READ_ENTRIES
    assert await read_all(log) == expected(1, count)


async def test_a_read_gives_so_many_bytes_about(log: Log) -> None:
    size = READ_BYTES // 4
    for number in range(10):
        await append(log, b"%d" % number * size)
    chunk = await log.read("events", 0)
    assert READ_BYTES <= sum(len(entry.body) for entry in chunk.entries) < READ_BYTES + size
    assert list(await read_all(log)) == list(range(1, 11))


async def test_a_message_larger_than_a_read_is_read(log: Log) -> None:
    bodies = [b"x" * 3 * READ_BYTES, b"", b"y" * 3 * READ_BYTES]
    for body in bodies:
        await append(log, body)
    assert list((await read_all(log)).values()) == bodies


# Retention


@pytest.mark.parametrize("sizes", [[1] * 12, [12], [5, 7], [11, 1], [3, 9], [1, 10, 1]])
async def test_only_the_newest_are_read(log: Log, configure: Configure, sizes: list[int]) -> None:
    configure(history_size="5")
    start = 1
    for size in sizes:
        await append(log, *numbered(start, start + size))
        start += size
    for after in range(8):
        chunk = await log.read("events", after)
        assert (chunk.head, chunk.first) == (12, 8)
        assert [entry.body for entry in chunk.entries] == numbered(8, 13)
    assert await read_all(log, 9) == expected(10, 13)


async def test_what_has_expired_is_not_read(log: Log, clock: Clock, configure: Configure) -> None:
    configure(history_ttl="60")
    first = await append(log, *numbered(1, 4))
    clock.advance(59)
    assert await read_all(log) == expected(1, 4)
    clock.advance(2)
    chunk = await log.read("events", 0)
    assert chunk[:4] == (first.epoch, 3, 4, [])
    assert await log.heads(["events"]) == {"events": Position(first.epoch, 3)}
    assert await append(log, b"4") == Position(first.epoch, 4)
    assert await read_all(log) == expected(4, 5)


async def test_what_has_expired_in_front_of_newer_messages_is_not_read(
    log: Log, clock: Clock, configure: Configure
) -> None:
    configure(history_ttl="60")
    await append(log, *numbered(1, 4))
    clock.advance(40)
    await append(log, *numbered(4, 6))
    clock.advance(30)
    for after in (0, 1, 3):
        chunk = await log.read("events", after)
        assert (chunk.head, chunk.first) == (5, 4)
        assert [entry.body for entry in chunk.entries] == numbered(4, 6)


@pytest.mark.parametrize(("back", "is_followed"), [(1, False), (50, False), (120, True)])
async def test_a_servers_clock_that_is_put_back(
    log: Log, clock: Clock, back: float, is_followed: bool
) -> None:
    """Times do not fall, unless the clock was so wrong before that it is better to follow it."""
    first = (await log.aappend(Append("events", [batch(b"1")]))).timestamp
    clock.advance(-back)
    now = (await log.read("events", 0)).time
    second = (await log.aappend(Append("events", [batch(b"2")]))).timestamp
    if is_followed:
        assert second == pytest.approx(first if log_is_stored(log) else first - back, abs=5)
    else:
        assert second >= now >= first
        assert second == pytest.approx(first + (back if log_is_stored(log) else 0), abs=5)
    clock.advance(back + 1)
    assert (await log.aappend(Append("events", [batch(b"3")]))).timestamp > second - back
    assert await read_all(log) == expected(1, 4)


def log_is_stored(log: Log) -> bool:
    """Tell whether what the log has gets older, instead of the clock."""
    return isinstance(log, RedisLog)


async def test_a_publishers_clock_changes_nothing(
    log: Log, monkeypatch: pytest.MonkeyPatch, configure: Configure
) -> None:
    """Neither what is retained, nor when it was published: the log's clock counts."""
    configure(history_ttl="60")
    right = time.time
    for wrong in (3700, 864_000, -3700):
        await append(log, b"right")
        with monkeypatch.context() as patch:
            if log_is_stored(log):
                patch.setattr(time, "time", lambda wrong=wrong: right() + wrong)
            await append(log, b"wrong")
    chunk = await log.read("events", 0)
    assert len(chunk.entries) == 6
    assert all(abs(entry.timestamp - time.time()) < 5 for entry in chunk.entries)


async def test_what_has_expired_is_removed_when_nothing_more_comes(
    stored: RedisLog, valkey: EmbeddedServer, clock: Clock, configure: Configure
) -> None:
    configure(history_ttl="60")
    await append(stored, *numbered(1, 1000))
    clock.advance(61)
    with asking(valkey) as server:
        assert [server.type(key) for key in server.scan_iter()] == [b"hash"]  # epoch and offset


async def test_what_has_expired_in_front_of_newer_messages_is_removed(
    stored: RedisLog, valkey: EmbeddedServer, clock: Clock, configure: Configure
) -> None:
    configure(history_ttl="60")
    for body in numbered(1, 201):
        await append(stored, body)
    clock.advance(40)
    await append(stored, b"201")
    clock.advance(30)
    for body in numbered(202, 400):
        await append(stored, body)
    assert stream_length(valkey) == 199
    assert await read_all(stored) == expected(201, 400)


async def test_the_server_keeps_little_more_than_the_history(
    stored: RedisLog, valkey: EmbeddedServer, configure: Configure
) -> None:
    configure(history_size="10")
    for body in numbered(1, 1000):
        await append(stored, body)
    assert stream_length(valkey) <= 10 + 100  # the server removes a hundred at a time
    assert await read_all(stored) == expected(990, 1000)


@pytest.mark.parametrize("sizes", [[], [1], [15], [16], [1000], [70_000], [3, 1, 300], [1] * 40])
async def test_as_long_as_what_can_be_read(log: Log, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        start = sum(sizes[:number]) + 1
        for first in range(start, start + size, 1000):
            await append(log, *numbered(first, min(first + 1000, start + size)))
    retained = min(sum(sizes), 10_000)
    assert await log.lengths(["events", "alerts"]) == {"events": retained, "alerts": 0}
    assert len(await read_all(log)) == retained


@pytest.mark.parametrize("size", ["3", "50", "1000"])
@pytest.mark.parametrize("passing", [0, 5, 30, 59, 61, 90, 119, 121])
async def test_as_long_as_what_has_not_expired(
    log: Log, clock: Clock, configure: Configure, size: str, passing: float
) -> None:
    configure(history_ttl="60", history_size=size)
    for number in range(60):  # 1, 2, 3, 1, ... messages a second
        await append(log, *numbered(0, number % 3 + 1))
        clock.advance(1)
    clock.advance(passing)
    assert await log.lengths(["events"]) == {"events": len(await read_all(log))}


async def test_of_no_types_there_are_no_lengths(log: Log) -> None:
    assert await log.lengths([]) == {}


def stream_length(server: EmbeddedServer) -> int:
    """Return how many entries the streams of the server have."""
    with asking(server) as client:
        return sum(client.xlen(key) for key in client.scan_iter(_type="stream"))


# Once


@pytest.mark.parametrize("again", ["append", "aappend"])
async def test_the_same_again_gives_the_first_position(log: Log, again: str) -> None:
    await append(log, b"1")
    batches = [batch(*numbered(2, 5)), batch(b"5")]
    what = Append("events", batches, once="the same")
    first = log.append(what).first
    for _ in range(3):
        await append(log, b"another")
        repeated = Append("events", [batch(b"other")], once="the same")
        appended = log.append(repeated) if again == "append" else await log.aappend(repeated)
        assert appended.first == first == Position(first.epoch, 2)
    found = await read_all(log)
    assert list(found.values()) == [*numbered(1, 6), *[b"another"] * 3]


async def test_what_is_the_same_belongs_to_its_type(log: Log) -> None:
    await append(log, b"1")
    positions = [await append(log, b"x", kind=kind, once="a") for kind in ("events", "metrics")]
    assert [position.offset for position in positions] == [2, 1]


async def test_a_log_that_lost_it_gets_it_again(log: Log) -> None:
    first = await append(log, b"1", once="a", once_ttl=60)
    await log.renew("events", Position(first.epoch, 2))  # there was more, and it is gone
    again = await append(log, b"1", once="a", once_ttl=60)
    assert again.offset == 1 and again.epoch != first.epoch
    assert await append(log, b"1", once="a", once_ttl=60) == again
    assert await read_all(log) == expected(1, 2)


async def test_it_is_forgotten_after_its_time(log: Log, clock: Clock) -> None:
    await append(log, b"1", once="a", once_ttl=60)
    clock.advance(59)
    assert (await append(log, b"2", once="a", once_ttl=60)).offset == 1
    clock.advance(2)
    assert (await append(log, b"2", once="a", once_ttl=60)).offset == 2
    assert await read_all(log) == expected(1, 3)


async def test_many_identifications_are_told_apart_and_forgotten(log: Log, clock: Clock) -> None:
    for number in range(1, 3001):
        assert (await append(log, b"", once=f"a{number}", once_ttl=60)).offset == number
    assert (await append(log, b"", once="a1")).offset == 1
    clock.advance(61)
    assert (await append(log, b"", once="a1")).offset == 3001


async def test_appends_of_their_own_are_not_the_same(log: Log) -> None:
    whats = [Append("events", [batch(b"same")]) for _ in range(100)]
    assert [log.append(what).first.offset for what in whats] == list(range(1, 101))


# A new epoch


async def test_a_log_that_has_lost_nothing_goes_on(log: Log) -> None:
    position = await append(log, *numbered(1, 4))
    for seen in (position, Position(position.epoch, 3), Position("unknown", 9), Position("", 9)):
        await log.renew("events", seen)
    assert await log.heads(["events"]) == {"events": Position(position.epoch, 3)}
    assert await read_all(log) == expected(1, 4)


async def test_a_log_that_has_lost_messages_begins_anew_once(log: Log) -> None:
    lost = Position((await append(log, *numbered(1, 4))).epoch, 4)
    await log.renew("events", lost)
    chunk = await log.read("events", 0)
    assert chunk.epoch not in ("", lost.epoch)
    assert chunk[1:4] == (0, 1, [])
    assert await append(log, b"1") == Position(chunk.epoch, 1)
    await log.renew("events", lost)  # of another process that has seen it too
    assert await log.heads(["events"]) == {"events": Position(chunk.epoch, 1)}
    assert await read_all(log) == expected(1, 2)


# At once


async def test_threads_get_dense_and_unique_offsets(log: Log) -> None:
    start = threading.Barrier(8)

    def append_fifty(thread: int) -> dict[int, bytes]:
        start.wait(TIMEOUT)
        appended = {}
        for number in range(50):
            body = b"%d %d" % (thread, number)
            appended[log.append(Append("events", [batch(body)])).first.offset] = body
        return appended

    with ThreadPoolExecutor(8) as threads:
        loop = asyncio.get_running_loop()
        works = (loop.run_in_executor(threads, append_fifty, n) for n in range(8))
        appended: dict[int, bytes] = {}
        for its in await asyncio.gather(*works):
            appended |= its
    assert sorted(appended) == list(range(1, 401))
    assert await read_all(log) == appended


async def test_tasks_get_dense_and_unique_offsets(log: Log) -> None:
    positions = await asyncio.gather(*(append(log, b"%d" % n) for n in range(100)))
    assert sorted(position.offset for position in positions) == list(range(1, 101))
    found = await read_all(log)
    assert [found[position.offset] for position in positions] == numbered(0, 100)


PUBLISH_100 = """
import django; django.setup()
from realtime import publish, publish_many
for n in range(50):
    print(publish("events", {"n": n}).offset)
print(*(position.offset for position in publish_many("events", [{}] * 50)), sep="\\n")
"""


async def test_processes_get_dense_and_unique_offsets(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    variables = {"DJANGO_SETTINGS_MODULE": "streaming_site.settings"}
    processes = [
        subprocess.Popen(  # noqa: ASYNC220 - takes a moment, and nothing else is running
            [sys.executable, "-c", PUBLISH_100],
            env=environment(valkey.socket.parent, **variables),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    offsets = [[int(line) for line in output.splitlines()] for output in outputs]
    assert all(its == sorted(its) for its in offsets)
    assert sorted(offset for its in offsets for offset in its) == list(range(1, 401))


# Valkey alone: round trips and scripts


@contextmanager
def commands_to(server: EmbeddedServer) -> Iterator[list[dict[str, Any]]]:
    """Note which commands the server carries out; those inside of scripts are of type ``lua``."""
    seen: list[dict[str, Any]] = []
    with asking(server) as client, client.monitor() as monitor, asking(server) as marker:
        yield seen
        marker.echo("the end")
        for command in monitor.listen():
            if command["command"] == "ECHO the end":
                return
            seen.append(command)


def sent(commands: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of the commands that clients sent; those of connecting aside."""
    names = [c["command"].split()[0] for c in commands if c["client_type"] != "lua"]
    return [name for name in names if name not in ("CLIENT", "HELLO")]


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (MAX_APPEND_MESSAGES, 1), (12_000, 3)])
async def test_an_append_is_one_round_trip(
    stored: RedisLog, valkey: EmbeddedServer, count: int, calls: int
) -> None:
    publish("events", {})
    with commands_to(valkey) as commands:
        publish_many("events", [{"n": n} for n in range(count)])
    assert sent(commands) == ["EVALSHA"] * calls
    published = [c for c in commands if c["command"].startswith("PUBLISH ")]
    assert published and {command["client_type"] for command in published} == {"lua"}


async def test_a_coroutines_append_is_one_round_trip(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    await apublish("events", {})
    with commands_to(valkey) as commands:
        await apublish("events", {"n": 1}, idempotency_key="a")
        await apublish("events", {"n": 1}, idempotency_key="a")
    assert sent(commands) == ["EVALSHA"] * 2
    assert sum(command["command"].startswith("PUBLISH ") for command in commands) == 1


async def test_heads_of_all_types_are_one_round_trip(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    await append(stored, b"1")
    with commands_to(valkey) as commands:
        heads = await stored.heads(SUBSCRIPTION_TYPES)
    assert sent(commands) == ["HMGET"] * len(SUBSCRIPTION_TYPES) + ["DEL"]
    assert heads["events"].offset == 1 and heads["metrics"] == Position("", 0)


async def test_lengths_of_all_types_are_one_round_trip(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    for _ in range(100):
        await append(stored, b"1", b"2")
    with commands_to(valkey) as commands:
        lengths = await stored.lengths(SUBSCRIPTION_TYPES)
    assert sent(commands) == ["EVAL"] * len(SUBSCRIPTION_TYPES) + ["DEL"]
    # Counted without looking at the messages.
    assert sum(command["command"].startswith("XRANGE") for command in commands) == len(lengths)
    assert lengths["events"] == 200


async def test_what_is_announced_has_the_position_that_is_returned(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    with asking(valkey) as server, server.pubsub() as listening:
        listening.subscribe("realtime__group__realtime.events")
        assert listening.get_message(timeout=TIMEOUT)
        positions = [publish("events", {"n": 1}), await apublish("events", {"n": 2})]
        layer = get_channel_layer()
        for n, position in enumerate(positions, 1):
            announced = listening.get_message(timeout=TIMEOUT)
            assert announced is not None
            message = layer.deserialize(announced["data"])
            assert message["type"] == "stream.batch"
            assert read_position(message["position"]) == position
            assert message["messages"] == pack([b'{"n":%d}' % n])


async def test_forgotten_scripts_are_sent_again(stored: RedisLog, valkey: EmbeddedServer) -> None:
    for number in range(1, 7, 2):
        with asking(valkey) as server:
            server.script_flush()
            what = Append("events", [batch(b"%d" % number)])
            assert stored.append(what).first.offset == number
            server.script_flush()
            assert (await append(stored, b"%d" % (number + 1))).offset == number + 1
            server.script_flush()
            assert await read_all(stored) == expected(1, number + 2)
            server.script_flush()
            await stored.renew("events", Position("unknown", 0))


async def test_a_flushed_server_has_a_new_epoch(stored: RedisLog, valkey: EmbeddedServer) -> None:
    epochs = set()
    for first in ("read", "append"):
        with asking(valkey) as server:
            server.flushall()
        assert await stored.heads(["events"]) == {"events": Position("", 0)}
        if first == "read":
            assert (await stored.read("events", 7))[1:4] == (0, 1, [])
        positions = [await append(stored, b"1"), await append(stored, b"2")]
        assert [position.offset for position in positions] == [1, 2]
        assert await read_all(stored) == expected(1, 3)
        epochs |= {position.epoch for position in positions}
    assert len(epochs) == 2


async def test_a_log_whose_head_is_lost_shows_nothing_of_the_old(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    old = await append(stored, *numbered(1, 6))
    with asking(valkey) as server:
        [head] = server.scan_iter(_type="hash")
        server.delete(head)
    assert await stored.lengths(["events"]) == {"events": 0}
    new = await append(stored, b"1")
    assert new.offset == 1 and new.epoch != old.epoch
    assert await read_all(stored) == expected(1, 2)


async def test_offsets_beyond_the_exact_numbers_of_short_floats(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    await append(stored, b"1")
    with asking(valkey) as server:
        [head] = server.scan_iter(_type="hash")
        server.hset(head, "offset", str(10**15))  # a million a second for thirty years
    position = await append(stored, b"a", b"b")
    assert position.offset == 10**15 + 1
    assert await read_all(stored, 10**15) == {10**15 + 1: b"a", 10**15 + 2: b"b"}
    assert await read_all(stored, 10**15 + 1) == {10**15 + 2: b"b"}
    assert await stored.lengths(["events"]) == {"events": 2}


# Valkey alone: when it does not answer


def process_id(server: EmbeddedServer) -> int:
    """Return the id of the server's process."""
    with asking(server) as client:
        return int(client.info("server")["process_id"])


@pytest.mark.processes
async def test_a_killed_server_comes_back_with_every_confirmed_message(data_dir: Path) -> None:
    with running_valkey(data_dir) as server:
        log = RedisLog()
        first = publish("events", {"n": 1}, idempotency_key="the first")
        assert first is not None
        for round_ in range(3):
            publish_many("events", [{}] * 500)
            confirmed = publish("events", {"round": round_})
            os.kill(process_id(server), signal.SIGKILL)
            wait_until(lambda: not server.is_running())
            with pytest.raises(PublishError):
                publish("events", {"n": "nobody confirms this"})
            server.ensure_running()
            assert await log.heads(["events"]) == {"events": confirmed}
        assert list(await read_all(log)) == list(range(1, 1 + 3 * 501 + 1))
        assert publish("events", {"n": 1}, idempotency_key="the first") == first
        await close_layer()


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    """Run something on a socket that is no Valkey."""

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


async def expect_unavailable(log: Log) -> None:
    """Check that every call says in good time that it does not get an answer."""
    what = Append("events", [batch(b"1")])
    for _ in range(2):
        async with asyncio.timeout(FAILS_WITHIN):
            with pytest.raises(Unavailable):
                await log.aappend(what)
        async with asyncio.timeout(FAILS_WITHIN):
            with pytest.raises(Unavailable):
                await log.read("events", 0)
        async with asyncio.timeout(FAILS_WITHIN):
            assert await log.heads(["events", "metrics"]) == {}
            assert await log.lengths(["events", "metrics"]) == {}
        async with asyncio.timeout(FAILS_WITHIN):
            with pytest.raises(Unavailable):
                await log.renew("events", Position("", 0))
        with pytest.raises(Unavailable):
            log.append(what)


async def test_without_a_server_it_is_unavailable(data_dir: Path) -> None:
    with layer_of(data_dir):
        await expect_unavailable(get_log())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR no\r\n"])
async def test_what_is_no_valkey_is_unavailable(data_dir: Path, answer: bytes) -> None:
    with layer_of(data_dir), answering(data_dir / "valkey.sock", answer):
        await expect_unavailable(get_log())


def test_without_a_layer_it_is_unavailable(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {}
    with pytest.raises(Unavailable, match="no channel layer is configured"):
        get_log()


@contextmanager
def frozen(server: EmbeddedServer) -> Iterator[None]:
    """Stop the server's process for a while: connections stay, answers do not come."""
    process = process_id(server)
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


async def test_a_frozen_server_is_unavailable_and_a_retry_appends_nothing_twice(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    await append(stored, b"1")
    stored.append(Append("events", [batch(b"2")]))
    first, second = (Append("events", [batch(body)]) for body in (b"3", b"4"))
    with frozen(valkey):
        async with asyncio.timeout(FAILS_WITHIN):
            outcomes = await asyncio.gather(
                stored.aappend(first),
                asyncio.to_thread(stored.append, second),
                stored.read("events", 0),
                stored.heads(["events"]),
                return_exceptions=True,
            )
        assert [type(outcome) for outcome in outcomes[:3]] == [Unavailable] * 3
        assert outcomes[3] == {}
    # It carries out now what it had received before the client gave up.
    await until(lambda: stream_length(valkey) == 4)
    again = {(await stored.aappend(what)).first.offset for what in (second, first)}
    again |= {stored.append(what).first.offset for what in (first, second)}
    assert again == {3, 4}
    assert sorted((await read_all(stored)).values()) == numbered(1, 5)


async def test_a_frozen_servers_publishers_hear_of_it_and_may_try_again(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    attempts: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: apublish("events", {"n": 1}, idempotency_key="a"),
        lambda: asyncio.to_thread(publish, "events", {"n": 2}, idempotency_key="b"),
        lambda: asyncio.to_thread(publish_many, "events", [{"n": 3}], idempotency_key="c"),
    ]
    for attempt in attempts:
        await attempt()
    with asking(valkey) as server:
        server.flushall()
    with frozen(valkey):
        async with asyncio.timeout(FAILS_WITHIN):
            outcomes = await asyncio.gather(
                *(attempt() for attempt in attempts), return_exceptions=True
            )
        assert [type(outcome) for outcome in outcomes] == [PublishError] * 3
    for attempt in attempts:
        await attempt()
    found = await read_all(stored)
    assert sorted(found.values()) == [b'{"n":%d}' % n for n in (1, 2, 3)]


async def test_a_failed_script_leaves_nothing_half_done(
    stored: RedisLog, valkey: EmbeddedServer
) -> None:
    position = await append(stored, b"1")
    with asking(valkey) as server:
        server.config_set("maxmemory", "1")
        try:
            with pytest.raises(Unavailable):
                await append(stored, b"2")
            with pytest.raises(PublishError, match="did not confirm"):
                publish("events", {})
        finally:
            server.config_set("maxmemory", "0")
    assert await append(stored, b"2") == Position(position.epoch, 2)
    assert await read_all(stored) == expected(1, 3)
