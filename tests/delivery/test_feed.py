"""The feed of a type: everything once and in order, what is missing from the log, or told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.cluster.clients import Unavailable, async_client
from realtime.cluster.layer import group_address
from realtime.delivery.feed import Feed, Lost, Range, ReceivedBatch
from realtime.hub.message import Message
from realtime.hub.ordering import RECENT_MESSAGES
from realtime.log import Log
from realtime.log.contract import READ_ENTRIES, Append, Batch, Chunk, pack
from realtime.log.redis import RedisLog
from realtime.protocol import Position
from tests.support.delivery import KIND, FickleLog
from tests.support.layers import Configure, close_layer, until


class Follower:
    """A feed with its log, and as its handler what it has delivered and told."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.feed = Feed(KIND, log, self)
        # Offsets of messages, payloads of those that are not in the log, and what was lost.
        self.everything: list[Any] = []
        self.repaired = 0
        # How many messages were delivered at once.
        self.pieces: list[int] = []
        # Cleared while delivering takes its time.
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.is_delivering = False
        self.failures: list[Exception] = []

    async def deliver(self, kind: str, messages: list[Message], origins: Any) -> None:
        """Take the next messages, which tell their offsets."""
        assert kind == KIND and messages and not self.is_delivering
        self.is_delivering = True
        await self.may_go_on.wait()
        self.is_delivering = False
        if self.failures:
            raise self.failures.pop()
        self.pieces.append(len(messages))
        for message in messages:
            payload = json.loads(message.payload)["n"]
            assert message.offset == (payload if isinstance(payload, int) else 0)
            self.everything.append(payload)

    def tell_lost(self, kind: str, lost: Lost) -> None:
        """Take note of what is lost."""
        assert kind == KIND
        self.everything.append(lost)

    def count_repaired(self, kind: str, count: int) -> None:
        """Count what the log had to deliver."""
        assert kind == KIND
        self.repaired += count

    @property
    def delivered(self) -> list[int]:
        """The offsets delivered."""
        return [item for item in self.everything if isinstance(item, int)]

    @property
    def told(self) -> list[Lost]:
        """What was said to be lost."""
        return [item for item in self.everything if isinstance(item, Lost)]

    def take_delivered(self) -> list[int]:
        """Return the offsets delivered since the last look."""
        taken = self.delivered
        self.everything = self.told
        return taken

    async def append(self, count: int) -> None:
        """Append messages that tell their offsets."""
        head = (await self.log.heads([KIND]))[KIND].offset
        bodies = [b'{"n":%d}' % n for n in range(head + 1, head + count + 1)]
        pieces = [bodies[start : start + 100] for start in range(0, count, 100)]
        batches = [Batch(piece, pack(piece)) for piece in pieces]
        await self.log.aappend(Append(KIND, batches))

    async def flush(self) -> None:
        """Let the log lose everything."""
        if isinstance(self.log, FickleLog):
            self.log.flush()
        else:
            server, _ = group_address(KIND)
            await (await async_client(server)).flushall()

    async def _epoch(self) -> str:
        if isinstance(self.log, FickleLog):
            return self.log.state().epoch
        return (await self.log.heads([KIND]))[KIND].epoch

    async def batch(self, first: int, last: int) -> ReceivedBatch:
        """Return what the group brings of messages in the log."""
        return batch(await self._epoch(), first, last)

    async def bring(self, *ranges: tuple[int, int]) -> None:
        """Let the group bring messages in the log, several pieces together."""
        epoch = await self._epoch()
        await self.feed.take([batch(epoch, first, last) for first, last in ranges])


def batch(epoch: str, first: int, last: int) -> ReceivedBatch:
    """Return a group message with these offsets."""
    messages = [
        Message(KIND, b'{"n":%d}' % n, time.time(), Position(epoch, n))
        for n in range(first, last + 1)
    ]
    return ReceivedBatch(Position(epoch, first), messages)


def bare(name: str) -> ReceivedBatch:
    """Return a group message that is not in the log."""
    return ReceivedBatch(None, [Message(KIND, b'{"n":"%b"}' % name.encode(), time.time())])


def offsets(found: Range | None) -> list[int]:
    """Return the offsets of messages that were found."""
    assert found is not None
    return [message.offset for message in found.messages]


@pytest.fixture(params=["valkey", "in-memory"])
async def follower(request: pytest.FixtureRequest) -> AsyncIterator[Follower]:
    """A feed that has been started on an empty log, with each of the logs in turn."""
    log: Log = FickleLog()
    if request.param == "valkey":
        request.getfixturevalue("valkey")
        log = RedisLog()
    follower = Follower(log)
    await follower.flush()
    await follower.feed.start()
    yield follower
    await close_layer()


async def started(log: Log) -> Follower:
    """Return a feed that has been started."""
    follower = Follower(log)
    await follower.feed.start()
    return follower


# Where it begins


async def test_on_an_empty_log_the_first_message_is_next(follower: Follower) -> None:
    feed = follower.feed
    assert (feed.next, feed.position.offset) == (1, 0)
    assert feed.position == (await follower.log.heads([KIND]))[KIND]
    assert not feed.is_missing(feed.position, feed.next)
    await follower.append(1)
    await follower.bring((1, 1))
    assert follower.take_delivered() == [1]


async def test_it_begins_at_the_end_with_what_is_recent_at_hand(follower: Follower) -> None:
    await follower.append(RECENT_MESSAGES + 500)
    newest = RECENT_MESSAGES + 500
    follower = await started(follower.log)
    assert follower.feed.position.offset == newest and follower.feed.next == newest + 1
    assert not follower.delivered
    assert offsets(follower.feed.read_recent(500)) == list(range(501, newest + 1))
    assert follower.feed.read_recent(499) is None
    await follower.append(1)
    await follower.bring((newest + 1, newest + 1))
    assert follower.take_delivered() == [newest + 1]
    assert not follower.told


async def test_it_begins_at_the_end_of_a_log_that_retains_nothing(configure: Configure) -> None:
    log = FickleLog()
    await Follower(log).append(9)
    configure(history_size="1")
    follower = await started(log)
    assert follower.feed.position.offset == 9
    assert offsets(follower.feed.read_recent(8)) == [9]
    assert follower.feed.read_recent(7) is None
    await follower.append(1)
    await follower.bring((10, 10))
    assert follower.take_delivered() == [10]
    assert not follower.told  # nobody was to receive what is retained no more


async def test_it_begins_at_the_end_of_another_epoch_that_begins_meanwhile() -> None:
    class LosingLog(FickleLog):
        async def read(self, kind: str, after: int, at_most: int | None = None) -> Chunk:
            chunk = await super().read(kind, after, at_most)
            if chunk.head == 9:
                self.flush()
            return chunk

    log = LosingLog()
    await Follower(log).append(9)
    follower = await started(log)
    assert follower.feed.position == (await log.heads([KIND]))[KIND]
    assert follower.feed.position.offset == 0
    await follower.append(1)
    await follower.bring((1, 1))
    assert follower.everything == [1]


async def test_it_cannot_begin_without_the_log() -> None:
    log = FickleLog()
    log.is_away = True
    with pytest.raises(Unavailable):
        await started(log)


# In order


async def test_messages_are_delivered_in_one_piece(follower: Follower) -> None:
    await follower.append(9)
    await follower.bring((1, 1), (2, 5), (6, 9))
    assert follower.pieces == [9]
    assert follower.take_delivered() == list(range(1, 10))
    assert follower.feed.position.offset == 9


@pytest.mark.parametrize("repeated", [(1, 1), (3, 4), (1, 4), (4, 4)])
async def test_what_was_delivered_is_not_delivered_again(
    follower: Follower, repeated: tuple[int, int]
) -> None:
    await follower.append(6)
    await follower.bring((1, 4), repeated)
    assert follower.take_delivered() == [1, 2, 3, 4]
    await follower.bring(repeated)
    assert not follower.take_delivered()
    await follower.bring((repeated[0], 6))  # of a piece, only what is new
    assert follower.take_delivered() == [5, 6]


@pytest.mark.parametrize("brought", [[(4, 4)], [(4, 6)], [(5, 6), (4, 4)], [(6, 6), (4, 5)]])
async def test_a_hole_is_filled_from_the_log(
    follower: Follower, brought: list[tuple[int, int]]
) -> None:
    await follower.append(6)
    await follower.bring((1, 2))
    await follower.bring(*brought)
    assert follower.take_delivered() == [1, 2, 3, 4, 5, 6]
    await follower.bring((3, 3), *brought)  # late
    assert not follower.take_delivered()
    assert not follower.told


async def test_a_hole_of_more_than_one_read_is_filled(follower: Follower) -> None:
    count = 3 * READ_ENTRIES
    await follower.append(count)
    await follower.bring((count, count))
    assert follower.take_delivered() == list(range(1, count + 1))


async def test_what_never_comes_is_found_in_the_log(follower: Follower) -> None:
    feed = follower.feed
    await follower.append(3)
    await follower.bring((1, 1))
    head = (await follower.log.heads([KIND]))[KIND]
    assert feed.is_missing(head, feed.next)
    assert follower.repaired == 0
    await feed.catch_up()
    assert follower.take_delivered() == [1, 2, 3]
    assert follower.repaired == 2
    assert not feed.is_missing(head, feed.next)
    await feed.catch_up()
    assert not follower.delivered


async def test_what_is_not_in_the_log_is_delivered_where_it_comes(follower: Follower) -> None:
    await follower.append(2)
    pieces = [await follower.batch(1, 1), bare("a"), await follower.batch(2, 2), bare("b")]
    await follower.feed.take(pieces)
    await follower.feed.take([bare("c")])
    assert follower.everything == [1, "a", 2, "b", "c"]
    assert follower.feed.position.offset == 2
    assert offsets(follower.feed.read_recent(0)) == [1, 2]


cuts = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 8)), max_size=12)


@settings(deadline=None, max_examples=100)
@given(turns=st.lists(cuts, max_size=6))
def test_whatever_the_group_brings_is_delivered_once_and_in_order(
    turns: list[list[tuple[int, int]]],
) -> None:
    async def bring_all() -> None:
        follower = await started(FickleLog())
        await follower.append(30)
        for cut in turns:
            await follower.bring(*((first, min(30, first + more)) for first, more in cut))
            assert follower.delivered == list(range(1, follower.feed.next))
        await follower.feed.catch_up()
        assert follower.delivered == list(range(1, 31))
        assert not follower.told

    asyncio.run(bring_all())


# What can no longer be delivered


async def test_a_hole_that_is_retained_no_more_is_told(
    follower: Follower, configure: Configure
) -> None:
    configure(history_size="3")
    await follower.append(9)
    await follower.bring((1, 2))
    await follower.bring((9, 9))
    assert follower.everything == [1, 2, Lost(3, 6, "trimmed"), 7, 8, 9]
    assert follower.feed.position.offset == 9
    assert offsets(follower.feed.read_recent(6)) == [7, 8, 9]
    assert follower.feed.read_recent(5) is None


async def test_a_hole_up_to_the_end_is_told(configure: Configure) -> None:
    configure(history_size="1")
    follower = await started(FickleLog())
    await follower.append(4)
    await follower.feed.catch_up()
    assert follower.everything == [Lost(1, 3, "trimmed"), 4]


async def test_another_epoch_is_told(follower: Follower) -> None:
    await follower.append(3)
    await follower.bring((1, 2))
    await follower.flush()
    await follower.append(4)
    old = follower.feed.position.epoch
    await follower.bring((4, 4))
    assert follower.everything == [1, 2, Lost(3, None, "epoch_changed"), 1, 2, 3, 4]
    assert follower.feed.position == (await follower.log.heads([KIND]))[KIND]
    assert offsets(follower.feed.read_recent(0)) == [1, 2, 3, 4]
    await follower.feed.take([batch(old, 3, 3)])  # late, of the log that is lost
    assert len(follower.everything) == 7


async def test_another_epoch_that_goes_on_where_the_old_one_ended_is_told(
    follower: Follower,
) -> None:
    await follower.append(1)
    await follower.bring((1, 1))
    await follower.flush()
    await follower.append(2)
    await follower.bring((2, 2))
    assert follower.everything == [1, Lost(2, None, "epoch_changed"), 1, 2]


async def test_another_epoch_is_told_though_nothing_was_published_in_it(
    follower: Follower,
) -> None:
    await follower.append(2)
    await follower.bring((1, 2))
    await follower.flush()
    head = (await follower.log.heads([KIND]))[KIND]
    assert follower.feed.is_missing(head, follower.feed.next)
    await follower.feed.catch_up()
    assert follower.everything == [1, 2, Lost(3, None, "epoch_changed")]
    head = (await follower.log.heads([KIND]))[KIND]  # looking for messages has begun the log
    assert follower.feed.position == head
    assert not follower.feed.is_missing(head, follower.feed.next)
    assert offsets(follower.feed.read_recent(0)) == []


async def test_another_epoch_whose_beginning_is_retained_no_more_is_told_twice(
    configure: Configure,
) -> None:
    configure(history_size="2")
    follower = await started(FickleLog())
    await follower.append(1)
    await follower.bring((1, 1))
    await follower.flush()
    await follower.append(5)
    await follower.feed.catch_up()
    told = [Lost(2, None, "epoch_changed"), Lost(1, 3, "trimmed")]
    assert follower.everything == [1, *told, 4, 5]


async def test_a_log_that_has_lost_what_was_delivered_begins_anew() -> None:
    log = FickleLog()
    follower = await started(log)
    await follower.append(5)
    await follower.bring((1, 5))
    before = follower.feed.position
    log.lose_newest(2)
    head = (await log.heads([KIND]))[KIND]
    assert head == Position(before.epoch, 3)
    assert follower.feed.is_missing(head, follower.feed.next)
    await follower.feed.catch_up()
    assert follower.everything == [1, 2, 3, 4, 5, Lost(6, None, "epoch_changed")]
    assert follower.feed.position.epoch not in ("", before.epoch)
    assert follower.feed.position.offset == 0
    await follower.append(1)
    await follower.bring((1, 1))
    assert follower.everything[6:] == [1]


# When the log does not answer


async def test_a_hole_waits_for_the_log_and_what_is_in_order_does_not() -> None:
    log = FickleLog()
    follower = await started(log)
    await follower.append(6)
    log.is_away = True
    await follower.bring((1, 2))
    with pytest.raises(Unavailable):
        pieces = [await follower.batch(3, 3), await follower.batch(5, 5), bare("a")]
        await follower.feed.take([*pieces, await follower.batch(6, 6), bare("b")])
    assert follower.everything == [1, 2, 3, "a", "b"]
    with pytest.raises(Unavailable):
        await follower.feed.catch_up()
    await follower.bring((4, 4))  # what was late comes after all
    log.is_away = False
    await follower.feed.catch_up()
    assert follower.everything == [1, 2, 3, "a", "b", 4, 5, 6]
    assert not follower.told


# A failover


async def test_a_failover_that_loses_nothing_is_not_told() -> None:
    log = FickleLog()
    follower = await started(log)
    await follower.append(3)
    await follower.bring((1, 3))
    before = follower.feed.position
    log.fail_over()
    await follower.feed.catch_up()
    assert follower.feed.position.offset == 3 and follower.feed.position.epoch != before.epoch
    assert offsets(follower.feed.read_recent(1)) == [2, 3]
    await follower.append(2)
    await follower.bring((4, 5))
    assert follower.everything == [1, 2, 3, 4, 5]
    assert follower.feed.shared(before) == 3


@pytest.mark.parametrize("more", [0, 1, 2, 5])
async def test_a_failover_that_loses_what_was_delivered_is_told(more: int) -> None:
    """Whoever has the lost messages gets those that now have their offsets, and is told."""
    log = FickleLog()
    follower = await started(log)
    await follower.append(5)
    await follower.bring((1, 5))
    follower.take_delivered()
    old = follower.feed.position
    log.fail_over(lost=2)
    await follower.append(more)
    await follower.feed.catch_up()
    assert follower.everything == [Lost(6, None, "epoch_changed"), *range(4, 4 + more)]
    assert follower.feed.shared(old) == 3
    assert follower.feed.shared(old._replace(offset=2)) == 2


async def test_a_failover_that_loses_what_was_not_delivered_is_not_told() -> None:
    log = FickleLog()
    follower = await started(log)
    await follower.append(2)
    await follower.bring((1, 2))
    await follower.append(3)
    log.fail_over(lost=3)
    await follower.append(2)
    await follower.feed.catch_up()
    assert follower.everything == [1, 2, 3, 4]


# Several at the same time


async def test_those_who_come_meanwhile_wait_for_their_turn() -> None:
    follower = await started(FickleLog())
    await follower.append(9)
    follower.may_go_on.clear()
    delivering = asyncio.create_task(follower.bring((1, 3)))
    await until(lambda: follower.is_delivering)
    assert follower.feed.lock.locked()
    assert follower.feed.position.offset == 0  # nobody has all of them yet
    assert offsets(follower.feed.read_recent(0)) == []
    others = [
        asyncio.create_task(follower.feed.catch_up()),
        asyncio.create_task(follower.bring((4, 5))),
        asyncio.create_task(follower.feed.catch_up()),
        asyncio.create_task(follower.bring((2, 9))),
    ]
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(task.done() for task in (delivering, *others))
    follower.may_go_on.set()
    await asyncio.gather(delivering, *others)
    assert follower.everything == list(range(1, 10))


async def test_reading_the_log_and_taking_do_not_cross() -> None:
    log = FickleLog()
    follower = await started(log)
    await follower.append(4)
    log.delay = 0.01
    catching_up = asyncio.create_task(follower.feed.catch_up())
    await until(follower.feed.lock.locked)
    await follower.bring((1, 2), (3, 4))
    await catching_up
    assert follower.everything == [1, 2, 3, 4]


async def test_what_cannot_be_delivered_holds_nothing_up() -> None:
    follower = await started(FickleLog())
    await follower.append(4)
    follower.failures.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        await follower.bring((1, 2))
    await follower.bring((3, 4))
    assert follower.everything == [3, 4]
    assert follower.feed.position.offset == 4
    assert offsets(follower.feed.read_recent(0)) == [1, 2, 3, 4]


# Reading for those who come


async def test_reading_gives_what_is_at_hand_though_the_log_is_away() -> None:
    log = FickleLog()
    follower = await started(log)
    await follower.append(5)
    await follower.bring((1, 4))
    log.is_away = True
    for after in range(5):
        found = await follower.feed.read(after)
        assert found == follower.feed.read_recent(after)
        assert offsets(found) == list(range(after + 1, 5))
        assert (found.epoch, found.head, found.first) == (*follower.feed.position, after + 1)
    assert follower.feed.read_recent(5) is None  # nothing there: nobody has had it
    with pytest.raises(Unavailable):
        await follower.feed.read(5)


async def test_reading_gives_from_the_log_what_is_not_at_hand(follower: Follower) -> None:
    await follower.append(RECENT_MESSAGES + 20)
    await follower.feed.catch_up()
    found = await follower.feed.read(5)
    # The last piece is given whole.
    count = len(found.messages)
    assert READ_ENTRIES <= count < READ_ENTRIES + 100
    assert offsets(found) == list(range(6, 6 + count))
    assert (found.epoch, found.head, found.first) == (*follower.feed.position, 6)
    assert {message.head[:16] for message in found.messages} == {b'{"type":"data","'}


async def test_what_is_retained_no_more_is_not_at_hand(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(history_size="3", history_ttl="60")
    follower = await started(FickleLog())
    await follower.append(5)
    await follower.bring((1, 5))
    assert follower.feed.read_recent(1) is None
    assert offsets(follower.feed.read_recent(2)) == [3, 4, 5]
    now = time.monotonic()
    monkeypatch.setattr("realtime.delivery.feed.time.monotonic", lambda: now + 61)
    assert follower.feed.read_recent(2) is None
    assert follower.feed.read_recent(4) is None
    assert offsets(follower.feed.read_recent(5)) == []


# Its end


@pytest.mark.parametrize("event", ["more came", "too much came", "flushed"])
async def test_a_look_that_is_under_way_at_its_end_brings_nothing(
    configure: Configure, event: str
) -> None:
    """Who has subscribed since is another feed's."""
    configure(history_size="2")
    log = FickleLog()
    follower = await started(log)
    await follower.append(3 if event == "too much came" else 2)
    log.delay = 0.01
    looking = asyncio.create_task(follower.feed.catch_up())
    await until(follower.feed.lock.locked)
    if event == "flushed":
        log.flush()
    await follower.feed.close()
    await looking
    await follower.feed.catch_up()
    assert follower.everything == []


async def test_its_end_waits_for_what_is_being_delivered() -> None:
    follower = await started(FickleLog())
    await follower.append(2)
    follower.may_go_on.clear()
    delivering = asyncio.create_task(follower.bring((1, 1)))
    await until(lambda: follower.is_delivering)
    closing = asyncio.create_task(follower.feed.close())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not closing.done()
    follower.may_go_on.set()
    await asyncio.gather(closing, delivering)
    await follower.bring((2, 2))
    assert follower.everything == [1]
