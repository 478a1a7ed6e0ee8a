"""Runs processors and shares them with other processes that run the same ones.

Each process says every two seconds that it is there. The processors are dealt out among those, and
each reads the logs that its processors need, lets them work and saves their state. Knows nothing of
what processors do and of where their definitions are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from realtime.analytics.processing.contract import AnyProcessor, Records, WaitingProcessor
from realtime.analytics.processing.state import (
    Fenced,
    Hold,
    claim,
    keep_states,
    renew,
    save,
    state_kind,
)
from realtime.cluster import BEAT_INTERVAL, Membership, get_cluster
from realtime.cluster.clients import Unavailable, close_async_clients
from realtime.database import Database
from realtime.log import get_log
from realtime.log.contract import Chunk
from realtime.monitoring.snapshot import Report, report
from realtime.protocol import Position
from realtime.tasks import end, is_cancelled

logger = logging.getLogger(__name__)

# Seconds between looks at a log of which all has been read.
POLL_INTERVAL = 0.05
# Messages of one read: more than for a client, since all processors of a type share the read.
READ_MESSAGES = 2000
# An offset beyond any other: a read after it returns the head alone.
END = 2**53
# Seconds between saves of a processor that has something to publish, and of any other.
PUBLISH_INTERVAL = 0.1
SAVE_INTERVAL = 1.0
RETRY_INTERVAL = 1.0


class NoLog(Exception):
    """There is no log that several processes share."""


class Runner:
    """The processors of one group, such as "alerts", that this process runs.

    *load* returns all processors of the group, each a new object, and may use the database. It is
    called every two seconds. A processor that is gone, or has another definition, is given up. The
    state of one that is gone expires after a while, unless *paused* returns its name. *prepare* is
    awaited with a processor that has been restored before it gets messages; those that are
    published meanwhile wait.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Iterable[AnyProcessor]],
        paused: Callable[[], Iterable[str]] = tuple,
        prepare: Callable[[AnyProcessor], Awaitable[None]] | None = None,
    ) -> None:
        self._load = load
        self._paused = paused
        self._prepare = prepare
        self._name = name
        self._membership = Membership(f"runners:{name}")
        self._owner = self._membership.name  # in leases
        self._database = Database()
        # Name -> a processor that this process runs.
        self.holds: dict[str, Hold] = {}
        # Source type -> the task that reads its log.
        self._readers: dict[str, asyncio.Task[None]] = {}
        # Source type -> the offset after which its log is being read while processors work.
        self._ahead: dict[str, tuple[int, asyncio.Task[Chunk]]] = {}
        # Source type -> where its log ended; and the epochs before which messages were lost.
        self._heads: dict[str, Position] = {}
        self._begun_anew: set[str] = set()
        # Types beside whose logs there are states.
        self._kinds: set[str] = set()
        # Held while processors work and are saved, or change hands.
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Run until cancelled; then give everything up. Raises :class:`NoLog`."""
        if not get_cluster().is_shared:
            raise NoLog("the channel layer is of one process: there is no log to read")
        try:
            while not is_cancelled():
                await self._beat()
                await asyncio.sleep(BEAT_INTERVAL)
        finally:
            await self._close()

    async def _beat(self) -> None:
        try:
            members = (await self._membership.beat()).members
            processors, paused = await self._database.run(
                lambda: (list(self._load()), list(self._paused()))
            )
            await self._renew()
            async with self._lock:
                await self._share(processors, members)
            self._kinds |= {state_kind(processor) for processor in processors}
            names = [*(processor.name for processor in processors), *paused]
            for kind in self._kinds:
                await keep_states(kind, names)
            running = [
                Report(
                    self._name,
                    name,
                    hold.processor.source,
                    hold.lag,
                    hold.read_at,
                    getattr(hold.processor, "left_out", {}),
                )
                for name, hold in self.holds.items()
                if hold.read_at
            ]
            await report(self._name, {processor.name for processor in processors}, running)
        except Unavailable as error:
            logger.warning("sharing the work: %s", error)
        except Exception:
            logger.exception("sharing the work")

    async def _renew(self) -> None:
        """Renew all leases, also while processors work; drop what another process has."""
        for name, hold in list(self.holds.items()):
            if not await renew(hold.processor, self._owner):
                async with self._lock:
                    if self.holds.get(name) is hold:
                        logger.warning("%s: another process has taken it over", name)
                        self._drop(hold)

    async def _share(self, processors: Sequence[AnyProcessor], members: Sequence[str]) -> None:
        """Give up what is no longer this process's, claim what is free. Call with the lock."""
        in_order = sorted(processors, key=lambda processor: processor.name)
        assigned = {
            processor.name: processor
            for number, processor in enumerate(in_order)
            if members[number % len(members)] == self._owner
        }
        for name, hold in list(self.holds.items()):
            loaded = assigned.get(name)
            if loaded is None or loaded.definition != hold.processor.definition:
                await self._give_up(hold)
        deadline = time.monotonic() + BEAT_INTERVAL
        for name, processor in assigned.items():
            if time.monotonic() > deadline:
                break  # states may be large, and leases have to be renewed meanwhile
            if name not in self.holds and (claimed := await claim(processor, self._owner)):
                self.holds[name] = claimed
                if self._prepare is not None:
                    claimed.task = asyncio.create_task(self._prepared(self._prepare, claimed))
                logger.info("running %s", name)
        for kind in {hold.processor.source for hold in self.holds.values()}:
            task = self._readers.get(kind)
            if task is None or task.done():
                self._readers[kind] = asyncio.create_task(self._follow(kind), name=f"read {kind}")

    async def _prepared(
        self, prepare: Callable[[AnyProcessor], Awaitable[None]], hold: Hold
    ) -> None:
        """Prepare a processor, which is at work meanwhile."""
        async with self._watching(hold):
            if hold.position is None and not hold.processor.from_start:
                chunk = await get_log().read(hold.processor.source, END)
                hold.position = Position(chunk.epoch, chunk.head)
            await prepare(hold.processor)
            hold.task = None

    async def saved_processors(self) -> list[AnyProcessor]:
        """Return the processors here that are at no work, none of them in the middle of a save."""
        async with self._lock:
            return [hold.processor for hold in self.holds.values() if hold.task is None]

    async def _give_up(self, hold: Hold) -> None:
        """Save a processor, run it no more, and let other processes have it. Call with the lock."""
        self._drop(hold)
        # A processor at work is not saved: the process that takes it over does the work again.
        if hold.position is not None and hold.needs_saving and hold.task is None:
            with contextlib.suppress(Fenced):  # the process that has it saves it
                await save(hold)
        await renew(hold.processor, self._owner, give_up=True)

    def _drop(self, hold: Hold) -> None:
        """Run a processor no more, without saving it."""
        del self.holds[hold.processor.name]
        if hold.task is not None:
            hold.task.cancel()
        if isinstance(hold.processor, WaitingProcessor):
            hold.processor.close()

    async def _close(self) -> None:
        ahead = (task for _, task in self._ahead.values())
        for task in (*self._readers.values(), *ahead):
            await end(task)
        with contextlib.suppress(Unavailable):
            async with self._lock:
                for hold in list(self.holds.values()):
                    await self._give_up(hold)
        await self._membership.leave()
        await close_async_clients()
        self._database.close()

    async def _follow(self, kind: str) -> None:
        """Read a type's log as long as a processor here needs it."""
        while holds := [each for each in self.holds.values() if each.processor.source == kind]:
            at_work = [hold.task for hold in holds if hold.task is not None]
            try:
                if await self._step(kind, [hold for hold in holds if hold.task is None]):
                    continue
                if at_work:  # until one is ready for more
                    first = asyncio.FIRST_COMPLETED
                    await asyncio.wait(at_work, timeout=POLL_INTERVAL, return_when=first)
                else:
                    await asyncio.sleep(POLL_INTERVAL)
            except Unavailable as error:
                logger.warning("reading %s: %s", kind, error)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _step(self, kind: str, holds: Sequence[Hold]) -> bool:
        """Read once and work; tell whether there was anything to read."""
        if not holds:
            return False
        offsets = [hold.position.offset for hold in holds if hold.position is not None]
        if any(hold.position is None and hold.processor.from_start for hold in holds):
            offsets.append(0)
        chunk = await self._read(kind, min(offsets, default=END))
        for hold in holds:
            if hold.position is not None and hold.position.offset > chunk.head:
                await get_log().renew(kind, hold.position)
        before = self._heads.get(kind, Position(chunk.epoch, 0))
        if chunk.shared(before) != before.offset:
            self._begun_anew.add(chunk.epoch)
        self._heads[kind] = Position(chunk.epoch, chunk.head)
        records = Records.decode(chunk.first, chunk.entries, chunk.epoch)
        async with self._lock:
            for hold in holds:
                if self.holds.get(hold.processor.name) is hold:
                    await self._work(hold, chunk, records)
        return bool(chunk.entries)

    async def _read(self, kind: str, after: int) -> Chunk:
        """Read; if there is more, begin to read it while processors work."""
        wanted, task = self._ahead.pop(kind, (None, None))
        if task is not None and wanted != after:
            await end(task)
            task = None
        chunk = await (task or get_log().read(kind, after, READ_MESSAGES))
        last = chunk.first + len(chunk.entries) - 1
        if chunk.entries and last < chunk.head:
            reading = get_log().read(kind, last, READ_MESSAGES)
            self._ahead[kind] = last, asyncio.create_task(reading, name=f"read {kind} ahead")
            await asyncio.sleep(0)  # so that it sends the question
        return chunk

    async def _work(self, hold: Hold, chunk: Chunk, records: Records) -> None:
        """Let a processor work, and save it if it is time."""
        async with self._watching(hold):
            processor = hold.processor
            is_first = hold.position is None and processor.from_start
            if is_first and chunk.epoch in self._begun_anew:
                # The state may have been lost with the log.
                processor.skip(1, None)
            new = _catch_up(hold, chunk, records)
            hold.head = chunk.head
            if isinstance(processor, WaitingProcessor):
                if len(new) or not hold.lag:
                    hold.task = asyncio.create_task(self._wait_for(processor, hold, new))
                return
            if len(new):
                processor.take(new)
                hold.position = Position(chunk.epoch, new.last)
            if not hold.lag and (text := processor.tick(chunk.time)):
                logger.warning("%s: %s", processor.name, text)
            await _save_if_due(hold)
            hold.read_at = time.time()

    async def _wait_for(self, processor: WaitingProcessor, hold: Hold, records: Records) -> None:
        """Let a processor do work that takes time, while the others go on."""
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
        """Drop a processor that fails or has been taken over; the next beat may claim it again."""
        name = hold.processor.name
        try:
            yield
            return
        except Fenced:
            logger.warning("%s: another process has taken it over", name)
        except Unavailable as error:
            logger.warning("saving %s: %s", name, error)
        except Exception:
            logger.exception("%s has failed", name)
        if self.holds.get(name) is hold:
            self._drop(hold)


def _catch_up(hold: Hold, chunk: Chunk, records: Records) -> Records:
    """Tell a processor which messages it has missed; return those that it has not read."""
    processor = hold.processor
    if hold.position is None:
        before = chunk.first - 1 if processor.from_start else chunk.head
        hold.position = Position(chunk.epoch, before)
    elif hold.position.epoch != chunk.epoch:
        offset = chunk.shared(hold.position)
        if offset != hold.position.offset:
            # Read from where the old log was: the next look is from where they differ.
            logger.warning("%s: the log was lost before all of it was read", processor.name)
            processor.skip(hold.position.offset + 1, None)
            hold.position = Position(chunk.epoch, offset or 0)
            return records.after(records.last)
        hold.position = Position(chunk.epoch, offset)
    if chunk.first > hold.position.offset + 1:
        lost = chunk.first - 1 - hold.position.offset
        logger.warning("%s: %d messages were lost before they were read", processor.name, lost)
        processor.skip(hold.position.offset + 1, chunk.first - 1)
        hold.position = Position(chunk.epoch, chunk.first - 1)
    return records.after(hold.position.offset)


async def _save_if_due(hold: Hold) -> None:
    interval = PUBLISH_INTERVAL if hold.processor.urgent else SAVE_INTERVAL
    if hold.needs_saving and time.monotonic() - hold.saved_at >= interval:
        await save(hold)
