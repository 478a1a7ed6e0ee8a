"""What consumers of other systems share: they publish payloads, each until that is confirmed.

Knows no such system: :mod:`realtime.publishing.nats` knows NATS, :mod:`realtime.publishing.kafka`
Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from realtime.publishing import PublishError, check_payload
from realtime.publishing.deduplication import Numbered, take
from realtime.publishing.ndjson import decode_object
from realtime.publishing.publication import RETRY_INTERVAL

logger = logging.getLogger(__name__)

# Messages of one read.
MAX_MESSAGES = 500


class CannotConsume(Exception):
    """The consumer cannot go on; the text says why, for the operator."""


class SourceMessage(NamedTuple):
    """A message of another system: its number there, its text, and how to name it in the log."""

    number: int
    text: bytes | None
    name: str


class Source(Protocol):
    """Where messages come from; its text names it for people."""

    async def consume(self, consumption: Consumption) -> None:
        """Hand messages to *consumption* until it is ``stopping``. Raises `CannotConsume`."""


class Consumption:
    """What is published into one type, and how much of it. Set ``stopping`` to end it."""

    def __init__(self, kind: str, *, stop_on_invalid: bool = False) -> None:
        self.kind = kind
        self._stop_on_invalid = stop_on_invalid
        self.stopping = asyncio.Event()
        self.published = 0
        self.repeated = 0
        self.skipped = 0

    async def take(self, source_id: str, messages: Iterable[SourceMessage]) -> bool:
        """Publish messages; tell whether the log has them all. If not, the consumer is to end.

        *source_id* names what numbers the messages: the same number twice is the same message.

        Raises:
            CannotConsume: a message is no payload, and that is to stop the consumer; those before
                it have been published.
        """
        readable: list[Numbered] = []
        try:
            for message in messages:
                self._read(message, readable)
        finally:
            is_confirmed = await self._publish(source_id, readable)
        return is_confirmed

    def _read(self, message: SourceMessage, readable: list[Numbered]) -> None:
        """Add a message to *readable* if it is a payload."""
        try:
            if message.text is None:
                raise ValueError("no value")
            readable.append(Numbered(message.number, check_payload(decode_object(message.text))))
        except ValueError as error:
            if self._stop_on_invalid:
                raise CannotConsume(f"{message.name}: {error}") from None
            self.skipped += 1
            logger.warning("%s is skipped: %s", message.name, error)

    async def _publish(self, source_id: str, messages: list[Numbered]) -> bool:
        while True:
            try:
                new = await take(self.kind, source_id, messages)
            except PublishError as error:
                logger.warning("%s: %s", self.kind, error)
                if await self.pause():
                    return False
            else:
                self.published += new
                self.repeated += len(messages) - new
                return True

    async def pause(self) -> bool:
        """Wait before the next attempt; tell whether the consumer is to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_INTERVAL):
                await self.stopping.wait()
        return self.stopping.is_set()

    def summary(self) -> str:
        """Return the counts as text."""
        return f"published {self.published}, came again {self.repeated}, skipped {self.skipped}"


def describe(error: BaseException) -> str:
    """Return an error's text, or its class if it has none."""
    return str(error) or type(error).__name__
