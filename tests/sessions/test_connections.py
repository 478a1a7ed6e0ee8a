"""Who is let in, who gives way, and whose rights end."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from realtime.auth.grants import Grant
from realtime.config import WebSocketConfig
from realtime.protocol import CloseCode, CloseReason
from realtime.sessions.connections import Room, Roster
from realtime.sessions.session import Session

GRANT = Grant("token:1", "rt_1", frozenset({"events"}))
PLENTY = Room(100, 100)


class Page(Session):
    """A client that only remembers how it was ended."""

    def __init__(self, address_key: str = "10.0.0.1") -> None:
        self.grant = None
        self.address_key = address_key
        self.ended: tuple[CloseCode, CloseReason] | None = None

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Remember."""
        self.ended = code, reason


def fill(roster: Roster, room: Room, *addresses: str) -> list[Page]:
    """Let pages in that have to authenticate."""
    pages = [Page(address) for address in addresses]
    for page in pages:
        assert roster.admit(page, room, True) is None
    return pages


def test_the_room_of_a_configuration() -> None:
    assert Room.of(WebSocketConfig()) == Room(1000, 500, 0)
    assert Room.of(WebSocketConfig(max_connections=1)) == Room(1, 1, 0)
    config = WebSocketConfig(max_connections=7, max_connections_per_address=7)
    assert Room.of(config) == Room(7, 3, 7)


def test_the_oldest_that_waits_gives_way_to_a_newcomer() -> None:
    roster, room = Roster(), Room(3, 3)
    pages = fill(roster, room, *"aaa")
    roster.bind(pages[0], GRANT)
    newcomer = Page()
    assert roster.admit(newcomer, room, True) is None
    assert [page.ended for page in pages] == [
        None,
        (CloseCode.TRY_AGAIN_LATER, CloseReason.CAPACITY),
        None,
    ]
    assert list(roster.clients) == [pages[0], pages[2], newcomer]


def test_nobody_who_has_authenticated_gives_way() -> None:
    roster, room = Roster(), Room(2, 2)
    for page in fill(roster, room, *"ab"):
        roster.bind(page, GRANT)
    assert roster.admit(Page("c"), room, True) is CloseReason.CAPACITY
    assert len(roster.clients) == 2 and set(roster.by_address) == {"a", "b"}


def test_those_who_wait_have_a_share_of_the_room() -> None:
    roster, room = Roster(), Room(10, 2)
    pages = fill(roster, room, *"abcd")
    assert [page.ended is None for page in pages] == [False, False, True, True]
    assert len(roster.clients) == len(roster.waiting) == 2


def test_without_authentication_nobody_waits() -> None:
    roster, room = Roster(), Room(3, 1)
    assert [roster.admit(Page(), room, False) for _ in range(4)] == [
        None,
        None,
        None,
        CloseReason.CAPACITY,
    ]


def test_an_address_has_a_share_too_if_it_is_configured() -> None:
    roster, room = Roster(), Room(10, 10, per_address=2)
    first, other, second = fill(roster, room, "a", "b", "a")
    roster.bind(first, GRANT)
    newcomer = Page("a")
    assert roster.admit(newcomer, room, True) is None  # in place of the one that waits
    assert second.ended == (CloseCode.TRY_AGAIN_LATER, CloseReason.ADDRESS_CONNECTIONS)
    roster.bind(newcomer, GRANT)
    assert roster.admit(Page("a"), room, True) is CloseReason.ADDRESS_CONNECTIONS
    assert other.ended is None and roster.admit(Page("b"), room, True) is None


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
    roster, room = Roster(), Room(4, 3, 2)
    pages: list[Page] = []
    for action, which, key in steps:
        if action == 0 or not pages:
            page = Page(f"address {key}")
            if roster.admit(page, room, True) is None:
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
