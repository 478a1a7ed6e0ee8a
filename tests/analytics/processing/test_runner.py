"""Processors: each message counts once, whoever is killed when, and the work is shared."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from realtime import publish_many
from realtime.analytics.processing import state
from realtime.analytics.processing.contract import AnyProcessor, Changes, Records
from realtime.analytics.processing.runner import POLL_INTERVAL, Runner
from realtime.analytics.processing.state import STATE_TTL, Fenced, claim, keep_states, renew, save
from realtime.cluster.clients import ask, sync_client
from realtime.cluster.layer import key, layer_servers
from realtime.cluster.servers import Server
from realtime.log import get_log
from realtime.monitoring.prometheus import expose_processors
from realtime.monitoring.snapshot import FORGET_AFTER, read_reports, report
from realtime.protocol import Position
from tests.support import TIMEOUT, start_program, wait_until
from tests.support.adder import Adder
from tests.support.layers import close_layer, running_valkey, until

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
async def layer(data_dir: Path) -> AsyncIterator[None]:
    with running_valkey(data_dir):
        yield
        await close_layer()


def publish_numbers(*numbers: int) -> None:
    publish_many("events", [{"n": number} for number in numbers])


async def sums() -> list[dict[str, Any]]:
    """Return what the adders have published."""
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        chunk = await get_log().read("aggregations", after)
        if not chunk.entries:
            return found
        found += [msgspec.json.decode(entry.body) for entry in chunk.entries]
        after = chunk.first + len(chunk.entries) - 1


def records(*numbers: int, first: int = 1) -> Records:
    return Records(first, [{"n": number} for number in numbers], [0.0] * len(numbers))


# State


async def test_state_position_and_output_are_saved_together() -> None:
    adder = Adder("one")
    hold = await claim(adder, "me")
    assert hold is not None and hold.position is None
    adder.take(records(*range(10)))
    hold.position = Position("e", 10)
    await save(hold)
    assert await sums() == [{"adder": "one", "count": 10, "sum": 45}]
    again = await claim(other := Adder("one"), "me")
    assert again is not None and again.position == ("e", 10)
    assert (other.count, other.sum) == (10, 45)


async def test_who_has_been_replaced_saves_nothing() -> None:
    first = await claim(adder := Adder("one"), "me")
    assert first is not None
    assert await claim(Adder("one"), "you") is None
    assert await renew(first.processor, "me", give_up=True)
    assert not await renew(first.processor, "me")
    second = await claim(other := Adder("one"), "you")
    assert second is not None
    for hold, processor in (first, adder), (second, other):
        processor.take(records(*range(10)))
        hold.position = Position("e", 10)
    await save(second)
    with pytest.raises(Fenced):
        await save(first)
    assert len(await sums()) == 1


async def test_a_save_whose_answer_was_lost_is_repeated_without_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ask_twice(server: Server, question: Any) -> Any:
        await ask(server, question)
        return await ask(server, question)

    monkeypatch.setattr(state, "ask", ask_twice)
    hold = await claim(adder := Adder("one"), "me")
    assert hold is not None
    for count in 1, 2:
        adder.take(records(*range(10)))
        hold.position = Position("e", 10 * count)
        await save(hold)
        assert len(await sums()) == count


async def test_a_save_that_comes_late_on_a_broken_connection_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hold = await claim(adder := Adder("one"), "me")
    assert hold is not None
    questions: list[Any] = []

    async def ask_and_note(server: Server, question: Any) -> Any:
        questions.append(lambda: ask(server, question))
        return await ask(server, question)

    monkeypatch.setattr(state, "ask", ask_and_note)
    for count in 1, 2:
        adder.take(records(*range(10)))
        hold.position = Position("e", 10 * count)
        await save(hold)
    assert await questions[0]() == -1
    again = await claim(other := Adder("one"), "me")
    assert again is not None and again.position == ("e", 20) and other.count == 20


async def test_nobody_saves_into_a_state_that_began_after_the_data_was_lost() -> None:
    adders = Adder("one"), Adder("one")
    before = await claim(adders[0], "me")
    assert before is not None
    sync_client(layer_servers()[0]).flushall()
    after = await claim(adders[1], "you")
    assert after is not None and after.position is None
    for hold, adder in zip((before, after), adders, strict=True):
        adder.take(records(*range(10)))
        hold.position = Position("e", 10)
    await save(after)
    with pytest.raises(Fenced):
        await save(before)
    # And the other way round: who came after saves, whatever the one before has done.
    await save(after)
    assert len(await sums()) == 1


async def test_who_saves_has_the_lease() -> None:
    hold = await claim(adder := Adder("one"), "me")
    assert hold is not None
    await renew(adder, "me", give_up=True)
    hold.position = Position("e", 10)
    await save(hold)
    assert await claim(Adder("one"), "you") is None


async def test_only_the_state_of_a_processor_that_is_gone_expires() -> None:
    client = sync_client(layer_servers()[0])

    def seconds_left(name: str) -> int:
        return int(client.ttl(key(f"{{aggregations}}:processor:{name}")))

    names = ["on", "paused", "gone"]
    for name in names:
        hold = await claim(Adder(name), "me")
        assert hold is not None
        hold.position = Position("e", 10)
        # As earlier versions left it.
        client.expire(key(f"{{aggregations}}:processor:{name}"), 100)
    await keep_states("aggregations", names)
    assert [seconds_left(name) for name in names] == [-1, -1, -1]
    runner = Runner("adders", lambda: [Adder("on")], lambda: ["paused"])
    task = asyncio.create_task(runner.run())
    await until(lambda: seconds_left("gone") > 0)
    assert [seconds_left(name) for name in names] == [-1, -1, STATE_TTL]
    # It comes back in time.
    await claim(Adder("gone"), "me")
    assert seconds_left("gone") == -1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_save_that_is_given_up_in_the_middle_loses_no_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(server: Server, question: Any) -> Any:
        await asyncio.Event().wait()

    hold = await claim(adder := Adder("one"), "me")
    assert hold is not None
    adder.take(records(*range(10)))
    hold.position = Position("e", 10)
    with monkeypatch.context() as patch:
        patch.setattr(state, "ask", never)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await save(hold)
    # The output is nowhere now, so the state after it must not be saved: it is worked out again.
    adder.take(records(*range(10), first=11))
    hold.position = Position("e", 20)
    with pytest.raises(Fenced):
        await save(hold)
    again = await claim(other := Adder("one"), "me")
    assert again is not None and again.position is None and other.count == 0


async def test_a_large_state_is_saved_in_parts_and_read_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    size, count = 1_000_000, 150

    class LargeAdder(Adder):
        def restore(self, fields: Mapping[str, bytes]) -> None:
            self.fields = fields

        def save(self) -> Changes:
            parts = ({f"part-{n}": bytes(size)} for n in range(count))
            return super().save()._replace(parts=parts)

    hold = await claim(LargeAdder("one"), "me")
    assert hold is not None
    hold.position = Position("e", 10)
    await save(hold)
    again = await claim(adder := LargeAdder("one"), "me")
    assert again is not None and again.position == ("e", 10)
    assert len(adder.fields) == count + 1
    # Who has been replaced while it saves the parts saves none of the others.
    with pytest.raises(Fenced):
        await save(hold)


async def test_another_definition_begins_anew_where_the_old_one_was() -> None:
    hold = await claim(adder := Adder("one"), "me")
    assert hold is not None
    adder.take(records(1, 2, 3))
    hold.position = Position("e", 3)
    await save(hold)
    changed = await claim(new := Adder("one", definition="2"), "me")
    assert changed is not None and changed.position == ("e", 3)
    assert (new.count, new.sum) == (0, 0)


async def test_a_processor_that_keeps_state_gets_that_of_another_definition() -> None:
    hold = await claim(adder := Adder("one"), "me")
    assert hold is not None
    adder.take(records(1, 2, 3))
    hold.position = Position("e", 3)
    await save(hold)
    new = Adder("one", definition="2")
    new.keeps_state = True  # type: ignore[attr-defined]
    changed = await claim(new, "me")
    assert changed is not None and changed.position == ("e", 3)
    assert (new.count, new.sum) == (3, 6)
    assert await renew(new, "me", give_up=True)
    # And the new definition is noted: it is no change any more.
    again = await claim(same := Adder("one", definition="2"), "me")
    assert again is not None and same.sum == 6


class Behind(Adder):
    """An adder whose state is that of the fourth message."""

    def save(self) -> Changes:
        return super().save()._replace(upto=4)


async def test_a_state_that_is_behind_is_restored_where_it_was() -> None:
    for offset in 10, 6:  # the second time not all is taken in again
        hold = await claim(adder := Behind("one"), "me")
        assert hold is not None
        adder.take(records(*range(offset)))
        hold.position = Position("e", offset)
        await save(hold)
        again = await claim(Behind("one"), "me")
        assert again is not None and again.position == ("e", 4)
    changed = await claim(Behind("one", definition="2"), "me")
    assert changed is not None and changed.position == ("e", 10)


# Runners in processes of their own


@pytest.fixture
def start(data_dir: Path) -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def start(count: int) -> subprocess.Popen[str]:
            return start_program(stack, data_dir, "-m", "tests.support.adder", str(count))

        yield start


async def until_summed(count: int, adders: int) -> list[dict[str, Any]]:
    """Wait until each adder has published its sum of so many; return all sums."""
    deadline = time.monotonic() + 30
    while True:
        found = await sums()
        if sum(one["count"] == count for one in found) == adders:
            return found
        assert time.monotonic() < deadline, found[-3:]
        await asyncio.sleep(0.05)


async def test_each_message_counts_once_whoever_is_killed(start: Any) -> None:
    adders = 3
    process = start(adders)
    for start_at in range(0, 5000, 100):
        await asyncio.to_thread(publish_numbers, *range(start_at, start_at + 100))
        if start_at in (1000, 2500):
            await until_summed(500, adders)  # it works
            process.kill()
            process = start(adders)
    found = await until_summed(5000, adders)
    for number in range(adders):
        mine = [one for one in found if one["adder"] == f"adder-{number}"]
        assert [one["count"] for one in mine] == list(range(10, 5001, 10))
        assert all(one["sum"] == sum(range(one["count"])) for one in mine)


async def test_processes_share_the_work(start: Any) -> None:
    first, second = start(4), start(4)
    client = sync_client(layer_servers()[0])

    def owners() -> list[Any]:
        keys = [key(f"{{aggregations}}:processor:adder-{n}:lease") for n in range(4)]
        return list(client.mget(keys))

    wait_until(lambda: None not in owners() and len(set(owners())) == 2)
    assert sorted(map(owners().count, set(owners()))) == [2, 2]
    publish_numbers(*range(100))
    await until_summed(100, 4)
    first.terminate()
    assert first.wait(10) == 0
    wait_until(lambda: None not in owners() and len(set(owners())) == 1)
    publish_numbers(*range(100, 200))
    assert len(await until_summed(200, 4)) == 80
    second.terminate()
    assert second.wait(10) == 0


async def test_what_was_lost_is_told(data_dir: Path) -> None:
    adder = Adder("one")
    hold = await claim(adder, "x")
    assert hold is not None
    hold.position = Position("another log", 7)
    await save(hold)
    await renew(adder, "x", give_up=True)
    publish_numbers(*range(10))
    made: list[Adder] = []

    def load() -> list[Adder]:
        made.append(Adder("one"))
        return made[-1:]

    task = asyncio.create_task(Runner("adders", load).run())
    await until_summed(10, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert made[0].skipped == [(8, None)]
    assert made[0].ticks


async def test_a_processor_whose_state_was_lost_with_the_log_is_told() -> None:
    made: list[Adder] = []

    def load() -> list[Adder]:
        made.append(Adder("one"))
        return made[-1:]

    task = asyncio.create_task(Runner("adders", load).run())
    publish_numbers(*range(10))
    await until_summed(10, 1)
    assert [adder.skipped for adder in made if adder.count] == [[]]
    sync_client(layer_servers()[0]).flushall()
    publish_numbers(*range(10))
    await until_summed(10, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [adder.skipped for adder in made if adder.count][-1] == [(1, None)]


class PatientAdder(Adder):
    """An adder that takes in three messages at a time, and notes when it is called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.sizes: list[int] = []
        self.idle_at: list[float] = []
        self.closed = False

    async def work(self, records: Records) -> int:
        await asyncio.sleep(0)
        if not len(records):
            self.idle_at.append(time.monotonic())
            return records.last
        part = Records(records.first, records.payloads[:3], records.timestamps[:3])
        self.sizes.append(len(part))
        self.take(part)
        return part.last

    def close(self) -> None:
        self.closed = True


async def test_one_that_waits_is_given_what_it_has_left_and_then_rests() -> None:
    publish_numbers(*range(20))
    made: list[PatientAdder] = []

    def load() -> list[PatientAdder]:
        made.append(PatientAdder("one"))
        return made[-1:]

    task = asyncio.create_task(Runner("adders", load).run())
    found = await until_summed(20, 1)
    assert [one["count"] for one in found] == [10, 20]
    adder = made[0]
    await until(lambda: len(adder.idle_at) >= 6)
    # What has nothing to do is not asked all the time.
    assert adder.idle_at[5] - adder.idle_at[0] > 4 * POLL_INTERVAL
    assert adder.sizes == [3, 3, 3, 3, 3, 3, 2]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert adder.closed


class SlowAdder(PatientAdder):
    """An adder that takes in three messages, and no more until it may."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.may_go_on = asyncio.Event()

    async def work(self, records: Records) -> int:
        if self.sizes:
            await self.may_go_on.wait()
        return await super().work(records)


async def lags() -> dict[str, int]:
    return {one.processor: one.lag for one in await read_reports()}


async def until_reported(expected: dict[str, int]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while await lags() != expected:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)


async def test_who_runs_processors_reports_how_far_they_are_behind() -> None:
    publish_numbers(*range(20))
    started = time.time()
    slow, names = SlowAdder("slow"), ["quick", "slow"]

    def load() -> list[Adder]:
        return [slow if name == "slow" else Adder(name) for name in names]

    task = asyncio.create_task(Runner("adders", load).run())
    await until_reported({"quick": 0, "slow": 17})
    slow.may_go_on.set()
    await until_reported({"quick": 0, "slow": 0})
    assert all(one.source == "events" for one in await read_reports())
    assert all(started < one.read_at <= time.time() for one in await read_reports())
    # One that is removed is forgotten; one that nobody runs is not.
    names.remove("slow")
    await until_reported({"quick": 0})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await lags() == {"quick": 0}
    # Unless for very long.
    (quick,) = await read_reports()
    await report("others", [], [msgspec.structs.replace(quick, read_at=started - 2 * FORGET_AFTER)])
    assert await lags() == {}


async def test_what_a_processor_leaves_out_is_reported() -> None:
    publish_numbers(1)
    adder = Adder("one")
    adder.left_out = {"without a time": 3}  # type: ignore[attr-defined]
    task = asyncio.create_task(Runner("adders", lambda: [adder]).run())
    await until_reported({"one": 0})
    text = expose_processors(await read_reports()).decode()
    metric = 'realtime_processor_left_out_messages{processor="one",reason="without a time"'
    assert f'{metric},type="events"}} 3.0' in text
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_processor_is_prepared_before_it_gets_messages() -> None:
    """Those that are published meanwhile wait for it; a failure is tried again."""
    publish_numbers(1)
    begun, may_end, attempts = asyncio.Event(), asyncio.Event(), 0
    adder = Adder("one")
    adder.from_start = False

    async def prepare(processor: AnyProcessor) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ValueError("not yet")
        begun.set()
        await may_end.wait()

    runner = Runner("adders", lambda: [adder], prepare=prepare)
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(TIMEOUT):
        await begun.wait()
    publish_numbers(2, 3)
    assert await runner.saved_processors() == []
    assert (await get_log().read("events", 0)).head == 3 and adder.count == 0
    may_end.set()
    await until(lambda: adder.sum == 5)
    assert await runner.saved_processors() == [adder]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_one_that_fails_is_not_reported_as_having_read() -> None:
    publish_numbers(1)
    failures = 0

    class FailingAdder(Adder):
        def take(self, records: Records) -> None:
            nonlocal failures
            failures += 1
            raise ValueError("no sum")

    task = asyncio.create_task(Runner("adders", lambda: [FailingAdder("bad"), Adder("good")]).run())
    await until(lambda: failures >= 2)
    assert [one.processor for one in await read_reports()] == ["good"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
