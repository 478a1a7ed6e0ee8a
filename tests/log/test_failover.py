"""A server that starts again, with all it had or without its last messages: who has read what?

A Valkey whose file is cut off has lost its tail, as a replica has that is promoted too early.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from realtime.cluster.embedded import EmbeddedServer
from realtime.log.contract import Append, Batch, pack
from realtime.log.redis import RedisLog
from realtime.protocol import Position
from tests.support import wait_until
from tests.support.layers import close_layer, running_valkey

pytestmark = pytest.mark.processes


class Store:
    """A Valkey that can be killed, and its log."""

    def __init__(self, server: EmbeddedServer, data_dir: Path) -> None:
        self._server = server
        self._folder = data_dir / "valkey" / "appendonlydir"
        self.log = RedisLog()

    def append(self, *bodies: bytes, **once: Any) -> Position:
        """Append messages as one piece; return the last one's position."""
        append = Append("events", [Batch(bodies, pack(bodies))], **once)
        first = self.log.append(append).first
        return first._replace(offset=first.offset + len(bodies) - 1)

    def client(self) -> redis.Redis:
        """Return a client of the test's own."""
        return redis.Redis(unix_socket_path=str(self._server.socket))

    def size(self) -> int:
        """Return how much it has written."""
        return self._file().stat().st_size

    def _file(self) -> Path:
        [path] = self._folder.glob("*.incr.aof")
        return path

    async def start_again(self, size: int | None = None) -> None:
        """Have the machine go down and start again, without what came after *size* bytes."""
        with self.client() as client:
            process = psutil.Process(client.info("server")["process_id"])
        await close_layer()
        process.send_signal(signal.SIGKILL)
        wait_until(lambda: not self._server.is_running())
        (self._folder.parent / "boot").write_text("another boot")
        if size is not None:
            with self._file().open("r+b") as file:
                file.truncate(size)
        self._server.ensure_running()


@pytest.fixture
def store(data_dir: Path) -> Iterator[Store]:
    """An empty one, whose machine goes down with it."""
    with running_valkey(data_dir) as server:
        yield Store(server, data_dir)


async def test_who_has_read_nothing_that_is_lost_goes_on(store: Store) -> None:
    read = store.append(b"1", b"2", b"3")
    await store.start_again()
    chunk = await store.log.read("events", read.offset)
    assert chunk.epoch != read.epoch
    assert chunk.shared(read) == 3
    new = store.append(b"4")
    assert new == Position(chunk.epoch, 4)
    chunk = await store.log.read("events", 0)
    assert [entry.body for entry in chunk.entries] == [b"1", b"2", b"3", b"4"]
    assert chunk.shared(new) == 4 and chunk.shared(read) == 3
    assert chunk.shared(Position("unknown", 1)) is None


async def test_who_has_read_what_is_lost_is_told_where_the_log_goes_on(store: Store) -> None:
    """Also when the log has as many messages again: they are others."""
    kept = store.append(b"1", b"2")
    size = store.size()
    lost = store.append(b"3", b"4")
    await store.start_again(size)
    store.append(b"another 3", b"another 4", b"another 5")
    chunk = await store.log.read("events", 0)
    assert chunk.head == 5
    assert chunk.shared(kept) == 2
    assert chunk.shared(lost._replace(offset=1)) == 1
    assert chunk.shared(lost) == 2


async def test_many_epochs_are_told_apart(store: Store) -> None:
    seen = []
    for number in range(1, 20):
        seen.append(store.append(b"%d" % number))
        await store.start_again()
    chunk = await store.log.read("events", 0)
    assert [chunk.shared(position) for position in seen[-16:]] == list(range(4, 20))
    assert chunk.shared(seen[0]) is None  # after so many, who comes from before is told


async def test_a_call_that_was_carried_out_before_is_not_carried_out_after(store: Store) -> None:
    first = store.append(b"1", once="the same")
    await store.start_again()
    assert store.append(b"again", once="the same") == first
    size = store.size()
    store.append(b"2", once="another")
    await store.start_again(size)
    assert store.append(b"2", once="another").offset == 2  # the first one is lost


async def test_a_log_of_the_version_before_goes_on(store: Store) -> None:
    """It has no history and no times yet."""
    read = store.append(b"1", b"2")
    with store.client() as client:
        client.hdel("realtime:{events}:head", "history", "time")
    chunk = await store.log.read("events", 0)
    assert chunk.epoch == read.epoch and chunk.shared(read) == 2
