"""What consumers of other systems have in common: payloads read, taken in until that is confirmed.

Knows no such system: ``consumers_nats`` knows NATS, ``consumers_kafka`` Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from realtime.cluster import get_cluster
from realtime.cluster.clients import close_async_clients
from realtime.publishing import PublishError, check_payload
from realtime.publishing.deduplication import Numbered, take
from realtime.publishing.ndjson import decode_object

logger = logging.getLogger(__name__)

RETRY_INTERVAL = 1.0


class CannotConsume(Exception):
    """The consumer cannot go on; the text says why, for the operator."""


class Found(NamedTuple):
    """A message of another system: its number there, what is in it, and its place for people."""

    number: int
    text: bytes | None
    place: str


class Consumption:
    """What is consumed into one type, and how much of it."""

    def __init__(self, kind: str, *, stop_on_invalid: bool = False) -> None:
        self.kind = kind
        self._stop_on_invalid = stop_on_invalid
        self.stopping = asyncio.Event()
        self.published = 0
        self.repeated = 0
        self.skipped = 0

    async def take(self, source: str, found: Iterable[Found]) -> bool:
        """Publish messages; tell whether the log has them all, else the consumer is to end.

        Raises:
            CannotConsume: one is no payload, and that is to stop the consumer; those before it
                have been published.
        """
        messages: list[Numbered] = []
        try:
            for one in found:
                self._read(one, messages)
        finally:
            confirmed = await self._publish(source, messages)
        return confirmed

    def _read(self, one: Found, messages: list[Numbered]) -> None:
        try:
            if one.text is None:
                raise ValueError("no value")
            messages.append(Numbered(one.number, check_payload(decode_object(one.text))))
        except ValueError as error:
            if self._stop_on_invalid:
                raise CannotConsume(f"{one.place}: {error}") from None
            self.skipped += 1
            logger.warning("%s is skipped: %s", one.place, error)

    async def _publish(self, source: str, messages: list[Numbered]) -> bool:
        while True:
            try:
                new = await take(self.kind, source, messages)
            except PublishError as error:
                logger.warning("%s: %s", self.kind, error)
                if await self.pause(RETRY_INTERVAL):
                    return False
            else:
                self.published += new
                self.repeated += len(messages) - new
                return True

    async def pause(self, seconds: float) -> bool:
        """Wait; tell whether the consumer is to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        return self.stopping.is_set()

    def summary(self) -> str:
        """Say what has been done."""
        return f"published {self.published}, came again {self.repeated}, skipped {self.skipped}"


def run_consumer(
    kind: str, consume: Callable[[Consumption], Awaitable[None]], *, stop_on_invalid: bool
) -> Consumption:
    """Consume until SIGTERM or Ctrl-C; return what has been done. Raises :class:`CannotConsume`."""
    if not get_cluster().is_shared:
        raise CannotConsume("the channel layer is of one process: there is no log to publish to")

    async def run() -> Consumption:
        consumption = Consumption(kind, stop_on_invalid=stop_on_invalid)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, consumption.stopping.set)
        try:
            await consume(consumption)
        finally:
            await close_async_clients()
        return consumption

    return asyncio.run(run())
