"""Who is let in, who gives way, whose rights end; when clients of a server that ends go."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.auth.grants import Grant
from realtime.config import WebSocketConfig
from realtime.protocol import CloseCode, CloseReason
from realtime.sessions import connections
from realtime.sessions.connections import (
    BACK_PER_SECOND,
    SHORTEST_RETURN,
    SOONEST,
    TELLING_SHARE,
    DrainPlan,
    Roster,
)
from realtime.sessions.session import Session

GRANT = Grant("token:1", "rt_1", frozenset({"events"}))
PLENTY = WebSocketConfig(max_connections=200)


class Page(Session):
    """A client that only remembers how it was ended."""

    def __init__(self, address_key: str = "10.0.0.1") -> None:
        self.grant = None
        self.address_key = address_key
        self.ended: tuple[CloseCode, CloseReason] | None = None

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Remember."""
        self.ended = code, reason


def fill(roster: Roster, config: WebSocketConfig, *addresses: str) -> list[Page]:
    """Let pages in that have to authenticate."""
    pages = [Page(address) for address in addresses]
    for page in pages:
        assert roster.admit(page, config) is None
    return pages


@pytest.fixture
def all_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have room for as many who wait as for connections."""
    monkeypatch.setattr(connections, "UNAUTHENTICATED_SHARE", 1.0)


@pytest.mark.parametrize(("most", "waiting"), [(1000, 500), (1, 1), (7, 3)])
def test_of_the_connections_half_may_wait(most: int, waiting: int) -> None:
    roster = Roster()
    pages = fill(roster, WebSocketConfig(max_connections=most), *["a"] * (waiting + 1))
    assert [page.ended is None for page in pages] == [False] + [True] * waiting


@pytest.mark.usefixtures("all_may_wait")
def test_the_oldest_that_waits_gives_way_to_a_newcomer() -> None:
    roster, config = Roster(), WebSocketConfig(max_connections=3)
    pages = fill(roster, config, *"aaa")
    roster.bind(pages[0], GRANT)
    newcomer = Page()
    assert roster.admit(newcomer, config) is None
    assert [page.ended for page in pages] == [
        None,
        (CloseCode.TRY_AGAIN_LATER, CloseReason.CAPACITY),
        None,
    ]
    assert list(roster.clients) == [pages[0], pages[2], newcomer]


@pytest.mark.usefixtures("all_may_wait")
def test_nobody_who_has_authenticated_gives_way() -> None:
    roster, config = Roster(), WebSocketConfig(max_connections=2)
    for page in fill(roster, config, *"ab"):
        roster.bind(page, GRANT)
    assert roster.admit(Page("c"), config) is CloseReason.CAPACITY
    assert len(roster.clients) == 2 and set(roster.by_address) == {"a", "b"}


def test_those_who_wait_have_a_share_of_the_room() -> None:
    roster, config = Roster(), WebSocketConfig(max_connections=4)
    pages = fill(roster, config, *"abcd")
    assert [page.ended is None for page in pages] == [False, False, True, True]
    assert len(roster.clients) == len(roster.waiting) == 2


def test_without_authentication_nobody_waits() -> None:
    roster, config = Roster(), WebSocketConfig(max_connections=3, require_auth=False)
    assert [roster.admit(Page(), config) for _ in range(4)] == [
        None,
        None,
        None,
        CloseReason.CAPACITY,
    ]


def test_an_address_has_a_share_too_if_it_is_configured() -> None:
    roster, config = Roster(), WebSocketConfig(max_connections=20, max_connections_per_address=2)
    first, other, second = fill(roster, config, "a", "b", "a")
    roster.bind(first, GRANT)
    newcomer = Page("a")
    assert roster.admit(newcomer, config) is None  # in place of the one that waits
    assert second.ended == (CloseCode.TRY_AGAIN_LATER, CloseReason.ADDRESS_CONNECTIONS)
    roster.bind(newcomer, GRANT)
    assert roster.admit(Page("a"), config) is CloseReason.ADDRESS_CONNECTIONS
    assert other.ended is None and roster.admit(Page("b"), config) is None


def test_a_holder_may_have_a_limit() -> None:
    roster = Roster()
    first, second, third = fill(roster, PLENTY, *"aaa")
    limited = replace(GRANT, max_connections=2)
    assert roster.bind(first, limited) and roster.bind(second, limited)
    assert not roster.bind(third, limited) and third.grant is None
    assert roster.bind(second, limited)  # again, on the same connection
    assert roster.bind(third, replace(limited, holder="token:2"))
    roster.forget(first)
    assert roster.bind(third, limited)
    assert set(roster.by_holder) == {"token:1"}


def test_rights_end_for_each_connection_by_itself() -> None:
    roster = Roster()
    first, second, third = fill(roster, PLENTY, *"aaa")
    roster.bind(first, replace(GRANT, expires_at=10.0))
    roster.bind(second, replace(GRANT, expires_at=20.0))
    roster.bind(third, GRANT)
    assert list(roster.expired(9.9)) == []
    assert list(roster.expired(10.0)) == [first]
    roster.change(first, replace(GRANT, expires_at=30.0))
    roster.change(third, replace(GRANT, expires_at=15.0))
    assert list(roster.expired(20.0)) == [second, third]
    roster.change(second, GRANT)
    roster.forget(third)
    assert list(roster.expired(30.0)) == [first]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2))))
def test_nothing_is_left_of_those_who_have_gone(steps: list[tuple[int, int, int]]) -> None:
    roster, config = Roster(), WebSocketConfig(max_connections=5, max_connections_per_address=2)
    pages: list[Page] = []
    for action, which, key in steps:
        if action == 0 or not pages:
            page = Page(f"address {key}")
            if roster.admit(page, config) is None:
                pages.append(page)
            pages = [page for page in pages if page.ended is None]
            assert set(roster.clients) == set(pages)
            continue
        page = pages[which % len(pages)]
        if action == 1:
            grant = replace(GRANT, holder=f"token:{key}", expires_at=float(key) or None)
            assert roster.bind(page, grant) and page.grant == grant
        elif action == 2:
            roster.forget(page)
            roster.forget(page)  # twice is once
            pages.remove(page)
        assert {p for members in roster.by_holder.values() for p in members} == {
            p for p in pages if p.grant is not None
        }
        assert {p for members in roster.by_address.values() for p in members} == set(pages)
    for page in pages:
        roster.forget(page)
    left = (roster.clients, roster.waiting, roster.by_holder, roster.by_address)
    assert not any(left) and not list(roster.expired(1e12))


# The drain: when clients are told, and when they come back, both evenly

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
