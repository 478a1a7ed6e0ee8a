"""``serve --workers``: listens, hands connections to the workers, and keeps the workers running.

Knows sockets and processes, nothing of what a connection says. Every connection goes to the worker
that has the fewest, so that a new worker fills up first and after a rolling restart all have about
the same number. Connections wait here, not with a worker: one that dies takes only its own with it.

A socket pair connects it with each worker. Connections go to the worker as file descriptors
(unix(7), SCM_RIGHTS), each with one byte: reading a byte yields one connection. The worker sends a
byte when it is ready, and one for each connection that has ended. Neither end ever waits.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from realtime.cluster.process import Backoff, ChildProcess

logger = logging.getLogger(__name__)

CONNECTION = b"c"
READY = b"r"
ENDED = b"e"

BACKLOG = 4096
# Connections that are accepted before the event loop serves others.
AT_ONCE = 64
# Seconds a worker has to get ready.
START_TIMEOUT = 30.0
# Seconds a worker has to end, beyond the time for its drain.
GRACE = 2.0
# Seconds until connections are accepted again after no worker had room for one.
PAUSE = 0.02


class StartError(Exception):
    """The server cannot be started; the text is for the operator."""


class WorkerProcess:
    """One worker process, the channel to it, and how many connections it has."""

    def __init__(self, command: Sequence[str]) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.setblocking(False)
        with theirs:
            # In a session of its own: Ctrl-C is for the supervisor, which tells the workers.
            self.process = ChildProcess(
                [*command, "--connections-fd", str(theirs.fileno())],
                own_session=True,
                pass_fds=[theirs.fileno()],
            )
        self.ready = asyncio.Event()
        self.connections = 0
        # Asked to end: it gets no more connections, and is not started again.
        self.is_leaving = False
        self.ended = asyncio.Event()
        self._watching = asyncio.create_task(self._watch())
        asyncio.get_running_loop().add_reader(self.channel, self._read_reports)

    def _read_reports(self) -> None:
        try:
            reports = self.channel.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            reports = b""
        if READY in reports:
            self.ready.set()
        self.connections -= reports.count(ENDED)
        if not reports:
            self._close()

    def _close(self) -> None:
        if self.channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.channel)
            self.channel.close()

    async def _watch(self) -> None:
        await self.process.ended()
        self._close()
        self.ended.set()

    def takes_connections(self) -> bool:
        return self.ready.is_set() and not self.is_leaving and self.channel.fileno() >= 0

    def take(self, connection: socket.socket) -> bool:
        """Hand it a connection; tell whether it has taken it. If so, the caller must close it."""
        try:
            socket.send_fds(self.channel, [CONNECTION], [connection.fileno()])
        except BlockingIOError:
            return False
        except OSError:  # it has just ended
            self._close()
            return False
        self.connections += 1
        return True

    async def end(self, seconds: float, how: signal.Signals = signal.SIGTERM) -> None:
        """Have it drain and end; kill it after so many seconds.

        With ``SIGHUP`` its clients are told to come back at once, since others are there.
        """
        self.is_leaving = True
        self.process.send(how)
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            logger.warning("worker %d does not end: killed", self.process.pid)
            self.process.kill()
            await self.ended.wait()

    async def until_ready(self) -> bool:
        """Wait until it can serve or has ended, for some time; tell whether it can serve."""
        waiting = [asyncio.create_task(event.wait()) for event in (self.ready, self.ended)]
        await asyncio.wait(waiting, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return self.ready.is_set() and not self.ended.is_set()


class Supervisor:
    """A listening socket, and *count* workers behind it, started by *command*.

    ``--connections-fd`` is added to it. *drain_timeout* is in seconds.
    """

    def __init__(self, command: Sequence[str], count: int, drain_timeout: float) -> None:
        self._command = command
        self._count = count
        self._drain_timeout = drain_timeout
        self._listening: socket.socket | None = None
        self._workers: list[WorkerProcess] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_accepting = False
        # The connection that was accepted, but for which no worker has had room yet.
        self._undelivered: socket.socket | None = None
        self._stopping = asyncio.Event()
        self._rolling: asyncio.Task[None] | None = None

    async def run(self, host: str, port: int, on_listening: Callable[[str, int], None]) -> None:
        """Serve until told to stop. Raises :class:`StartError`."""
        self._listen(host, port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.roll)
        try:
            self._workers = [WorkerProcess(self._command) for _ in range(self._count)]
            for ready in await asyncio.gather(*(worker.until_ready() for worker in self._workers)):
                if not ready and not self._stopping.is_set():
                    raise StartError("a worker did not start; see its messages above")
            if not self._stopping.is_set():
                for worker in self._workers:
                    self._spawn(self._keep(worker))
                self._start_accepting()
                assert self._listening is not None
                on_listening(*self._listening.getsockname()[:2])
            await self._stopping.wait()
        finally:
            await self._end()

    def stop(self) -> None:
        """Drain all workers and end; called again, end at once."""
        if self._stopping.is_set():
            for worker in self._workers:
                worker.process.kill()
        self._stopping.set()

    async def _end(self) -> None:
        self._stop_accepting()
        for opened in filter(None, [self._listening, self._undelivered]):
            opened.close()
        longest = self._drain_timeout + GRACE
        await asyncio.gather(*(worker.end(longest) for worker in self._workers))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Workers

    async def _keep(self, worker: WorkerProcess) -> None:
        """Start a worker again when it ends, unless it was told to."""
        backoff = Backoff()
        while True:
            await worker.ended.wait()
            if worker.is_leaving or self._stopping.is_set():
                return
            process = worker.process
            logger.error("worker %d ended: %s", process.pid, process.describe_end())
            await asyncio.sleep(backoff.pause(time.monotonic() - process.started))
            if worker.is_leaving or self._stopping.is_set():
                return  # meanwhile a rolling restart has replaced it
            self._workers.remove(worker)
            worker = WorkerProcess(self._command)
            self._workers.append(worker)
            if await worker.until_ready():
                self._start_accepting()
            else:
                worker.process.kill()

    def roll(self) -> None:
        """Replace all workers, one after another, each by one that is ready."""
        if self._rolling is None or self._rolling.done():
            self._rolling = self._spawn(self._roll())
        else:
            logger.warning("a rolling restart is under way already")

    async def _roll(self) -> None:
        logger.info("rolling restart of %d workers", len(self._workers))
        for old in list(self._workers):
            # Another one is started anyway in place of one that has ended.
            if not old.ended.is_set() and not await self._replace(old):
                logger.error("the new worker did not start: the old ones stay")
                return
        logger.info("rolling restart done")

    async def _replace(self, old: WorkerProcess) -> bool:
        """End a worker once another is ready; tell whether one got ready."""
        new = WorkerProcess(self._command)
        self._workers.append(new)
        is_ready = await new.until_ready()
        if is_ready and old in self._workers:
            self._spawn(self._keep(new))
            await old.end(self._drain_timeout + GRACE, signal.SIGHUP)
            self._workers.remove(old)
        else:  # the old one may have ended meanwhile, and another be there in its place
            self._workers.remove(new)
            await new.end(GRACE if is_ready else 0)
        return is_ready

    # Connections

    def _listen(self, host: str, port: int) -> None:
        """Open the listening socket; connections wait in it until they are accepted."""
        try:
            family, type_, protocol, _, address = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self._listening = listening = socket.socket(family, type_, protocol)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            listening.setblocking(False)
        except OSError as error:
            raise StartError(f"cannot listen on port {port}: {error}") from None

    def _start_accepting(self) -> None:
        if not self._is_accepting and not self._stopping.is_set() and self._listening is not None:
            self._is_accepting = True
            asyncio.get_running_loop().add_reader(self._listening, self._accept, self._listening)

    def _stop_accepting(self) -> None:
        if self._is_accepting and self._listening is not None:
            self._is_accepting = False
            asyncio.get_running_loop().remove_reader(self._listening)

    def _accept(self, listening: socket.socket) -> None:
        """Hand on the connections that wait, as many as workers have room for."""
        for _ in range(AT_ONCE):
            if not any(worker.takes_connections() for worker in self._workers):
                self._stop_accepting()  # until one is ready
                return
            try:
                if self._undelivered is None:
                    self._undelivered, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptor is left, or the client has left
                logger.warning("accepting: %s", error)
                self._pause()
                return
            if not self._distribute(self._undelivered):
                self._pause()
                return
            self._undelivered.close()
            self._undelivered = None

    def _distribute(self, connection: socket.socket) -> bool:
        """Hand a connection to the worker with the fewest; tell whether one took it."""
        workers = sorted(self._workers, key=lambda worker: worker.connections)
        return any(worker.takes_connections() and worker.take(connection) for worker in workers)

    def _pause(self) -> None:
        self._stop_accepting()
        asyncio.get_running_loop().call_later(PAUSE, self._start_accepting)
