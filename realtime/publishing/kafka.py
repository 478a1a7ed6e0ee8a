"""A consumer of Kafka: reads its partitions, and commits what the log has. Knows Kafka."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.helpers import create_ssl_context

from realtime.publishing.bridge import CannotConsume, Consumption, Found

logger = logging.getLogger(__name__)

# Milliseconds for which a read waits for the first message; also how late the end may be noticed.
READ_TIMEOUT = 1000
RETRY_INTERVAL = 1.0


@dataclass(frozen=True)
class Origin:
    """Where messages come from. ``password`` is not shown."""

    brokers: str
    topic: str
    group: str
    batch: int
    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{self.topic} of {self.brokers} as {self.group}"


async def consume(origin: Origin, consumption: Consumption) -> None:
    """Take in messages until it is to end. Raises :class:`CannotConsume`."""
    consumer = _consumer(origin)
    try:
        try:
            await consumer.start()
        except (KafkaError, OSError) as error:
            raise CannotConsume(f"Kafka: {str(error) or type(error).__name__}") from None
        while not consumption.stopping.is_set():
            await _read(consumer, origin, consumption)
    finally:
        await consumer.stop()


def _consumer(origin: Origin) -> Any:
    try:
        return AIOKafkaConsumer(
            origin.topic,
            bootstrap_servers=origin.brokers,
            group_id=origin.group,
            client_id="realtime",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            security_protocol=origin.protocol,
            ssl_context=create_ssl_context() if origin.protocol.endswith("SSL") else None,
            sasl_mechanism=origin.mechanism,
            sasl_plain_username=origin.user,
            sasl_plain_password=origin.password,
        )
    except (ValueError, KafkaError) as error:
        raise CannotConsume(f"Kafka: {error}") from None


async def _read(consumer: Any, origin: Origin, consumption: Consumption) -> None:
    try:
        parts = await consumer.getmany(timeout_ms=READ_TIMEOUT, max_records=origin.batch)
    except KafkaError as error:
        logger.warning("Kafka: %s", str(error) or type(error).__name__)
        await consumption.pause(RETRY_INTERVAL)
        return
    for part, records in parts.items():
        if not await consumption.take(_source(origin, part), _found(part, records)):
            return
        await _commit(consumer, part, records[-1].offset + 1)


def _source(origin: Origin, part: TopicPartition) -> str:
    """Name what numbers the messages. Another group publishes all of a topic anew."""
    return f"kafka {origin.group} {part.topic} {part.partition}"


def _found(part: TopicPartition, records: Sequence[Any]) -> list[Found]:
    return [
        Found(record.offset, record.value, f"{part.topic} {part.partition} {record.offset}")
        for record in records
    ]


async def _commit(consumer: Any, part: TopicPartition, offset: int) -> None:
    """Commit; what cannot be committed comes again, perhaps to another, and is not published."""
    try:
        await consumer.commit({part: offset})
    except CommitFailedError:
        logger.info("%s %s: another consumer has it now", part.topic, part.partition)
    except KafkaError as error:
        logger.warning("Kafka: committing: %s", str(error) or type(error).__name__)
