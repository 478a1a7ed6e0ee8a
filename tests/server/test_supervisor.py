"""Decisions of a supervisor about its workers and connections, without processes."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from realtime.cluster.process import FIRST
from realtime.server import supervisor as module
from realtime.server.supervisor import (
    ENDED,
    GRACE,
    READY,
    StartError,
    Supervisor,
    WorkerProcess,
)
from realtime.server.worker import ReportSender, take_over
from realtime.testing import FakeClock
from tests.support.layers import until


class FakeWorker:
    """A worker that does what the test says, and notes what it is told."""

    def __init__(self, pid: int, is_startable: bool = True) -> None:
        self.process: Any = SimpleNamespace(
            pid=pid, started=asyncio.get_running_loop().time(), kill=self.kill
        )
        self.process.describe_end = lambda: "exit status 1"
        self.connections = 0
        self.is_leaving = False
        self.has_room = True
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.told: list[tuple[float, signal.Signals]] = []
        if is_startable:
            self.ready.set()

    def kill(self) -> None:
        self.ended.set()

    def takes_connections(self) -> bool:
        return self.ready.is_set() and not self.is_leaving and not self.ended.is_set()

    def take(self, connection: socket.socket) -> bool:
        self.connections += self.has_room
        return self.has_room

    async def until_ready(self) -> bool:
        await asyncio.sleep(1)  # it takes a second to start
        return self.ready.is_set() and not self.ended.is_set()

    async def end(self, seconds: float, how: signal.Signals = signal.SIGTERM) -> None:
        self.is_leaving = True
        self.told.append((seconds, how))
        await asyncio.sleep(min(seconds, 0.5))  # it takes half a second to drain
        self.ended.set()


class World:
    """A supervisor, a clock, and all workers that were ever started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.started: list[FakeWorker] = []
        # Whether workers that are started from now on get ready.
        self.is_startable = True
        monkeypatch.setattr(module, "WorkerProcess", self._start)
        monkeypatch.setattr(module, "time", self.clock)
        self.supervisor = Supervisor(["serve"], 3, drain_timeout=10.0)

    def _start(self, command: Sequence[str]) -> FakeWorker:
        worker = FakeWorker(len(self.started), self.is_startable)
        self.started.append(worker)
        return worker

    @property
    def pids(self) -> list[int]:
        """The workers that the supervisor counts on."""
        return [worker.process.pid for worker in self.supervisor._workers]

    async def start(self) -> asyncio.Task[None]:
        """Start the supervisor on a socket; return when its workers are ready."""
        listening = asyncio.Event()
        running = asyncio.create_task(
            self.supervisor.run("127.0.0.1", 0, lambda host, port: listening.set())
        )
        await asyncio.wait(
            {running, asyncio.create_task(listening.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        return running

    async def stop(self, running: asyncio.Task[None]) -> None:
        self.supervisor.stop()
        await running


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_connections_go_to_the_worker_with_the_fewest(world: World) -> None:
    async def main() -> None:
        running = await world.start()
        workers = world.started
        with socket.socket() as connection:
            for _ in range(7):
                assert world.supervisor._distribute(connection)
            assert [worker.connections for worker in workers] == [3, 2, 2]
            workers[0].connections = 0  # they have ended
            workers[1].has_room = False
            for _ in range(4):
                assert world.supervisor._distribute(connection)
            assert [worker.connections for worker in workers] == [3, 2, 3]
            workers[0].is_leaving = True
            workers[2].kill()
            assert not world.supervisor._distribute(connection)
        await world.stop(running)

    world.clock.run(main())


def test_a_worker_that_ends_is_started_again(world: World) -> None:
    async def main() -> None:
        running = await world.start()
        world.started[1].kill()
        await asyncio.sleep(FIRST / 2)
        assert world.pids == [0, 1, 2]
        await asyncio.sleep(FIRST)
        assert world.pids == [0, 2, 3]
        await world.stop(running)

    world.clock.run(main())


def test_one_that_does_not_start_is_tried_again_more_and_more_seldom(world: World) -> None:
    async def main() -> None:
        running = await world.start()
        world.is_startable = False
        world.started[0].kill()
        await asyncio.sleep(120)
        starts = [worker.process.started for worker in world.started[3:]]
        pauses = [later - earlier for earlier, later in pairwise(starts)]
        assert pauses[:4] == pytest.approx([1.2, 1.4, 1.8, 2.6])  # a second to start, each time
        assert pauses[-1] == pytest.approx(11.0)
        await world.stop(running)

    world.clock.run(main())


def test_a_rolling_restart_replaces_one_after_another(world: World) -> None:
    async def main() -> None:
        running = await world.start()
        world.supervisor.roll()
        world.supervisor.roll()  # a second one at the same time is not begun
        await asyncio.sleep(1.2)
        assert world.pids == [0, 1, 2, 3]  # the new one is ready, the old one drains
        assert [worker.is_leaving for worker in world.started] == [True, False, False, False]
        await asyncio.sleep(10)
        assert world.pids == [3, 4, 5]
        for worker in world.started[:3]:
            assert worker.told == [(10.0 + GRACE, signal.SIGHUP)]
        world.started[4].kill()  # the new ones are looked after
        await asyncio.sleep(2)
        assert world.pids == [3, 5, 6]
        await world.stop(running)

    world.clock.run(main())


def test_a_rolling_restart_ends_if_a_new_worker_does_not_start(world: World) -> None:
    async def main() -> None:
        running = await world.start()
        world.is_startable = False
        world.supervisor.roll()
        await asyncio.sleep(10)
        assert world.pids == [0, 1, 2] and not any(w.is_leaving for w in world.started[:3])
        assert world.started[3].ended.is_set() and len(world.started) == 4
        await world.stop(running)

    world.clock.run(main())


@pytest.mark.parametrize("moment", [0.95, 0.5])
def test_a_worker_that_ends_while_it_is_replaced(world: World, moment: float) -> None:
    """There are as many as before in the end, whoever has replaced it."""

    async def main() -> None:
        running = await world.start()
        world.supervisor.roll()
        await asyncio.sleep(moment)  # the new worker is ready after a second
        world.started[0].kill()
        await asyncio.sleep(20)
        assert len(world.pids) == 3 and not {0, 1, 2} & set(world.pids)
        assert sum(not worker.ended.is_set() for worker in world.started) == 3
        await world.stop(running)

    world.clock.run(main())


def test_stopping_drains_all(world: World) -> None:
    async def main() -> None:
        running = await world.start()
        await world.stop(running)
        assert [worker.told for worker in world.started] == [[(12.0, signal.SIGTERM)]] * 3

    world.clock.run(main())


def test_a_first_worker_that_does_not_start(world: World) -> None:
    async def main() -> None:
        world.is_startable = False
        running = await world.start()
        with pytest.raises(StartError, match="a worker did not start"):
            await running
        assert all(worker.ended.is_set() for worker in world.started)

    world.clock.run(main())


# The channel to a worker


class FakeProcess:
    """A child process that never ends by itself."""

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self.command = command
        self.channel = socket.socket(fileno=socket.dup(options["pass_fds"][0]))
        self.pid = 1
        self.signals: list[signal.Signals] = []
        self._end = asyncio.Event()

    def send(self, number: signal.Signals) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._end.set()

    async def ended(self) -> None:
        await self._end.wait()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "ChildProcess", FakeProcess)
    yield


async def test_a_worker_reports(processes: None) -> None:
    worker = WorkerProcess(["serve"])
    process: Any = worker.process
    with process.channel:
        assert not worker.takes_connections()
        reports = ReportSender(process.channel)
        reports.send(READY)
        assert await worker.until_ready() and worker.takes_connections()
        with socket.socket() as connection:
            assert worker.take(connection) and worker.take(connection)
        descriptor = take_over(process.channel)
        assert descriptor is not None
        socket.socket(fileno=descriptor).close()
        assert worker.connections == 2
        reports.send(ENDED)
        await until(lambda: worker.connections == 1)
        process.kill()
        await worker.ended.wait()
        assert not worker.takes_connections()


async def test_a_worker_whose_channel_is_closed(processes: None) -> None:
    worker = WorkerProcess(["serve"])
    process: Any = worker.process
    ReportSender(process.channel).send(READY)
    assert await worker.until_ready()
    process.channel.close()
    with socket.socket() as connection:
        assert not worker.take(connection)
    assert not worker.takes_connections() and not worker.ended.is_set()
    await worker.end(0.01)
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]


async def test_a_worker_with_no_room(processes: None) -> None:
    worker = WorkerProcess(["serve"])
    process: Any = worker.process
    with process.channel, socket.socket() as connection:
        taken = 0
        while worker.take(connection):
            taken += 1
        assert worker.connections == taken > 10
    await worker.end(0.0)


def test_reports_wait_for_room() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    with ours, theirs:
        reports = ReportSender(theirs)
        for _ in range(100_000):
            reports.send(ENDED * 10)
        received = 0
        while received < 1_000_000:
            received += len(ours.recv(1 << 20))
            reports.send(b"")
        assert received == 1_000_000
