"""When clients of a server that ends are told, and when they come back: evenly."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from realtime.sessions.drain import (
    BACK_PER_SECOND,
    SHORTEST_RETURN,
    SOONEST,
    TELLING_SHARE,
    DrainPlan,
)

DRAINS = st.builds(DrainPlan, st.integers(1, 3000), st.integers(0, 60).map(float))
CHANCE = st.floats(0, 1)


@given(DRAINS)
def test_clients_are_told_one_after_another_in_part_of_the_time(drain: DrainPlan) -> None:
    moments = [drain.told_at(number) for number in range(drain.clients)]
    assert moments[0] == 0
    assert moments == sorted(moments)
    assert moments[-1] <= drain.drain_timeout * TELLING_SHARE


def test_few_clients_are_told_quickly() -> None:
    assert DrainPlan(3, 3600).told_at(2) < 0.01


@given(DRAINS, st.lists(CHANCE, min_size=1))
def test_no_second_has_more_than_its_share_of_reconnects(
    drain: DrainPlan, chances: list[float]
) -> None:
    back = sorted(
        drain.told_at(number) + drain.retry_after(number, chances[number % len(chances)])
        for number in range(drain.clients)
    )
    # A client more at each end, and one for those that share a moment where two shares meet.
    most = math.ceil(min(BACK_PER_SECOND, drain.clients / drain.returning)) + 3
    for first, after in zip(back, back[most:], strict=False):
        assert after - first > 1


@given(DRAINS, st.integers(0, 2999), CHANCE)
def test_nobody_is_asked_to_come_back_at_once_or_later_than_all(
    drain: DrainPlan, number: int, chance: float
) -> None:
    latest = round(SOONEST + drain.returning, 3)
    assert SOONEST <= drain.retry_after(number % drain.clients, chance) <= latest
    assert SOONEST <= drain.retry_after_late(chance) <= latest


MOVES = st.builds(DrainPlan, st.integers(1, 3000), st.integers(1, 60).map(float), st.just(True))


@given(MOVES, st.integers(0, 2999), CHANCE)
def test_who_moves_to_others_does_not_wait_for_more_than_their_pace(
    drain: DrainPlan, number: int, chance: float
) -> None:
    number %= drain.clients
    wait = drain.retry_after(number, chance)
    assert wait >= 0
    # By then as many have come back as others take in that time.
    assert drain.told_at(number) + wait <= (number + 1) / BACK_PER_SECOND + 0.001


def test_few_who_move_come_back_at_once() -> None:
    assert all(
        DrainPlan(100, 10, is_moving=True).retry_after(number, 1) < 0.01 for number in range(100)
    )


def test_late_clients_of_an_empty_server() -> None:
    assert DrainPlan(0, 0).retry_after_late(1) == SOONEST + SHORTEST_RETURN
