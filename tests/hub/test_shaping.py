"""What a group holds back until when: rates, newest values, batches."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from realtime.hub.message import Message
from realtime.hub.shaping import MAX_VALUES, Shaper, Survivors
from realtime.protocol import Position
from realtime.protocol.subscribe import Options, read_options
from tests.hub.outlets import TIME

ROOM = 1_000_000


def message(offset: int, payload: Any = None, kind: str = "events") -> Message:
    """Return a message of the log."""
    text = json.dumps({"n": offset} if payload is None else payload).encode()
    result = Message(kind, text, TIME, Position("e", offset))
    result.number = offset
    return result


def options(**given_options: Any) -> Options:
    """Return options as a client gives them."""
    read = read_options(given_options)
    assert read is not None
    return read


# What happens to a group: messages of a value, and time that passes.
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 3)),
        st.tuples(st.just("wait"), st.floats(0.001, 3)),
    ),
    max_size=60,
)


OPTIONS = st.builds(
    lambda rate, conflate, batch: options(
        **({"max_rate": rate} if rate else {}),
        **({"conflate": "k"} if conflate else {}),
        **({"batch_ms": batch} if batch else {"fields": ["k"]}),
    ),
    st.sampled_from([None, 0.5, 1, 2, 100]),
    st.booleans(),
    st.sampled_from([None, 1, 700, 5000]),
)


class Run:
    """A group through a row of events, with a timer that is always in time."""

    def __init__(self, chosen: Options) -> None:
        self.options = chosen
        self.shaper = Shaper(chosen)
        self.now = 0.0
        self.taken: list[Message] = []
        # When what left.
        self.left: list[tuple[float, list[Message]]] = []

    def take(self, value: int) -> None:
        self.taken.append(message(len(self.taken) + 1, {"k": value}))
        self.shaper.take(self.taken[-1])
        self._release()

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.shaper.due) is not None and due <= end:
            self.now = max(self.now, due)
            self._release()
        self.now = end

    def _release(self) -> None:
        before = self.shaper.oldest(0)
        held = self.shaper.release(self.now, ROOM)
        # What leaves is not sent before that is said.
        assert self.shaper.oldest(0) == before
        self.shaper.sent()
        if held:
            self.left.append((self.now, held))

    @property
    def sent(self) -> list[Message]:
        return [one for _, messages in self.left for one in messages]


@given(OPTIONS, EVENTS)
def test_what_leaves(chosen: Options, events: list[tuple[str, Any]]) -> None:
    """In order, never twice, the newest of each value in the end, and no more than the rate."""
    run = Run(chosen)
    for name, value in events:
        getattr(run, name)(value)
        unsent = [one.offset for one in run.taken if one not in run.sent]
        oldest = run.shaper.oldest(0)
        # All that is older than the oldest held has been sent or superseded.
        assert oldest is None or oldest in unsent
    run.wait(10 + 2 / (chosen.max_rate or 1))
    assert run.shaper.due is None and run.shaper.oldest(0) is None
    offsets = [one.offset for one in run.sent]
    assert offsets == sorted(set(offsets))
    if run.taken:
        newest = {one.decoded["k"] if chosen.conflate else None: one for one in run.taken}
        assert set(newest.values()) <= set(run.sent)
    if not chosen.supersedes:
        assert run.sent == run.taken
    if chosen.max_rate and not chosen.batch_ms:
        times = [when for when, _ in run.left]
        steps = [after - before for before, after in pairwise(times)]
        assert all(step >= 1 / chosen.max_rate - 1e-9 for step in steps)
        for _, together in run.left:
            values = [one.decoded["k"] if chosen.conflate else None for one in together]
            assert len(values) == len(set(values))


@given(st.sampled_from([0.5, 2, 10]), st.integers(1, 5000), EVENTS)
def test_batches_keep_the_rate(rate: float, batch: int, events: list[tuple[str, Any]]) -> None:
    """Over any time from when messages leave: as many as the rate allows, and one."""
    run = Run(options(max_rate=rate, batch_ms=batch))
    for name, value in events:
        getattr(run, name)(value)
    for index, (start, _) in enumerate(run.left):
        count = 0
        for end, messages in run.left[index:]:
            count += len(messages)
            assert count <= (end - start + batch / 1000) * rate + 1 + 1e-6


def test_the_first_leaves_at_once_and_the_last_when_it_may() -> None:
    run = Run(options(max_rate=0.5))
    run.wait(100)
    for _ in range(5):
        run.take(0)
    run.wait(1.9)
    assert run.left == [(100.0, [run.taken[0]])]
    run.wait(0.2)
    assert run.left[1:] == [(102.0, [run.taken[4]])]
    assert run.shaper.due is None


def test_messages_without_the_path_are_one_value() -> None:
    run = Run(options(conflate="k.deep"))
    for value in ({"k": {"deep": 1}}, {"k": 1}, {}, {"k": {"deep": [1]}}, {"k": {"deep": 1.0}}):
        run.shaper.take(message(len(run.taken) + 1, value))
        run.taken.append(message(len(run.taken) + 1, value))
    run.wait(1)
    assert [one.offset for one in run.sent] == [4, 5]


def test_what_is_held_is_bounded() -> None:
    shaper = Shaper(options(conflate="n", max_rate=0.001))
    shaper.take(message(1))
    assert len(shaper.release(0, ROOM)) == 1
    for offset in range(2, MAX_VALUES + 2):
        shaper.take(message(offset))
    assert shaper.release(1, 10 * ROOM) == []
    shaper.take(message(MAX_VALUES + 2))
    assert len(shaper.release(1, 10 * ROOM)) == MAX_VALUES + 1
    for offset in range(3):
        shaper.take(message(offset))
    assert len(shaper.release(1, 100)) == 3


def test_one_message_waits_however_large() -> None:
    shaper = Shaper(options(max_rate=1))
    shaper.take(message(1))
    assert shaper.release(0, 1)
    shaper.take(message(2, {"text": "x" * 1000}))
    assert shaper.release(0.5, 1) == []
    assert shaper.due == 1


def test_a_batch_does_not_wait_when_it_is_large() -> None:
    shaper = Shaper(options(batch_ms=10_000))
    shaper.take(message(1))
    assert shaper.release(0, 1000) == []
    shaper.take(message(2, {"text": "x" * 1000}))
    assert len(shaper.release(0, 1000)) == 2
    assert shaper.due is None


@given(st.lists(st.integers(0, 4), max_size=40), st.booleans())
def test_survivors(values: list[int], by_value: bool) -> None:
    chosen = options(max_rate=1, **({"conflate": "k"} if by_value else {}))
    row = [message(n, {"k": value}) for n, value in enumerate(values, 1)]
    survivors = Survivors(chosen)
    survivors.add(row[:10])
    survivors.add(row[10:])
    newest = {one.decoded["k"] if by_value else None: one.offset for one in row}
    assert survivors.offsets() == set(newest.values())
