"""One round: a site, its steps, and what is wrong afterwards; and how few steps do it too."""

from __future__ import annotations

import asyncio
import tempfile
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from realtime.torture.checks import check_publisher, check_record
from realtime.torture.history import History
from realtime.torture.results import check_results, missing_results
from realtime.torture.site import Site
from realtime.torture.steps import Step, fewer


@dataclass
class Outcome:
    """What a round did, in numbers, and what is wrong."""

    steps: int
    published: int = 0
    delivered: int = 0
    told: int = 0
    results: int = 0
    complaints: tuple[str, ...] = ()

    @property
    def operations(self) -> int:
        return self.steps + self.published + self.delivered + self.results

    def __str__(self) -> str:
        return (
            f"{self.steps} faults, {self.published:,} published, "
            f"{self.delivered:,} delivered and checked, {self.results:,} results of windows, "
            f"{self.told} times told of a loss"
        )


async def play(steps: Sequence[Step], length: float, make_site: Callable[[Path], Site]) -> Outcome:
    """Do the steps to a new site for so many seconds, and check what came of it."""
    with tempfile.TemporaryDirectory(prefix="torture-") as directory:
        site = make_site(Path(directory))
        try:
            async with site.running():
                await _take_steps(site, steps, length)
                histories = await site.finish()
        except Exception:  # such as a client that was refused, or a process that does not come back
            lines = traceback.format_exc().splitlines()
            return Outcome(len(steps), complaints=("the round came to no end:", *lines))
        return judge(site, histories, len(steps))


async def _take_steps(site: Site, steps: Sequence[Step], length: float) -> None:
    started = time.monotonic()

    async def take(step: Step) -> None:
        await asyncio.sleep(started + step.at - time.monotonic())
        await getattr(site, step.fault)(step)

    async with asyncio.TaskGroup() as group:
        for step in steps:
            group.create_task(take(step))
        group.create_task(asyncio.sleep(length))


def judge(site: Site, histories: dict[str, History], steps: int) -> Outcome:
    """Compare what everybody saw with what the logs held."""
    complaints = [*check_results(histories), *missing_results(histories)]
    history = histories["events"]
    for publisher in site.publishers:
        complaints += check_publisher(publisher.name, publisher.confirmed, history)
    for consumer in site.consumers:
        complaints += check_record(consumer.record, histories[consumer.record.kind])
    return Outcome(
        steps=steps,
        published=sum(part.messages for each in site.publishers for part in each.confirmed),
        delivered=sum(len(consumer.record.received) for consumer in site.consumers),
        told=sum(len(consumer.record.told) for consumer in site.consumers),
        results=sum(len(chapter.entries) for chapter in histories["aggregations"].chapters),
        complaints=tuple(complaints),
    )


async def shorten(
    steps: Sequence[Step],
    fails: Callable[[Sequence[Step]], Awaitable[bool]],
    seconds: float,
) -> list[Step]:
    """Leave out steps while what is left fails too, at most for so many seconds (ddmin)."""
    left, parts = list(steps), 2
    deadline = time.monotonic() + seconds
    while len(left) > 1:
        for attempt in fewer(left, parts):
            if time.monotonic() > deadline:
                return left
            if await fails(attempt):
                left, parts = attempt, max(2, parts - 1)
                break
        else:
            if parts >= len(left):
                break
            parts = min(len(left), 2 * parts)
    if len(left) == 1 and time.monotonic() < deadline and await fails([]):
        return []
    return left
