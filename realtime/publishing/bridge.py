"""What consumers of other systems share: they append messages that others have numbered, once.

Beside the log is a bit for each number that it has, set in the call that appends. So it does not
matter who brings a message again, when, or together with which others. Knows no such system:
:mod:`realtime.publishing.nats` knows NATS, :mod:`realtime.publishing.kafka` Kafka.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from realtime.cluster.clients import Script, Unavailable, ask
from realtime.cluster.layer import group_address
from realtime.log.redis import append_arguments, log_keys, to_appended
from realtime.publishing.publication import (
    MAX_APPEND_BYTES,
    MAX_APPEND_MESSAGES,
    RETRY_INTERVAL,
    Publication,
    PublishError,
    check_payload,
    cut,
    decode_object,
)

logger = logging.getLogger(__name__)

# Messages of one read.
MAX_MESSAGES = 500
# Numbers in one bitmap of 8 KiB, and seconds for which one is kept after the last was set.
BLOCK = 65_536
BITMAP_TTL = 7 * 86_400

_TAKE = Script("realtime.publishing", "take")


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
        # Keeps a message that is no payload, with the error; ``False`` if it could not.
        self.reject: Callable[[SourceMessage, str], Awaitable[bool]] | None = None

    async def take(self, source_id: str, messages: Iterable[SourceMessage]) -> bool:
        """Publish messages; tell whether the log has them all. If not, the consumer is to end.

        *source_id* names what numbers the messages: the same number twice is the same message.
        Raises :class:`CannotConsume` if a message is no payload and that is to stop the consumer;
        those before it have been published.
        """
        readable: list[tuple[int, bytes]] = []
        invalid: list[tuple[SourceMessage, str]] = []
        try:
            for message in messages:
                try:
                    if message.text is None:
                        raise ValueError("no value")
                    readable.append((message.number, check_payload(decode_object(message.text))))
                except ValueError as error:
                    if self._stop_on_invalid:
                        raise CannotConsume(f"{message.name}: {error}") from None
                    invalid.append((message, str(error)))
        finally:
            is_confirmed = await self._publish(source_id, readable)
        return is_confirmed and await self._skip(invalid)

    async def _skip(self, invalid: list[tuple[SourceMessage, str]]) -> bool:
        """Report what is no payload, and have it kept; ``False`` if the consumer is to end."""
        for message, error in invalid:
            logger.warning("%s is skipped: %s", message.name, error)
            while self.reject is not None and not await self.reject(message, error):
                if await self.pause():
                    return False
            self.skipped += 1
        return True

    async def _publish(self, source_id: str, messages: list[tuple[int, bytes]]) -> bool:
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


async def take(kind: str, source: str, messages: Sequence[tuple[int, bytes]]) -> int:
    """Append those of a source's numbered payloads that the log does not have; return how many.

    Numbers are from 0. Raises :class:`PublishError`: the log may or may not have them; to take them
    again is safe.
    """
    numbers = list(dict(messages))
    new = 0
    for part in cut(list(dict(messages).values()), MAX_APPEND_BYTES, MAX_APPEND_MESSAGES):
        remaining = list(zip(numbers, part, strict=False))
        del numbers[: len(part)]
        while remaining:
            reply = await _try(kind, source, remaining)
            if isinstance(reply, bytes):
                new += len(remaining)
                break
            present = {place - 1 for place in reply}
            remaining = [message for at, message in enumerate(remaining) if at not in present]
    return new


async def _try(kind: str, source: str, messages: Sequence[tuple[int, bytes]]) -> Any:
    """Append all messages if the log has none of them; return the reply of ``take.lua``."""
    server, channel = group_address(kind)
    publication = Publication(kind, [body for _, body in messages], None)
    keys = log_keys(kind)
    stem = f"{keys[0]}:taken:{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    places: dict[int, int] = {}
    bits = []
    for number, _ in messages:
        block, bit = divmod(number, BLOCK)
        if block not in places:
            keys.append(f"{stem}:{block}")
            places[block] = len(keys)
        bits.append((places[block], bit))
    taken = msgspec.msgpack.encode({"ttl": BITMAP_TTL, "bits": bits})
    arguments = (taken, *append_arguments(publication.append, channel))
    try:
        reply = await ask(server, lambda client: _TAKE.awrite(client, keys, *arguments))
    except Unavailable as error:
        raise PublishError(f"the channel layer did not confirm the messages: {error}") from error
    if isinstance(reply, bytes):
        await publication.announce(to_appended(reply))
    return reply
