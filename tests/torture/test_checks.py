"""The torturer's checks find what they are for, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from realtime.protocol import Position
from realtime.torture.checks import (
    Confirmation,
    Received,
    Record,
    Told,
    check_publisher,
    check_record,
)
from realtime.torture.history import Chapter, Entry, History
from realtime.torture.results import LIVE, check_results, missing_results, recompute
from realtime.torture.rounds import shorten
from realtime.torture.steps import WEIGHTS, Step, draw


def payload(number: int) -> dict[str, Any]:
    return {"publisher": "a", "n": number, "odd": number % 2 == 1}


def chapter(count: int, *ends: tuple[str, int], first: int = 1) -> Chapter:
    entries = [Entry(0.0, payload(number)) for number in range(first, first + count)]
    return Chapter([Position(*end) for end in ends], entries)


@pytest.fixture
def history() -> History:
    """Epoch a lost what followed 5 in a failover, b goes on; then the store was emptied."""
    first = chapter(9, ("a", 5), ("b", 9))
    return History([first, chapter(3, ("c", 3), first=10)], broken={"a"})


def seen(
    *positions: tuple[str, int],
    told: Sequence[tuple[str, int]] = (),
    filters: Any = None,
    start: tuple[str, int] = ("a", 0),
) -> Record:
    """Return what a client saw that got these messages, and is at the end."""
    numbers = {"a": 0, "b": 0, "c": 9}
    return Record(
        "client",
        "events",
        filters or {},
        start=Position(*start),
        end=Position("c", 3),
        received=[Received(Position(e, o), payload(numbers[e] + o)) for e, o in positions],
        told=[Told(Position(*each), "epoch_changed") for each in told],
    )


A, B, C = ([(epoch, n) for n in range(1, 10)] for epoch in "abc")
WHOLE = [*A[:5], *B[5:9], *C[:3]]


def test_who_got_everything_and_was_told_is_content(history: History) -> None:
    assert check_record(seen(*WHOLE, told=[("b", 9)]), history) == []
    # Two messages of the end that was lost; then those that have their offsets now.
    record = seen(*A[:7], *B[5:9], *C[:3], told=[("a", 7), ("b", 9)])
    assert check_record(record, history) == []
    # Cut off before anything came, and told again.
    record = seen(*A[:7], *B[5:9], *C[:3], told=[("a", 7), ("a", 7), ("b", 9)])
    assert check_record(record, history) == []
    # Away while the store was emptied: what it would have got is lost.
    assert check_record(seen(*A[:3], *C[:3], told=[("a", 3)]), history) == []
    odd = [WHOLE[n] for n in (0, 2, 4, 6, 8, 10)]
    assert check_record(seen(*odd, told=[("b", 9)], filters={"odd": True}), history) == []


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (seen(*WHOLE), "was not told"),
        (seen(*A[:7], *B[7:9], *C[:3], told=[("a", 7), ("b", 9)]), "never came, at [6, 7]"),
        (seen(*A[:7], *B[5:9], *C[:3], told=[("b", 9)]), "was not told"),
        (seen(*WHOLE[:3], *WHOLE[4:], told=[("b", 9)]), "never came, at [4]"),
        (seen(*WHOLE[:-1], told=[("b", 9)]), "never came, at [3]"),
        (seen(*WHOLE[:4], *WHOLE[3:], told=[("b", 9)]), "came again, or after"),
        (seen(*A[:7], A[6], *B[5:9], *C[:3], told=[("a", 7), ("b", 9)]), "came again, or after"),
        (seen(*WHOLE, told=[("b", 7), ("b", 9)]), "though nothing was lost"),
        (seen(*WHOLE, told=[("b", 9), ("c", 2)]), "though nothing was lost"),
        (seen(*WHOLE, ("b", 10), told=[("b", 9)]), "is in no log"),
        (seen(*WHOLE, told=[("b", 9)], start=("d", 1)), "unknown epoch"),
        (seen(*WHOLE, told=[("b", 9)], filters={"odd": 7}), ""),
    ],
)
def test_what_a_client_missed_is_found(history: History, record: Record, complaint: str) -> None:
    complaints = check_record(record, history)
    if complaint:
        assert any(complaint in each for each in complaints), complaints
    else:
        assert complaints == []  # it may get more than it must


def test_another_message_is_found(history: History) -> None:
    record = seen(*WHOLE, told=[("b", 9)])
    record.received[0] = Received(Position("a", 1), payload(2))
    assert "came {'publisher': 'a', 'n': 2" in check_record(record, history)[0]


def test_what_a_publisher_was_told_is_checked(history: History) -> None:
    def check(*confirmations: Confirmation) -> list[str]:
        return list(check_publisher("a", confirmations, history))

    assert check(Confirmation(1, 5, Position("a", 1)), Confirmation(10, 3, Position("c", 1))) == []
    assert check(Confirmation(6, 2, Position("a", 6))) == []  # lost in the failover
    assert "was confirmed at" in check(Confirmation(2, 1, Position("a", 1)))[0]
    assert "is lost" in check(Confirmation(13, 1, Position("c", 4)))[0]
    assert "unknown epoch" in check(Confirmation(1, 1, Position("d", 1)))[0]
    history.chapters[0].entries[3] = history.chapters[0].entries[2]
    assert check() == ["a: 3 follows 3 in the log, at 4"]


def test_epochs_that_were_lost_as_a_whole_are_not_unknown() -> None:
    """Both began between the promotion of a replica and the death of its primary."""
    history = History()
    history.lose(chapter(7, ("a", 4), ("x", 5), ("y", 7)), chapter(4, ("a", 4)))
    history.lose(chapter(2, ("z", 2)), None)  # the replica had no log
    history.add(chapter(6, ("a", 4), ("b", 6)))
    assert history.broken == {"x", "y", "z"}
    assert history.find(Position("x", 4)) == (1, 4, False)
    assert history.find(Position("y", 6)) == (1, 6, True)
    assert history.find(Position("z", 2)) == (0, 2, False)
    assert history.find(Position("b", 6)) == (1, 6, False)
    assert history.find(Position("q", 1)) is None
    ages = [history.age(Position(epoch, 5)) for epoch in "zaxyb"]
    assert ages == sorted(ages)
    confirmed = [Confirmation(1, 2, Position("z", 1)), Confirmation(6, 2, Position("y", 6))]
    assert list(check_publisher("a", confirmed, history)) == []
    history.lose(chapter(6, ("a", 4), ("b", 6)), chapter(6, ("a", 4), ("b", 6)))
    assert history.broken == {"x", "y", "z"}


def test_a_seed_gives_the_same_steps_and_lines_keep_them() -> None:
    steps = draw(random.Random(1), 60, WEIGHTS)
    assert steps == draw(random.Random(1), 60, WEIGHTS) != draw(random.Random(2), 60, WEIGHTS)
    assert len(steps) > 30
    assert [Step.read(str(step)) for step in steps] == steps


async def test_few_steps_are_left_of_those_that_fail() -> None:
    steps = draw(random.Random(1), 60, WEIGHTS)
    needed = {steps[7], steps[30]}
    attempts = 0

    async def fails(attempt: Sequence[Step]) -> bool:
        nonlocal attempts
        attempts += 1
        return needed <= set(attempt)

    assert set(await shorten(steps, fails, 60)) == needed
    assert attempts < 60
    assert await shorten(steps, fails, 0) == steps

    async def always(attempt: Sequence[Step]) -> bool:
        return True

    assert await shorten(steps, always, 60) == []


def test_results_are_worked_out_anew_from_the_log() -> None:
    entries = [
        Entry(1000.0 + number / 4, payload(number) | {"at": 1000.0 + number / 4})
        for number in range(1, 9)
    ]
    events = Chapter([Position("a", 8)], entries)
    expected = recompute(LIVE, entries)
    assert [tuple(values.values()) for values in expected.values()] == [(3, 6), (4, 22), (1, 8)]
    results = [
        {"rule": rule, "group": {}, "window": {"start": start}, "values": values}
        for (rule, _, start), values in expected.items()
    ]

    def check(*changed: dict[str, Any]) -> str:
        chapter = Chapter([Position("b", len(changed))], [Entry(0.0, each) for each in changed])
        histories = {"events": History([events]), "aggregations": History([chapter])}
        return "\n".join([*check_results(histories), *missing_results(histories)])

    assert check(*results) == ""
    assert check({**results[0], "incomplete": True}, *results[1:]) == ""  # the log begins there
    assert "nothing was lost" in check(*results[:2], {**results[2], "incomplete": True})
    assert "is missing: {'count': 1, 'sum': 8}" in check(*results[:2])
    assert "is there 2 times" in check(*results, results[1])
    assert "not {'count': 1, 'sum': 8}" in check(*results[:2], {**results[2], "values": {}})
