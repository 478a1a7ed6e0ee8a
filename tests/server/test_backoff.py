"""When a process that has ended is started again."""

from __future__ import annotations

from realtime.server.backoff import FIRST, LONG_LIFE, LONGEST, Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(lived=0.0) for _ in range(10)]
    assert pauses[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert pauses[-1] == LONGEST
    assert pauses == sorted(pauses)


def test_a_long_life_makes_them_begin_anew() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.pause(lived=LONG_LIFE)
    assert backoff.pause(lived=LONG_LIFE + 1) == FIRST
    assert backoff.pause(lived=0.0) == 2 * FIRST
