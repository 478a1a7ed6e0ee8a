"""A consumer of NATS JetStream: pulls messages, and acknowledges what the log has. Knows NATS."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats
import nats.errors
import nats.js.errors
from nats.js.api import ConsumerConfig

from realtime.publishing.bridge import CannotConsume, Consumption, Found

logger = logging.getLogger(__name__)

# Seconds for which a pull waits for the first message; also how late the end may be noticed.
PULL_TIMEOUT = 1.0
RETRY_INTERVAL = 1.0
CONNECT_TIMEOUT = 3
FIRST_TIMEOUT = 5.0
# What the library raises when NATS does not answer: its own errors, and sometimes a bare one.
FAILURES = (nats.errors.Error, TimeoutError)


@dataclass(frozen=True)
class Origin:
    """Where messages come from. ``ack_wait``: seconds until NATS sends one again."""

    servers: list[str]
    stream: str | None
    subject: str
    durable: str
    batch: int
    ack_wait: float
    credentials: str | None


async def consume(origin: Origin, consumption: Consumption) -> None:
    """Take in messages until it is to end. Raises :class:`CannotConsume`."""
    connection = await _connect(origin)
    try:
        jetstream = connection.jetstream()
        stream = await _find_stream(jetstream, origin)
        subscription = await _subscribe(jetstream, stream.config.name, origin)
        source = _source(stream)
        while not consumption.stopping.is_set():
            await _pull(subscription, source, origin.batch, consumption)
    finally:
        with contextlib.suppress(*FAILURES):
            await connection.flush(CONNECT_TIMEOUT)  # so that what is acknowledged is sent
        await connection.close()


async def _connect(origin: Origin) -> Any:
    last: list[str] = []

    async def tell(error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text not in last:  # it tries again and again
            logger.warning("NATS: %s", text)
        last[:] = [text]

    try:
        # It tries for ever, which is right only once it has been there.
        async with asyncio.timeout(FIRST_TIMEOUT):
            return await nats.connect(
                origin.servers,
                name="realtime",
                connect_timeout=CONNECT_TIMEOUT,
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=RETRY_INTERVAL,
                error_cb=tell,
                user_credentials=origin.credentials,
            )
    except (nats.errors.Error, OSError, ValueError) as error:
        text = last[0] if last else str(error) or type(error).__name__
        raise CannotConsume(f"NATS: {text}") from None


async def _find_stream(jetstream: Any, origin: Origin) -> Any:
    try:
        name = origin.stream or await jetstream.find_stream_name_by_subject(origin.subject)
        return await jetstream.stream_info(name)
    except nats.js.errors.NotFoundError:
        what = origin.stream or f"for the subject {origin.subject!r}"
        raise CannotConsume(f"NATS: there is no stream {what}") from None
    except FAILURES as error:
        raise CannotConsume(f"NATS: {str(error) or type(error).__name__}") from None


async def _subscribe(jetstream: Any, stream: str, origin: Origin) -> Any:
    config = ConsumerConfig(ack_wait=origin.ack_wait)
    try:
        return await jetstream.pull_subscribe(
            origin.subject, durable=origin.durable, stream=stream, config=config
        )
    except FAILURES as error:
        raise CannotConsume(f"NATS: {str(error) or type(error).__name__}") from None


def _source(stream: Any) -> str:
    """Name what numbers the messages: a stream made anew under the same name begins at 1 again."""
    created = stream.created
    made = created.isoformat() if isinstance(created, datetime) else str(created)
    return f"nats {stream.config.name} {made}"


async def _pull(subscription: Any, source: str, most: int, consumption: Consumption) -> None:
    try:
        messages = await subscription.fetch(most, timeout=PULL_TIMEOUT)
    except TimeoutError:  # the library's own is one
        return
    except FAILURES as error:  # while it is away, or begins
        logger.warning("NATS: %s", str(error) or type(error).__name__)
        await consumption.pause(RETRY_INTERVAL)
        return
    found = [
        Found(
            message.metadata.sequence.stream,
            message.data,
            f"{message.metadata.stream} {message.metadata.sequence.stream}",
        )
        for message in messages
    ]
    if not await consumption.take(source, found):
        return  # not acknowledged: they come again
    try:
        for message in messages:
            await message.ack()
    except FAILURES as error:
        logger.warning("NATS: acknowledging: %s", str(error) or type(error).__name__)
