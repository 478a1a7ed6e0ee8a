"""When clients of a server that ends are told, and when they come back: evenly."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from realtime.draining import BACK_PER_SECOND, SHORTEST_RETURN, SOONEST, TELLING_SHARE, Drain

DRAINS = st.builds(Drain, st.integers(1, 3000), st.integers(0, 60).map(float))
CHANCE = st.floats(0, 1)


@given(DRAINS)
def test_clients_are_told_one_after_another_in_part_of_the_time(drain: Drain) -> None:
    moments = [drain.told_at(number) for number in range(drain.clients)]
    assert moments[0] == 0
    assert moments == sorted(moments)
    assert moments[-1] <= drain.drain_timeout * TELLING_SHARE


def test_few_clients_are_told_quickly() -> None:
    assert Drain(3, 3600).told_at(2) < 0.01


@given(DRAINS, st.lists(CHANCE, min_size=1))
def test_no_second_has_more_than_its_share_of_reconnects(
    drain: Drain, chances: list[float]
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
    drain: Drain, number: int, chance: float
) -> None:
    latest = round(SOONEST + drain.returning, 3)
    assert SOONEST <= drain.retry_after(number % drain.clients, chance) <= latest
    assert SOONEST <= drain.retry_after_late(chance) <= latest


def test_late_clients_of_an_empty_server() -> None:
    assert Drain(0, 0).retry_after_late(1) == SOONEST + SHORTEST_RETURN
