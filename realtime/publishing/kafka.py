"""Consumes a topic of Kafka: reads its partitions, and commits the offsets that the log has.

Knows Kafka; publishing is :mod:`realtime.publishing.bridge`'s.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.helpers import create_ssl_context

from realtime.publishing.bridge import (
    MAX_MESSAGES,
    CannotConsume,
    Consumption,
    SourceMessage,
    describe,
)

logger = logging.getLogger(__name__)

# Milliseconds for which a read waits for the first message; also how late the end may be noticed.
READ_TIMEOUT = 1000


@dataclass(frozen=True)
class KafkaSource:
    """A topic, as a consumer group reads it. Its text does not show the ``password``."""

    brokers: str
    topic: str
    group: str
    protocol: str = "PLAINTEXT"
    mechanism: str = "PLAIN"
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"{self.topic} of {self.brokers} as {self.group}"

    async def consume(self, consumption: Consumption) -> None:
        """Publish messages until it is to end. Raises :class:`CannotConsume`."""
        consumer = self.make_consumer()
        try:
            try:
                await consumer.start()
            except (KafkaError, OSError) as error:
                raise CannotConsume(f"Kafka: {describe(error)}") from None
            while not consumption.stopping.is_set():
                await self.read(consumer, consumption)
        finally:
            await consumer.stop()

    def make_consumer(self) -> Any:
        """Return aiokafka's consumer, not yet started. Raises :class:`CannotConsume`."""
        try:
            return AIOKafkaConsumer(
                self.topic,
                bootstrap_servers=self.brokers,
                group_id=self.group,
                client_id="realtime",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                security_protocol=self.protocol,
                ssl_context=create_ssl_context() if self.protocol.endswith("SSL") else None,
                sasl_mechanism=self.mechanism,
                sasl_plain_username=self.user,
                sasl_plain_password=self.password,
            )
        except (ValueError, KafkaError) as error:
            raise CannotConsume(f"Kafka: {error}") from None

    async def read(self, consumer: Any, consumption: Consumption) -> None:
        """Publish what there is, and commit each partition's offset once the log has it."""
        try:
            records = await consumer.getmany(timeout_ms=READ_TIMEOUT, max_records=MAX_MESSAGES)
        except KafkaError as error:
            logger.warning("Kafka: %s", describe(error))
            await consumption.pause()
            return
        for partition, batch in records.items():
            name = f"{partition.topic} {partition.partition}"
            messages = [
                SourceMessage(record.offset, record.value, f"{name} {record.offset}")
                for record in batch
            ]
            # Named by the group too: another group publishes all of a topic anew.
            if not await consumption.take(f"kafka {self.group} {name}", messages):
                return
            await _commit(consumer, partition, batch[-1].offset + 1)


async def _commit(consumer: Any, partition: TopicPartition, offset: int) -> None:
    """Commit an offset. What cannot be committed comes again, and is not published again."""
    try:
        await consumer.commit({partition: offset})
    except CommitFailedError:
        logger.info("%s %s: another consumer has it now", partition.topic, partition.partition)
    except KafkaError as error:
        logger.warning("Kafka: committing: %s", describe(error))
