"""The order of one type's messages: each passes once, and the newest are at hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime.hub.message import Message
from realtime.hub.ordering import RECENT_BYTES, RECENT_MESSAGES, RecentMessages, Sequencer
from realtime.protocol import Position

# What the layer brings: consecutive offsets, of which it repeats, loses and reorders some.
BROUGHT = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), max_size=30)


def row(first: int, count: int, size: int = 0, timestamp: float = 0.0) -> list[Message]:
    """Return messages with consecutive offsets."""
    body = b'"%s"' % (b"x" * size)
    positions = (Position("e", offset) for offset in range(first, first + count))
    return [Message("events", body, timestamp, position) for position in positions]


@given(BROUGHT)
def test_each_message_passes_once_and_in_order(brought: list[tuple[int, int]]) -> None:
    sequencer = Sequencer(Position("e", 0))
    passed: list[int] = []
    for first, count in brought:
        new = sequencer.take(Position("e", first), row(first, count))
        assert (new is None) == (first > len(passed) + 1)
        passed += [message.offset for message in new or ()]
        assert passed == list(range(1, sequencer.next))
        assert sequencer.position == Position("e", len(passed))


def test_a_message_of_another_epoch_does_not_pass() -> None:
    sequencer = Sequencer(Position("e", 5))
    assert sequencer.take(Position("f", 6), row(6, 1)) is None
    assert sequencer.next == 6
    assert sequencer.is_missing(Position("f", 5), 6)
    assert not sequencer.is_missing(Position("e", 5), 6)
    assert sequencer.is_missing(Position("e", 6), 6)
    # The log has lost its newest messages; when it was asked, all had passed that it had then.
    assert sequencer.is_missing(Position("e", 4), 6)
    assert not sequencer.is_missing(Position("e", 4), 5)


def test_the_newest_messages_are_at_hand_within_bounds() -> None:
    recent = RecentMessages()
    recent.restart(3)
    recent.extend(row(3, RECENT_MESSAGES + 10, timestamp=7.0))
    last = RECENT_MESSAGES + 12

    def after(offset: int, oldest: float = 0.0, at_most: int = 10_000) -> list[int] | None:
        messages = recent.after(offset, oldest, at_most)
        return None if messages is None else [message.offset for message in messages]

    assert after(last - RECENT_MESSAGES) == list(range(13, last + 1))
    assert after(last - RECENT_MESSAGES - 1) is None
    assert after(last) == [] and after(last + 1) is None
    assert after(last - 2, at_most=2) == [last - 1, last] and after(last - 3, at_most=2) is None
    assert after(last - 1, oldest=7.0) == [last] and after(last - 1, oldest=7.5) is None
    recent.extend(row(last + 1, 3, size=RECENT_BYTES // 2))
    assert after(last + 1) is None and after(last + 2) == [last + 3]
    recent.restart(1)
    assert after(0) == [] and after(1) is None
