"""Consumes a stream of NATS JetStream: pulls messages, and acknowledges those the log has.

Knows NATS; publishing is :mod:`realtime.publishing.bridge`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import nats
import nats.errors
import nats.js.errors
from nats.js.api import ConsumerConfig

from realtime.publishing.bridge import (
    MAX_MESSAGES,
    CannotConsume,
    Consumption,
    SourceMessage,
    describe,
)
from realtime.publishing.publication import RETRY_INTERVAL

logger = logging.getLogger(__name__)

# Seconds for which a pull waits for the first message; also how late the end may be noticed.
PULL_TIMEOUT = 1.0
CONNECT_TIMEOUT = 3
# Bytes for the headers of a dead letter, and characters of the error in them.
MAX_HEADERS = 4096
MAX_ERROR = 500
# Seconds to wait at the start for a NATS that does not answer.
FIRST_TIMEOUT = 5.0
# What the library raises when NATS does not answer: its own errors, and sometimes a bare one.
FAILURES = (nats.errors.Error, TimeoutError)


@dataclass(frozen=True)
class NatsSource:
    """A stream, or what of it has a subject. ``ack_wait``: seconds until NATS sends one again."""

    servers: list[str]
    stream: str | None
    subject: str
    durable: str
    ack_wait: float
    credentials: str | None = None
    # The subject that gets what is no payload.
    dead_letter: str | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (self.stream, self.subject)))

    async def consume(self, consumption: Consumption) -> None:
        """Publish messages until it is to end. Raises :class:`CannotConsume`."""
        connection = await self._connect()
        try:
            jetstream = connection.jetstream()
            # What a message may have beside its headers.
            room = connection.max_payload - MAX_HEADERS
            pulled: tuple[str, Any] | None = await self._subscribe(jetstream)
            while not consumption.stopping.is_set():
                if pulled is not None and await self._pull(jetstream, room, *pulled, consumption):
                    continue
                # Another stream of that name, or none now: its messages have other numbers.
                if pulled is not None:
                    with contextlib.suppress(*FAILURES):
                        await pulled[1].unsubscribe()
                try:
                    pulled = await self._subscribe(jetstream)
                except CannotConsume as error:
                    logger.warning("%s", error)
                    pulled = None
                    await consumption.pause()
        finally:
            with contextlib.suppress(*FAILURES):
                await connection.flush(CONNECT_TIMEOUT)  # so that acknowledgements are sent
            await connection.close()

    async def _connect(self) -> Any:
        """Connect, to a server that is there now; later the connection comes back by itself."""
        last_text = ""

        async def log(error: Exception) -> None:
            nonlocal last_text
            text = describe(error)
            if text != last_text:  # it tries again and again
                logger.warning("NATS: %s", text)
            last_text = text

        try:
            # The library tries for ever, which is right only once a server has been there.
            async with asyncio.timeout(FIRST_TIMEOUT):
                return await nats.connect(
                    self.servers,
                    name="realtime",
                    connect_timeout=CONNECT_TIMEOUT,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RETRY_INTERVAL,
                    error_cb=log,
                    user_credentials=self.credentials,
                )
        except (nats.errors.Error, OSError, ValueError) as error:
            raise CannotConsume(f"NATS: {last_text or describe(error)}") from None

    async def _subscribe(self, jetstream: Any) -> tuple[str, Any]:
        """Return what names the numbers of the stream's messages, and what pulls them."""
        try:
            config = ConsumerConfig(ack_wait=self.ack_wait)
            source_id, name = await self._identify(jetstream)
            return source_id, await jetstream.pull_subscribe(
                self.subject, durable=self.durable, stream=name, config=config
            )
        except nats.js.errors.NotFoundError:
            wanted = self.stream or f"for the subject {self.subject!r}"
            raise CannotConsume(f"NATS: there is no stream {wanted}") from None
        except FAILURES as error:
            raise CannotConsume(f"NATS: {describe(error)}") from None

    async def _identify(self, jetstream: Any) -> tuple[str, str]:
        """Return what names the numbers of the stream's messages now, and the stream's name."""
        name = self.stream or await jetstream.find_stream_name_by_subject(self.subject)
        stream = await jetstream.stream_info(name)
        # Named by its time too: a stream made anew under the same name begins at 1 again.
        created = stream.created
        time = created.isoformat() if isinstance(created, datetime) else str(created)
        return f"nats {stream.config.name} {time}", stream.config.name

    async def _reject(
        self, jetstream: Any, room: int, source_id: str, message: SourceMessage, error: str
    ) -> bool:
        """Publish what is no payload to the dead-letter subject, once; ``False``: not now.

        What is as large as NATS takes goes there without headers, and may come twice.
        """
        text = message.text or b""
        error = " ".join(error.split())[:MAX_ERROR]
        headers = {"Realtime-Source": message.name, "Realtime-Error": error}
        headers["Nats-Msg-Id"] = f"{self.durable} {source_id} {message.number}"
        try:
            await jetstream.publish(
                self.dead_letter, text, headers=headers if len(text) <= room else None
            )
        except nats.js.errors.NoStreamResponseError:
            raise CannotConsume(f"NATS: no stream has the subject {self.dead_letter!r}") from None
        except FAILURES as failure:
            logger.warning("NATS: %s: %s", self.dead_letter, describe(failure))
            return False
        return True

    async def _pull(
        self,
        jetstream: Any,
        room: int,
        source_id: str,
        subscription: Any,
        consumption: Consumption,
    ) -> bool:
        """Publish what there is, and acknowledge it once the log has it; ``False``: subscribe anew.

        Who is asked after a pull says of which stream its messages are: before it, this one was
        subscribed to or asked for.
        """
        try:
            messages = await subscription.fetch(MAX_MESSAGES, timeout=PULL_TIMEOUT)
        except TimeoutError:  # the library's own is one
            messages = []
        except FAILURES as error:  # while NATS is away, or begins
            logger.warning("NATS: %s", describe(error))
            await consumption.pause()
            messages = []
        try:
            if (await self._identify(jetstream))[0] != source_id:
                logger.warning("NATS: the stream has been made anew")
                return False
        except nats.js.errors.NotFoundError:
            return False
        except FAILURES as error:
            logger.warning("NATS: %s", describe(error))
            await consumption.pause()
            return True  # what was pulled comes again
        if self.dead_letter:
            consumption.reject = partial(self._reject, jetstream, room, source_id)
        if not messages or not await consumption.take(source_id, [_read(m) for m in messages]):
            return True  # not acknowledged: they come again
        try:
            for message in messages:
                await message.ack()
        except FAILURES as error:
            logger.warning("NATS: acknowledging: %s", describe(error))
        return True


def _read(message: Any) -> SourceMessage:
    number = message.metadata.sequence.stream
    return SourceMessage(number, message.data, f"{message.metadata.stream} {number}")
