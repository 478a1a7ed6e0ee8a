"""What ``run_alerts`` does: runs alert rules, records their alerts, and has people notified."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from realtime.analytics.alerting import ledger
from realtime.analytics.alerting.courier import AT_ONCE, Courier
from realtime.analytics.alerting.processor import AlertProcessor
from realtime.analytics.processing.contract import AnyProcessor
from realtime.analytics.processing.runner import END, Runner
from realtime.database import Database, Unavailable
from realtime.log import get_log
from realtime.protocol import Position
from realtime.tasks import is_cancelled

logger = logging.getLogger(__name__)

# Seconds between looks at the alerts, at whether rules and ledger agree, at what is due, and at
# what can be deleted.
READ_INTERVAL = 0.25
RECONCILE_INTERVAL = 10.0
# For so many reads, a comparison waits until the ledger is up to date.
READS = 20
DELIVER_INTERVAL = 0.5
PRUNE_INTERVAL = 3600.0
RETRY_INTERVAL = 1.0


class AlertService:
    """Runs alert rules and notifies. Several may run; they share the work.

    *started* is called when it runs and can be stopped.
    """

    def __init__(self, started: Callable[[], None]) -> None:
        self._started = started
        self._runner = Runner("alerts", ledger.load_processors, prepare=self._prepare)
        self._database = Database()
        self._courier = Courier(self._database)
        # How far alerts have been read, as far as this process knows.
        self._position: Position | None = None
        self._pruned_at = 0.0

    async def run(self) -> None:
        """Run until cancelled. Raises :class:`realtime.analytics.processing.runner.NoLog`."""
        # One that hangs, in a mail server or in looking up a name, holds a thread.
        threads = ThreadPoolExecutor(sum(AT_ONCE.values()), thread_name_prefix="realtime-courier")
        asyncio.get_running_loop().set_default_executor(threads)
        try:
            # Before any rule of this process can publish: the first alert is read too.
            await self._begin()
            if is_cancelled():
                return
            self._started()
            await asyncio.gather(
                self._runner.run(),
                _repeat("reading alerts", self._read, READ_INTERVAL),
                _repeat("reconciling alerts", self._reconcile_all, RECONCILE_INTERVAL),
                _repeat("notifying", self._notify, DELIVER_INTERVAL),
            )
        finally:
            await self._courier.close()
            self._database.close()

    async def _begin(self) -> None:
        """Find out how far alerts have been read, as soon as log and database answer."""
        while self._position is None and not is_cancelled():
            try:
                chunk = await get_log().read("alerts", END)
                head = Position(chunk.epoch, chunk.head)
                self._position = await self._database.run(ledger.begin, head)
            except Unavailable as error:
                logger.warning("starting: %s", error)
                await asyncio.sleep(RETRY_INTERVAL)

    async def _read(self) -> bool:
        """Read alerts once and record them; tell whether there may be more."""
        assert self._position is not None
        before, log = self._position, get_log()
        chunk = await log.read("alerts", before.offset)
        shared = chunk.shared(before)
        bodies = [entry.body for entry in chunk.entries]
        if chunk.epoch != before.epoch and shared != before.offset:
            after, bodies = Position(chunk.epoch, shared or 0), []
            logger.warning(
                "the log of alerts was lost after %s: nobody is notified of these alerts", before
            )
        elif chunk.entries:
            after = Position(chunk.epoch, chunk.first + len(chunk.entries) - 1)
            if chunk.first > before.offset + 1:
                logger.warning(
                    "alerts between %s and %d were lost: nobody is notified of them",
                    before,
                    chunk.first,
                )
        else:
            if before.offset > chunk.head:
                await log.renew("alerts", before)
            return False
        if await self._database.run(ledger.record, before, after, bodies):
            self._position = after
        else:  # another process has
            self._position = await self._database.run(ledger.begin, before)
        return True

    async def _prepare(self, processor: AnyProcessor) -> None:
        """Reconcile a rule before it reads its first message."""
        while not await self._reconcile([processor]):
            pass

    async def _reconcile_all(self) -> bool:
        await self._reconcile(await self._runner.saved_processors())
        return False

    async def _reconcile(self, processors: Sequence[AnyProcessor]) -> bool:
        """Reconcile rules with the ledger; ``False`` if that is not up to date.

        What they have handed over to be published has to be in the log.
        """
        rules = [(each, each.published) for each in processors if isinstance(each, AlertProcessor)]
        # Read after that, so the ledger is up to date if it has come so far.
        chunk = await get_log().read("alerts", END)
        for _ in range(READS):
            firing = {(each.rule.name, each.source): each.alert_ids for each, _ in rules}
            differences = await self._database.run(ledger.compare, chunk, firing)
            if differences is not None:
                for each, published in rules:
                    if each.published == published:
                        each.reconcile(differences[each.rule.name, each.source], chunk.time)
                return True
            await asyncio.sleep(READ_INTERVAL)
        return False  # the log may have begun anew

    async def _notify(self) -> bool:
        """Begin to deliver what is due; there is no more to do at once."""
        if time.monotonic() - self._pruned_at > PRUNE_INTERVAL or not self._pruned_at:
            self._pruned_at = time.monotonic()
            await self._database.run(ledger.prune)
        await self._courier.deliver_due()
        return False


async def _repeat(task: str, step: Callable[[], Awaitable[bool]], interval: float) -> None:
    """Repeat a step, with a pause when it had nothing to do or has failed."""
    while not is_cancelled():
        try:
            is_busy = await step()
        except Unavailable as error:
            logger.warning("%s: %s", task, error)
            await asyncio.sleep(RETRY_INTERVAL)
        except Exception:
            logger.exception(task)
            await asyncio.sleep(RETRY_INTERVAL)
        else:
            if not is_busy:
                await asyncio.sleep(interval)
