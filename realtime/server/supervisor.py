"""``serve --workers``: listens, hands connections to the workers, and keeps these running.

Knows sockets and processes, nothing of what a connection says. Every connection goes to the worker
that has the fewest: so a new worker fills up first, and after a rolling restart all have as many.
No connection waits with a worker: one that dies takes only its own with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from realtime.server.backoff import Backoff, describe_end
from realtime.server.fd_passing import ENDED, READ, READY, hand_over, new_pair

logger = logging.getLogger(__name__)

BACKLOG = 4096
# Connections accepted before others have their turn.
AT_ONCE = 64
# Seconds a worker has to get ready.
START_TIMEOUT = 30.0
# Seconds a worker has to end, beyond the time for its drain.
GRACE = 2.0
# Seconds until connections are accepted again when all workers have enough to take in.
PAUSE = 0.02


class StartError(Exception):
    """The server cannot be started; the text is for the operator."""


class Worker:
    """One worker process and the channel to it."""

    def __init__(self, command: Sequence[str]) -> None:
        self.channel, theirs = new_pair()
        with theirs:
            # In a session of its own: Ctrl-C is for the supervisor, which tells the workers.
            self.process = subprocess.Popen(  # noqa: S603 - our own
                [*command, "--connections-fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.started = time.monotonic()
        self.ready = asyncio.Event()
        self.connections = 0
        # Asked to end: it gets no more connections, and is not started again.
        self.leaving = False
        self.ended = asyncio.Event()
        self._watching = asyncio.create_task(self._watch())
        asyncio.get_running_loop().add_reader(self.channel, self._hear)

    def _hear(self) -> None:
        try:
            said = self.channel.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if READY in said:
            self.ready.set()
        self.connections -= said.count(ENDED)
        if not said:
            self._close()

    def _close(self) -> None:
        if self.channel.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.channel)
            self.channel.close()

    async def _watch(self) -> None:
        await asyncio.to_thread(self.process.wait)
        self._close()
        self.ended.set()

    @property
    def takes(self) -> bool:
        """Whether connections may be handed to it."""
        return self.ready.is_set() and not self.leaving and self.channel.fileno() >= 0

    def take(self, connection: socket.socket) -> bool:
        """Hand it a connection; tell whether it could be."""
        try:
            taken = hand_over(self.channel, connection)
        except OSError:  # it has just ended
            self._close()
            return False
        self.connections += taken
        return taken

    def leave(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Have it drain and end; with ``SIGHUP`` its clients come back at once, to the others."""
        self.leaving = True
        self._signal(how)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def end(self, seconds: float, how: signal.Signals = signal.SIGTERM) -> None:
        """Have it drain and end, if need be at once after so many seconds; see :meth:`leave`."""
        self.leave(how)
        try:
            async with asyncio.timeout(seconds):
                await self.ended.wait()
        except TimeoutError:
            logger.warning("worker %d does not end: killed", self.process.pid)
            self.kill()
            await self.ended.wait()

    async def until_ready(self) -> bool:
        """Wait until it can serve; tell whether it can."""
        waiting = [asyncio.create_task(event.wait()) for event in (self.ready, self.ended)]
        await asyncio.wait(waiting, timeout=START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return self.ready.is_set() and not self.ended.is_set()


class Supervisor:
    """Listening sockets, and so many workers behind them.

    *command* starts a worker, to which ``--connections-fd`` is added. *drain_timeout* is in
    seconds.
    """

    def __init__(self, command: Sequence[str], count: int, drain_timeout: float) -> None:
        self._command = command
        self._count = count
        self._drain_timeout = drain_timeout
        self._sockets: list[socket.socket] = []
        self._workers: list[Worker] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._accepting = False
        # Accepted, but no worker has had room for it yet.
        self._held: socket.socket | None = None
        self._stopping = asyncio.Event()
        self._stopped_once = False
        self._rolling: asyncio.Task[None] | None = None

    # Life

    async def run(self, host: str, port: int, on_listening: Callable[[str, int], None]) -> None:
        """Serve until told to stop. Raises :class:`StartError`."""
        self._listen(host, port)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.roll)
        try:
            self._workers = [Worker(self._command) for _ in range(self._count)]
            for ready in await asyncio.gather(*(one.until_ready() for one in self._workers)):
                if not ready and not self._stopping.is_set():
                    raise StartError("a worker did not start; see its messages above")
            if not self._stopping.is_set():
                for worker in self._workers:
                    self._spawn(self._keep(worker))
                self._accept_again()
                address = self._sockets[0].getsockname()
                on_listening(address[0], address[1])
            await self._stopping.wait()
        finally:
            await self._end()

    def stop(self) -> None:
        """Drain all workers and end; at once the second time."""
        if self._stopped_once:
            for worker in self._workers:
                worker.kill()
        self._stopped_once = True
        self._stopping.set()

    async def _end(self) -> None:
        self._accept_no_more()
        for listening in [*self._sockets, *filter(None, [self._held])]:
            listening.close()
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

    async def _keep(self, worker: Worker) -> None:
        """Start a worker again when it ends, unless it was told to."""
        backoff = Backoff()
        while True:
            await worker.ended.wait()
            if worker.leaving or self._stopping.is_set():
                return
            how = describe_end(worker.process.returncode)
            logger.error("worker %d ended: %s", worker.process.pid, how)
            await asyncio.sleep(backoff.pause(time.monotonic() - worker.started))
            if self._stopping.is_set():
                return
            self._workers.remove(worker)
            worker = Worker(self._command)
            self._workers.append(worker)
            if await worker.until_ready():
                self._accept_again()
            else:
                worker.kill()

    def roll(self) -> None:
        """Replace all workers, one after another, each by one that is ready."""
        if self._rolling is None or self._rolling.done():
            self._rolling = self._spawn(self._roll())
        else:
            logger.warning("a rolling restart is under way already")

    async def _roll(self) -> None:
        logger.info("rolling restart of %d workers", len(self._workers))
        for old in list(self._workers):
            if old.ended.is_set():
                continue  # another one is started in its place anyway
            new = Worker(self._command)
            self._workers.append(new)
            if not await new.until_ready():
                logger.error("the new worker did not start: the old ones stay")
                self._workers.remove(new)
                await new.end(0)
                return
            self._spawn(self._keep(new))
            await old.end(self._drain_timeout + GRACE, signal.SIGHUP)
            self._workers.remove(old)
        logger.info("rolling restart done")

    # Connections

    def _listen(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, address = found[0]
            listening = socket.socket(family, kind, protocol)
            self._sockets.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
            listening.setblocking(False)
        except OSError as error:
            raise StartError(f"cannot listen on port {port}: {error}") from None

    def _accept_again(self) -> None:
        if not self._accepting and not self._stopping.is_set():
            self._accepting = True
            for listening in self._sockets:
                asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept_no_more(self) -> None:
        """Leave connections to wait in the system's queue."""
        if self._accepting:
            self._accepting = False
            for listening in self._sockets:
                asyncio.get_running_loop().remove_reader(listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            if not any(worker.takes for worker in self._workers):
                self._accept_no_more()  # until one is ready
                return
            try:
                if self._held is None:
                    self._held, _ = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptor is left, or the client has left
                logger.warning("accepting: %s", error)
                self._rest()
                return
            if not self._distribute(self._held):
                self._rest()
                return
            self._held.close()
            self._held = None

    def _distribute(self, connection: socket.socket) -> bool:
        """Hand a connection to the worker with the fewest; tell whether one took it."""
        for worker in sorted(self._workers, key=lambda one: one.connections):
            if worker.takes and worker.take(connection):
                return True
        return False

    def _rest(self) -> None:
        """Accept again in a moment."""
        self._accept_no_more()
        asyncio.get_running_loop().call_later(PAUSE, self._accept_again)
