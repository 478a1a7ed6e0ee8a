"""The consumer of Kafka as far as it goes without a broker, of which Debian has none.

What reads and commits works here with aiokafka's own records and errors, and a real log; partitions
that are held in memory stand for the broker.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, KafkaConnectionError

from realtime.log import get_log
from realtime.publishing.bridge import CannotConsume, Consumption
from realtime.publishing.kafka import KafkaSource
from tests.support.layers import close_layer

PARTS = (TopicPartition("orders", 0), TopicPartition("orders", 1))


class HeldPartitions:
    """A broker's partitions and one group's offsets; every reader begins at what is committed."""

    def __init__(self, *values: bytes | None, most: int = 1000) -> None:
        # Records of a partition in one read.
        self.most = most
        self._records = {
            part: [_record(part, n, v) for n, v in enumerate(values)] for part in PARTS
        }
        self.committed = dict.fromkeys(PARTS, 0)
        self._positions = dict(self.committed)
        # What the next calls raise.
        self.errors: list[Exception] = []

    def begin_again(self) -> None:
        """Be read by another, who takes over."""
        self._positions = dict(self.committed)

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, Any]:
        """Return records of each partition, from its position on."""
        if self.errors and isinstance(self.errors[0], KafkaConnectionError):
            raise self.errors.pop(0)
        found = {}
        for part, position in self._positions.items():
            if records := self._records[part][position : position + min(self.most, max_records)]:
                found[part] = records
                self._positions[part] += len(records)
        return found

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Keep offsets."""
        if self.errors:
            raise self.errors.pop(0)
        self.committed.update(offsets)


def _record(part: TopicPartition, offset: int, value: bytes | None) -> Any:
    times = {"timestamp": 0, "timestamp_type": 0, "checksum": None}
    sizes = {"serialized_key_size": -1, "serialized_value_size": -1, "headers": ()}
    return ConsumerRecord(
        topic=part.topic, partition=part.partition, offset=offset, key=None, value=value,
        **times, **sizes,
    )  # fmt: skip


async def read(held: HeldPartitions, group: str, consumption: Consumption) -> None:
    """Read once, as a consumer of a group."""
    await KafkaSource("127.0.0.1:9092", "orders", group).read(held, consumption)


@pytest.fixture
async def after(valkey: object) -> Any:
    """The newest offset of events before the test."""
    yield (await get_log().read("events", 2**53)).head
    await close_layer()


async def bodies(after: int) -> list[bytes]:
    """Return what has been published since."""
    return [entry.body for entry in (await get_log().read("events", after)).entries]


async def test_offsets_are_committed_once_the_log_has_the_messages(after: int) -> None:
    held = HeldPartitions(b'{"n":0}', b"no", None, b'{"n":3}')
    consumption = Consumption("events")
    await read(held, "plain", consumption)
    assert held.committed == dict.fromkeys(PARTS, 4)
    assert await bodies(after) == [b'{"n":0}', b'{"n":3}'] * 2
    assert consumption.summary() == "published 4, came again 0, skipped 4"


async def test_what_was_not_committed_comes_again_and_is_not_published(after: int) -> None:
    values = [b'{"n":%d}' % n for n in range(25)]
    held = HeldPartitions(*values, most=10)
    held.errors = [CommitFailedError()] * 2
    consumption = Consumption("events")
    await read(held, "again", consumption)
    assert held.committed == dict.fromkeys(PARTS, 0)
    # Another takes over, and reads other batches.
    held.begin_again()
    held.most = 7
    held.errors = [KafkaConnectionError()]
    for _ in range(5):
        await read(held, "again", consumption)
    assert held.committed == dict.fromkeys(PARTS, 25)
    assert sorted(await bodies(after)) == sorted(values * 2)
    assert consumption.summary() == "published 50, came again 20, skipped 0"


async def test_stop_on_invalid_commits_nothing_of_that_batch(after: int) -> None:
    held = HeldPartitions(b'{"n":0}', b"[]", b'{"n":2}')
    consumption = Consumption("events", stop_on_invalid=True)
    with pytest.raises(CannotConsume, match="orders 0 1: payload: expected an object"):
        await read(held, "strict", consumption)
    assert held.committed == dict.fromkeys(PARTS, 0)
    assert await bodies(after) == [b'{"n":0}']


async def test_the_consumer_is_one_that_aiokafka_takes() -> None:
    for protocol in ("PLAINTEXT", "SASL_SSL"):
        source = KafkaSource(
            "a:9092,b:9092", "orders", "g", protocol, "SCRAM-SHA-256", "me", "hush"
        )
        assert "hush" not in f"{source} {source!r}"
        consumer = source.make_consumer()
        assert isinstance(consumer, AIOKafkaConsumer)
        await consumer.stop()


async def test_a_consumer_may_be_stopped_while_the_log_is_away(valkey: Any) -> None:
    held = HeldPartitions(b'{"n":0}')
    consumption = Consumption("events")
    valkey.stop()
    try:
        reading = asyncio.ensure_future(read(held, "away", consumption))
        await asyncio.sleep(0)
        consumption.stopping.set()
        await reading
    finally:
        valkey.ensure_running()
        await close_layer()
    assert held.committed == dict.fromkeys(PARTS, 0)
