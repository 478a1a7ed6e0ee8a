"""Runs processors and shares them with other processes that run the same.

Each process says every two seconds that it is there; the processors are dealt out among those that
are, and whoever has one reads its type's log, lets it work and saves. Knows nothing of what
processors do, nor of where their definitions are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

import redis
from channels.layers import get_channel_layer

from realtime.analytics.processing.contract import AnyProcessor, Records, WaitingProcessor
from realtime.analytics.processing.state import Fenced, Hold, claim, renew, save
from realtime.cluster.clients import close_async_clients
from realtime.cluster.membership import Membership
from realtime.cluster.servers import has_servers
from realtime.database import Database, Unavailable
from realtime.log import Chunk, LogUnavailable, get_log
from realtime.monitoring.processors import Report, report
from realtime.protocol import Position
from realtime.tasks import end, is_cancelled

logger = logging.getLogger(__name__)

# Seconds between looks at who else is there, which processors there are, and at the leases.
BEAT_INTERVAL = 2.0
# Seconds between looks at a log of which all has been read.
POLL_INTERVAL = 0.05
# Messages of one read: more than for a client, since what a read costs is shared by all of them.
READ_MESSAGES = 2000
# Beyond any offset: to read the head alone.
END = 2**53
# Seconds between saves: of what is to be published, and of the rest.
PUBLISH_INTERVAL = 0.1
SAVE_INTERVAL = 1.0
RETRY_INTERVAL = 1.0


class NoLog(Exception):
    """There is no log that several processes share."""


class Runner:
    """The processors of one kind in this process; ``name`` says which kind.

    *load* returns all there are, each a new object, and may use the database. It is called every
    two seconds; what has been removed or has another definition is given up or begun anew.
    """

    def __init__(self, name: str, load: Callable[[], Iterable[AnyProcessor]]) -> None:
        self._load = load
        self._name = name
        self._owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._membership = Membership(f"runners:{name}", self._owner)
        self._database = Database()
        # By name: those this process runs.
        self.holds: dict[str, Hold] = {}
        # Source type -> the task that reads its log.
        self._readers: dict[str, asyncio.Task[None]] = {}
        # Source type -> after which offset its log is being read, ahead of need.
        self._ahead: dict[str, tuple[int, asyncio.Task[Chunk]]] = {}
        # Held while processors work and are saved, or change hands.
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Run until cancelled; then save and give everything up.

        Raises:
            NoLog: the channel layer has none that processes share.
        """
        if not has_servers(get_channel_layer()):
            raise NoLog("the channel layer is of one process: there is no log to read")
        try:
            while not is_cancelled():
                await self._beat()
                await asyncio.sleep(BEAT_INTERVAL)
        finally:
            await self._close()

    async def _beat(self) -> None:
        try:
            members = await self._membership.beat()
            found = await self._database.run(lambda: list(self._load()))
            async with self._lock:
                await self._share(found, members)
            await self._report({one.name for one in found})
        except (LogUnavailable, Unavailable, redis.RedisError, OSError) as error:
            logger.warning("sharing the work: %s", error)
        except Exception:
            logger.exception("sharing the work")

    async def _share(self, found: Sequence[AnyProcessor], members: Sequence[str]) -> None:
        """Give up what is no longer this process's, keep the rest, claim what is free."""
        everything = sorted(found, key=lambda one: one.name)
        mine = {
            one.name: one
            for number, one in enumerate(everything)
            if members[number % len(members)] == self._owner
        }
        for name, hold in list(self.holds.items()):
            wanted = mine.get(name)
            if wanted is None or wanted.definition != hold.processor.definition:
                await self._give_up(hold)
            elif not await renew(hold.processor, self._owner):
                logger.warning("%s: another process has taken it over", name)
                self._drop(hold)
        for name, processor in mine.items():
            if name not in self.holds and (taken := await claim(processor, self._owner)):
                self.holds[name] = taken
                logger.info("running %s", name)
        self._read_what_is_held()

    async def _report(self, names: set[str]) -> None:
        """Say how those stand that run here and have read."""
        running = [
            Report(self._name, name, hold.processor.source, hold.lag, hold.read_at)
            for name, hold in self.holds.items()
            if hold.read_at
        ]
        await report(self._name, names, running)

    async def _give_up(self, hold: Hold) -> None:
        is_at_work = hold.task is not None
        self._drop(hold)
        # Of what is half done nothing is saved: who takes it over does it again.
        if hold.position is not None and hold.needs_saving and not is_at_work:
            await _save(hold)
        await renew(hold.processor, self._owner, give_up=True)

    def _drop(self, hold: Hold) -> None:
        """Run a processor no more."""
        del self.holds[hold.processor.name]
        if hold.task is not None:
            hold.task.cancel()
        if isinstance(hold.processor, WaitingProcessor):
            hold.processor.close()

    def _read_what_is_held(self) -> None:
        for kind in {hold.processor.source for hold in self.holds.values()}:
            task = self._readers.get(kind)
            if task is None or task.done():
                self._readers[kind] = asyncio.create_task(self._follow(kind), name=f"read {kind}")

    async def _close(self) -> None:
        ahead = (task for _, task in self._ahead.values())
        for task in (*self._readers.values(), *ahead):
            await end(task)
        with contextlib.suppress(LogUnavailable, redis.RedisError, OSError):
            async with self._lock:
                for hold in list(self.holds.values()):
                    await self._give_up(hold)
            await self._membership.leave()
        await close_async_clients()
        self._database.close()

    # Reading

    async def _follow(self, kind: str) -> None:
        """Read a type's log for those who want it, as long as anyone does."""
        while holds := [one for one in self.holds.values() if one.processor.source == kind]:
            at_work = [hold.task for hold in holds if hold.task is not None]
            try:
                if not await self._step(kind, [hold for hold in holds if hold.task is None]):
                    await _pause(at_work)
            except LogUnavailable as error:
                logger.warning("reading %s: %s", kind, error)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _step(self, kind: str, holds: Sequence[Hold]) -> bool:
        """Read once and work; tell whether there was anything to read."""
        if not holds:
            return False
        known = [hold.position.offset for hold in holds if hold.position is not None]
        fresh = any(hold.position is None and hold.processor.from_start for hold in holds)
        chunk = await self._read(kind, 0 if fresh else min(known, default=END))
        for hold in holds:
            if hold.position is not None and hold.position.offset > chunk.head:
                await get_log().renew(kind, hold.position)
        records = Records.decode(chunk.first, chunk.entries, chunk.epoch)
        async with self._lock:
            for hold in holds:
                if self.holds.get(hold.processor.name) is hold:
                    await self._work(hold, chunk, records)
        return bool(chunk.entries)

    async def _read(self, kind: str, after: int) -> Chunk:
        """Read, and if there is more, have it read while processors work."""
        wanted, task = self._ahead.pop(kind, (None, None))
        if task is not None and wanted != after:
            await end(task)
            task = None
        chunk = await (task or get_log().read(kind, after, READ_MESSAGES))
        last = chunk.first + len(chunk.entries) - 1
        if chunk.entries and last < chunk.head:
            reading = get_log().read(kind, last, READ_MESSAGES)
            self._ahead[kind] = last, asyncio.create_task(reading, name=f"read {kind} ahead")
            await asyncio.sleep(0)  # it asks
        return chunk

    async def _work(self, hold: Hold, chunk: Chunk, records: Records) -> None:
        """Let one processor work, and save if it is time; one that fails is claimed anew."""
        async with self._watching(hold):
            processor = hold.processor
            new = _catch_up(hold, chunk, records)
            hold.head = chunk.head
            if isinstance(processor, WaitingProcessor):
                if len(new) or _has_read_all(hold, chunk):
                    hold.task = asyncio.create_task(self._wait_for(processor, hold, new))
                return
            if len(new):
                processor.take(new)
                hold.position = Position(chunk.epoch, new.last)
            elif _has_read_all(hold, chunk) and (text := processor.tick(time.time())):
                logger.warning("%s: %s", processor.name, text)
            await _save_if_due(hold)
            hold.read_at = time.time()

    async def _wait_for(self, processor: WaitingProcessor, hold: Hold, records: Records) -> None:
        """Let one work that takes its time, while the others go on."""
        async with self._watching(hold):
            last = await processor.work(records)
            async with self._lock:
                if self.holds.get(processor.name) is hold:
                    if len(records):
                        hold.position = Position(records.epoch, last)
                    await _save_if_due(hold)
                hold.read_at = time.time()
                hold.task = None

    @contextlib.asynccontextmanager
    async def _watching(self, hold: Hold) -> AsyncIterator[None]:
        """Run a processor no more that fails or has been taken over."""
        name = hold.processor.name
        try:
            yield
            return
        except Fenced:
            logger.warning("%s: another process has taken it over", name)
        except LogUnavailable as error:
            logger.warning("saving %s: %s", name, error)
        except Exception:
            logger.exception("%s has failed", name)
        if self.holds.get(name) is hold:
            self._drop(hold)


def _catch_up(hold: Hold, chunk: Chunk, records: Records) -> Records:
    """Tell a processor of what it has missed; return what it has not read."""
    processor = hold.processor
    if hold.position is None:
        before = chunk.first - 1 if processor.from_start else chunk.head
        hold.position = Position(chunk.epoch, before)
    elif hold.position.epoch != chunk.epoch:
        # Read from where the old log was: the next look is from the beginning.
        logger.warning("%s: the log was lost before all of it was read", processor.name)
        processor.skip(hold.position.offset + 1, None)
        hold.position = Position(chunk.epoch, 0)
        return records.after(records.last)
    if chunk.first > hold.position.offset + 1:
        lost = chunk.first - 1 - hold.position.offset
        logger.warning("%s: %d messages were lost before they were read", processor.name, lost)
        processor.skip(hold.position.offset + 1, chunk.first - 1)
        hold.position = Position(chunk.epoch, chunk.first - 1)
    return records.after(hold.position.offset)


def _has_read_all(hold: Hold, chunk: Chunk) -> bool:
    return hold.position is not None and hold.position.offset >= chunk.head


async def _pause(at_work: Sequence[asyncio.Task[None]]) -> None:
    """Wait a little, or until one that was at work is ready for more."""
    if at_work:
        done = asyncio.FIRST_COMPLETED
        await asyncio.wait(at_work, timeout=POLL_INTERVAL, return_when=done)
    else:
        await asyncio.sleep(POLL_INTERVAL)


async def _save_if_due(hold: Hold) -> None:
    interval = PUBLISH_INTERVAL if hold.processor.urgent else SAVE_INTERVAL
    if hold.needs_saving and time.monotonic() - hold.saved_at >= interval:
        await save(hold)


async def _save(hold: Hold) -> None:
    try:
        await save(hold)
    except Fenced:
        logger.warning("%s: another process has taken it over", hold.processor.name)


class Runs(Protocol):
    """A runner, or what runs one and more beside it."""

    async def run(self) -> None: ...


def run_until_stopped(runner: Runs) -> None:
    """Run in an event loop of its own until SIGTERM or Ctrl-C. Raises :class:`NoLog`."""

    # Messages that are read make no cycles: looking for some among them took a quarter of the time.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        await runner.run()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(run())
