"""Rates, batches and slow readers, in memory and in a time that nobody waits for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import pytest

from realtime.delivery.dispatcher import Dispatcher
from realtime.delivery.feed import Feed, Lost, ReceivedBatch
from realtime.filters import EVERYTHING, Filter
from realtime.filters.compiler import compile_filters
from realtime.hub.groups import Subscription
from realtime.hub.index import Hub
from realtime.hub.message import Message
from realtime.log.contract import MemoryLog
from realtime.monitoring.metrics import Counters
from realtime.protocol import CloseCode, CloseReason, Position, split_frames
from realtime.protocol.subscribe import read_options
from realtime.tasks import TimeSlice
from realtime.testing import FakeClock
from tests.support.layers import until

KIND = "events"
BUFFER = 4096


class Client:
    """A connection whose client reads at once, or only when it is told to."""

    deflated = False
    bytes_sent = 0
    on_lost: Callable[[], None] | None = None
    on_ended: Callable[[CloseReason], None] | None = None

    def __init__(self, clock: FakeClock, reads: bool = True) -> None:
        self.reads = reads
        # What was written, each message with the time.
        self.received: list[tuple[float, dict[str, Any]]] = []
        self._clock = clock
        self._waiting = 0
        # Seconds that one write takes.
        self.slowness = 0.0

    def write(self, frames: bytes) -> None:
        """Take frames."""
        self._clock.advance(self.slowness)
        self.received += [(self._clock.now, json.loads(text)) for text in split_frames(frames)]
        self._waiting += 0 if self.reads else len(frames)

    def read(self) -> None:
        """Read what waits, and all that comes."""
        self.reads, self._waiting = True, 0

    def buffered_bytes(self) -> int:
        """Return how many bytes wait."""
        return self._waiting

    def overflow(self) -> None:
        """Nobody here is closed."""
        raise AssertionError("closed")

    def trust(self) -> None:
        """Nobody here authenticates."""

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """Nobody here is closed."""
        raise AssertionError(reason)

    def offsets(self) -> list[tuple[float, list[int]]]:
        """Return when which offsets came: those of a batch, or one."""
        rows = []
        for when, message in self.received:
            if message["type"] == "data_batch":
                items = message["data"]["messages"]
                rows.append((when, [item["metadata"]["offset"] for item in items]))
            elif message["type"] == "data":
                rows.append((when, [message["metadata"]["offset"]]))
        return rows

    def numbers(self) -> list[int]:
        """Return the offsets that have come."""
        return [offset for _, row in self.offsets() for offset in row]

    def losses(self) -> list[tuple[float, dict[str, Any]]]:
        """Return when which losses were told."""
        errors = [(when, m["data"]) for when, m in self.received if m["type"] == "error"]
        assert all(error["code"] == "data_lost" for _, error in errors)
        return [(when, error["details"]) for when, error in errors]


class Scene:
    """A hub, a dispatcher and a feed whose messages come from nowhere."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.hub = Hub()
        self.stats = Counters()
        self.dispatcher = Dispatcher(
            self.hub, self.stats, lambda: BUFFER, "process", lambda kind: self.feed, self._spawn
        )
        self.feed = Feed(KIND, MemoryLog(), self.dispatcher)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda done: done.result())
        return task

    def client(
        self,
        *,
        reads: bool = True,
        own_id: str = "s",
        filters: Filter = EVERYTHING,
        **options: Any,
    ) -> tuple[Client, Subscription]:
        """Return a client with a live subscription."""
        client = Client(self.clock, reads)
        subscription = self.hub.subscribe(client, KIND, filters, own_id, read_options(options))
        self.hub.activate(subscription)
        return client, subscription

    async def publish(self, *payloads: dict[str, Any]) -> None:
        """Let the group bring messages, which follow those before."""
        first = Position(self.feed.position.epoch, self.feed.next)
        messages = [
            Message(KIND, json.dumps(payload).encode(), self.clock.time(), Position(first.epoch, n))
            for n, payload in enumerate(payloads, first.offset)
        ]
        await self.feed.take([ReceivedBatch(first, messages)])

    def position(self, subscription: Subscription) -> int:
        """Return the offset up to which a subscription has been sent all, or told."""
        return self.dispatcher.throttle.position(subscription, self.feed.position).offset

    def leave(self, subscription: Subscription) -> None:
        """End a subscription."""
        assert self.hub.unsubscribe(subscription)
        self.dispatcher.throttle.forget(subscription)

    def is_idle(self) -> bool:
        """Tell whether the throttle has nothing to do any more."""
        throttle = self.dispatcher.throttle
        return not throttle._timers and not throttle._dropped


def play(story: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    """Run what happens in a scene."""
    clock = FakeClock()

    async def begin() -> None:
        scene = Scene(clock)
        await scene.feed.start()
        await story(scene)

    with (
        mock.patch(f"{TimeSlice.__module__}.time", clock),
        mock.patch(f"{Dispatcher.__module__}.time", clock),
    ):
        clock.run(begin())


def text(size: int) -> dict[str, Any]:
    """Return a payload of about so many bytes."""
    return {"text": "x" * size}


# Rates and batches


def test_the_first_message_leaves_at_once_and_then_the_newest_at_the_rate() -> None:
    async def story(scene: Scene) -> None:
        client, subscription = scene.client(max_rate=2)
        for _ in range(6):
            await scene.publish({}, {})
            await asyncio.sleep(0.15)
        assert scene.position(subscription) == 11  # which 12 has superseded
        await asyncio.sleep(10)
        assert client.offsets() == [(0.0, [2]), (0.5, [8]), (1.0, [12])]
        assert scene.position(subscription) == 12 and scene.is_idle()
        assert scene.stats.delivered[KIND] == 3

    play(story)


def test_the_newest_of_each_value_leaves_at_the_rate() -> None:
    async def story(scene: Scene) -> None:
        client, subscription = scene.client(max_rate=1, conflate="k")
        await scene.publish({"k": 1})
        await scene.publish({"k": 1}, {"k": 2}, {"k": 1}, {"k": 3})
        await asyncio.sleep(0.5)
        assert scene.position(subscription) == 2  # 2 is superseded, 3 waits
        await asyncio.sleep(5)
        assert client.offsets() == [(0.0, [1]), (1.0, [3]), (1.0, [4]), (1.0, [5])]

    play(story)


def test_messages_of_a_batch_leave_together() -> None:
    async def story(scene: Scene) -> None:
        client, _ = scene.client(batch_ms=100)
        plain, _ = scene.client()
        for seconds in (0.0625, 0.125, 0.0):
            await scene.publish({})
            await asyncio.sleep(seconds)
        await asyncio.sleep(1)
        assert [(when, row) for when, row in client.offsets()] == [
            (0.1, [1, 2]),
            (0.1875 + 0.1, [3]),
        ]
        assert [when for when, _ in plain.offsets()] == [0.0, 0.0625, 0.1875]
        assert scene.is_idle()

    play(story)


def test_a_member_that_joins_while_messages_are_held_receives_later_ones() -> None:
    async def story(scene: Scene) -> None:
        old, _ = scene.client(batch_ms=100)
        await scene.publish({}, {})
        new, subscription = scene.client(batch_ms=100)
        assert scene.position(subscription) == 2
        await scene.publish({})
        await asyncio.sleep(1)
        assert [row for _, row in old.offsets()] == [[1, 2, 3]]
        assert [row for _, row in new.offsets()] == [[3]]

    play(story)


def test_a_group_whose_last_member_leaves_sends_nothing_and_has_no_timer() -> None:
    async def story(scene: Scene) -> None:
        leaving, first = scene.client(batch_ms=100)
        staying, second = scene.client(batch_ms=100)
        await scene.publish({})
        scene.leave(first)
        assert not scene.is_idle()
        scene.leave(second)
        assert scene.is_idle()
        await asyncio.sleep(1)
        assert leaving.received == staying.received == []

    play(story)


def test_a_timer_that_has_rung_waits_for_what_is_being_delivered() -> None:
    async def story(scene: Scene) -> None:
        client, subscription = scene.client(batch_ms=100)
        await scene.publish({})
        async with scene.feed.lock:
            await asyncio.sleep(0.25)
            assert client.received == []
        await asyncio.sleep(0)
        assert client.offsets() == [(0.25, [1])]
        # One that leaves while it waits gets nothing.
        await scene.publish({})
        async with scene.feed.lock:
            await asyncio.sleep(0.25)
            scene.leave(subscription)
        await asyncio.sleep(1)
        assert len(client.received) == 1 and scene.is_idle()

    play(story)


def test_what_is_held_leaves_before_a_loss_is_told() -> None:
    async def story(scene: Scene) -> None:
        client, _ = scene.client(batch_ms=1000)
        await scene.publish({}, {})
        scene.dispatcher.tell_lost(KIND, Lost(3, 5, "trimmed"))
        assert client.offsets() == [(0.0, [1, 2])]
        assert client.losses() == [(0.0, {"from": 3, "to": 5, "reason": "trimmed"})]
        assert [message["type"] for _, message in client.received] == ["data_batch", "error"]
        assert scene.is_idle() and scene.stats.lost[KIND] == 3

    play(story)


@pytest.mark.parametrize("options", [{}, {"batch_ms": 1}])
def test_a_large_fan_out_lets_others_run(options: dict[str, Any]) -> None:
    async def story(scene: Scene) -> None:
        clients = [scene.client(own_id=f"s{n % 2}", **options)[0] for n in range(500)]
        for client in clients:
            client.slowness = 0.001
        turns: list[int] = []

        async def other() -> None:
            while not turns or turns[-1] < len(clients):
                turns.append(sum(bool(client.received) for client in clients))
                await asyncio.sleep(0.001)

        task = asyncio.create_task(other())
        await scene.publish({})
        await task
        assert all(len(client.received) == 1 for client in clients)
        # Some had received it and others had not.
        assert len({count for count in turns if 0 < count < 500}) >= 2

    play(story)


# Clients that do not read


def test_a_client_that_does_not_read_misses_messages_and_is_told() -> None:
    async def story(scene: Scene) -> None:
        slow, subscription = scene.client(reads=False, on_overflow="drop")
        quick, _ = scene.client(on_overflow="drop")
        for _ in range(5):
            await scene.publish(text(800))
        # Half of the buffer takes two; the rest of it is for all else.
        assert [row for _, row in slow.offsets()] == [[1], [2]]
        assert slow.buffered_bytes() <= BUFFER // 2
        assert [row for _, row in quick.offsets()] == [[1], [2], [3], [4], [5]]
        assert scene.stats.dropped[KIND] == 3 and scene.stats.delivered[KIND] == 7
        assert scene.position(subscription) == 2
        await asyncio.sleep(10)
        assert slow.losses() == []  # it has read nothing
        slow.read()
        await scene.publish({})  # lost as well: it has not been told yet
        await asyncio.sleep(0.2)
        assert [told for _, told in slow.losses()] == [{"from": 3, "to": 6, "reason": "overflow"}]
        assert scene.position(subscription) == 6 and scene.is_idle()
        await scene.publish({})
        assert [row for _, row in slow.offsets()] == [[1], [2], [7]]
        assert quick.losses() == []

    play(story)


def test_one_message_that_is_larger_than_the_buffer_reaches_a_client_that_reads() -> None:
    async def story(scene: Scene) -> None:
        client, _ = scene.client(reads=False, on_overflow="drop")
        await scene.publish(text(2 * BUFFER))
        await scene.publish({})
        assert [row for _, row in client.offsets()] == [[1]]
        client.read()
        await asyncio.sleep(0.2)
        assert [told for _, told in client.losses()] == [{"from": 2, "to": 2, "reason": "overflow"}]

    play(story)


def test_the_loss_of_messages_that_are_in_no_log_has_no_offsets() -> None:
    async def story(scene: Scene) -> None:
        client, _ = scene.client(reads=False, on_overflow="drop")
        await scene.publish(text(BUFFER))
        bare = Message(KIND, b"{}", scene.clock.time())
        await scene.feed.take([ReceivedBatch(None, [bare])])
        client.read()
        await asyncio.sleep(0.2)
        assert [told for _, told in client.losses()] == [
            {"from": None, "to": None, "reason": "overflow"}
        ]

    play(story)


def test_one_who_leaves_while_messages_are_dropped_is_forgotten() -> None:
    async def story(scene: Scene) -> None:
        client, subscription = scene.client(reads=False, on_overflow="drop", max_rate=1)
        await scene.publish(text(BUFFER))
        await scene.publish({})
        await asyncio.sleep(2)
        assert scene.stats.dropped[KIND] == 1 and not scene.is_idle()
        scene.leave(subscription)
        client.read()
        await asyncio.sleep(1)
        assert client.losses() == [] and scene.is_idle()

    play(story)


def test_what_was_dropped_is_told_before_another_epoch_gives_its_offsets_to_others() -> None:
    async def story(scene: Scene) -> None:
        slow, subscription = scene.client(reads=False, on_overflow="drop")
        for _ in range(5):
            await scene.publish(text(800))
        assert scene.position(subscription) == 2
        scene.feed._skip(Lost(6, None, "epoch_changed"), Position("another", 0))
        for _ in range(4):
            await scene.publish(text(800))
        assert scene.position(subscription) == 0  # not 4: these were dropped as well
        slow.read()
        await asyncio.sleep(0.2)
        assert [told for _, told in slow.losses()] == [
            {"from": 3, "to": 5, "reason": "overflow"},
            {"from": 6, "to": None, "reason": "epoch_changed"},
            {"from": 1, "to": 4, "reason": "overflow"},
        ]
        assert scene.position(subscription) == 4 and scene.is_idle()

    play(story)


# Filters that change while messages are being written


FIRST, SECOND = compile_filters({"first": True}), compile_filters({"second": True})
# Which of two filters the messages of one delivery pass.
ROW = [{"first": True}, {"second": True}, {"first": True, "second": True}, {}]


@pytest.mark.parametrize("changed", ["written", "waiting", "all"])
@pytest.mark.parametrize("there", [True, False], ids=["others have them", "nobody has them"])
@pytest.mark.parametrize("options", [{}, {"fields": ["n"]}, {"batch_ms": 1}], ids=str)
def test_filters_that_change_during_a_fan_out_do_so_between_two_messages(
    options: dict[str, Any], there: bool, changed: str
) -> None:
    async def story(scene: Scene) -> None:
        rows = [scene.client(filters=FIRST, own_id=f"s{n % 2}", **options) for n in range(500)]
        if there:
            scene.client(filters=SECOND, **options)
        for client, _ in rows:
            client.slowness = 0.001
        publishing = asyncio.create_task(scene.publish(*ROW))
        await until(lambda: sum(bool(client.received) for client, _ in rows) >= 200)
        written = [row for row in rows if row[0].received]
        waiting = [row for row in rows if row not in written]
        changing = {"written": written, "waiting": waiting, "all": rows}[changed]
        counts = {client: len(client.numbers()) for client, _ in rows}
        assert set(counts.values()) == {0, 2}, "the fan-out is over"
        for _, subscription in changing:
            scene.dispatcher.change_filter(subscription, SECOND)
            # A batch is written when its messages have been delivered to all others.
            assert scene.position(subscription) == (4 if "batch_ms" in options else 0)
        await publishing
        await scene.publish(*ROW)
        await asyncio.sleep(1)
        for row in rows:
            client, subscription = row
            numbers, count = client.numbers(), counts[client]
            if row not in changing:
                assert numbers == [1, 3, 5, 7]
            elif row in written:
                assert (numbers[:count], numbers[count:]) == ([1, 3], [6, 7])
            else:  # a group with options had taken 1 and 3 for it by the old filters
                assert numbers == ([3, 6, 7] if options else [2, 3, 6, 7])
            assert scene.position(subscription) == 8
        assert scene.is_idle()

    play(story)


def test_two_types_at_once_see_to_their_own_groups() -> None:
    """What a group of one type holds is sent under the lock of its own type's feed only."""

    async def story(scene: Scene) -> None:
        clients = [scene.client(own_id=f"s{n}")[0] for n in range(300)]
        other, _ = scene.client(fields=["n"])
        for client in clients:
            client.slowness = 0.001
        publishing = asyncio.create_task(scene.publish({}))
        await until(lambda: bool(clients[70].received))
        await scene.dispatcher.deliver("alerts", [Message("alerts", b"{}", 0.0)], [])
        assert other.received == []
        await publishing
        assert other.numbers() == [1]

    play(story)
