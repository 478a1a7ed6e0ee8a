"""Limits: the sliding minute against a naive count, flooding, and the delay of failed logins."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.test import override_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.auth.limits import (
    FLOODING_FACTOR,
    LONGEST_DELAY,
    LONGEST_FREE_DELAY,
    WINDOW,
    FailureCounts,
    RateLimiter,
    RequestLimits,
    Verdict,
    failure_delay,
)
from realtime.auth.quotas import Failures
from tests.support.layers import IN_MEMORY, close_layer, layer_of

thorough = settings(deadline=None, max_examples=200)

# Steps of a clock in parts of a second that floats hold exactly.
pauses = st.lists(st.integers(0, 40 * 1024).map(lambda ticks: ticks / 1024), max_size=60)
START = 10_000.0


def accepted(limiter: RateLimiter, now: float, limit: int, count: int) -> int:
    """Send so many messages at once; return how many are accepted."""
    return sum(limiter.check(now, limit) is Verdict.ACCEPT for _ in range(count))


def test_the_window_is_a_minute_and_flooding_ten_times_the_limit() -> None:
    assert (WINDOW, FLOODING_FACTOR) == (60.0, 10)


def test_the_limit_holds_to_the_message() -> None:
    limiter = RateLimiter()
    assert [limiter.check(START + n / 8, 60) for n in range(61)] == [Verdict.ACCEPT] * 60 + [
        Verdict.REFUSE
    ]


def test_the_minute_slides() -> None:
    limiter = RateLimiter()
    assert accepted(limiter, START, 2, 1) == 1
    assert accepted(limiter, START + 30, 2, 2) == 1
    assert accepted(limiter, START + 59.5, 2, 1) == 0
    assert accepted(limiter, START + 60, 2, 2) == 1  # the first is a minute old
    assert accepted(limiter, START + 89.5, 2, 1) == 0
    assert accepted(limiter, START + 90, 2, 2) == 1


def test_a_refused_message_does_not_count() -> None:
    limiter = RateLimiter()
    assert accepted(limiter, START, 5, 5) == 5
    assert accepted(limiter, START + 59, 5, 50) == 0
    assert accepted(limiter, START + 60, 5, 5) == 5


def test_a_quiet_client_waits_for_nothing() -> None:
    limiter = RateLimiter()
    assert limiter.retry_after(START, 1) == 0.0


@given(st.integers(1, 5), pauses)
@thorough
def test_agrees_with_a_naive_count(limit: int, steps: list[float]) -> None:
    limiter, times, now = RateLimiter(), list[float](), START
    for step in steps:
        now += step
        in_the_last_minute = [then for then in times if now - then < 60]
        fits = len(in_the_last_minute) < limit
        assert (limiter.check(now, limit) is Verdict.ACCEPT) is fits
        if fits:
            times.append(now)
        else:
            retry_after = limiter.retry_after(now, limit)
            first_free = in_the_last_minute[-limit] + 60 - now
            assert first_free <= retry_after <= first_free + 0.001_001
            assert retry_after == round(retry_after, 3) > 0


@given(st.integers(1, 5), pauses)
@thorough
def test_who_waits_as_told_is_accepted(limit: int, steps: list[float]) -> None:
    limiter, now = RateLimiter(), START
    for step in steps:
        now += step
        if limiter.check(now, limit) is not Verdict.ACCEPT:
            now += limiter.retry_after(now, limit)
            assert limiter.check(now, limit) is Verdict.ACCEPT


def test_who_waits_as_told_after_the_limit_was_lowered_is_accepted() -> None:
    limiter = RateLimiter()
    for second in range(10):
        assert limiter.check(START + second, 10) is Verdict.ACCEPT
    now = START + 10
    assert limiter.check(now, 3) is Verdict.REFUSE
    now += limiter.retry_after(now, 3)
    assert limiter.check(now, 3) is Verdict.ACCEPT


@pytest.mark.parametrize("limit", [1, 7])
def test_more_than_ten_times_the_limit_refused_in_a_minute_is_flooding(limit: int) -> None:
    limiter = RateLimiter()
    assert accepted(limiter, START, limit, limit) == limit
    verdicts = [limiter.check(START + 59, limit) for _ in range(10 * limit + 1)]
    assert verdicts == [Verdict.REFUSE] * 10 * limit + [Verdict.FLOODING]


def test_refusals_of_more_than_a_minute_ago_are_no_flooding() -> None:
    limiter = RateLimiter()
    now = START
    for _ in range(20):  # ten refusals a minute, as many as may be
        assert accepted(limiter, now, 1, 11) == 1
        now += WINDOW


def test_a_limit_that_changes_holds_at_once() -> None:
    limiter = RateLimiter()
    assert accepted(limiter, START, 10, 10) == 10
    assert accepted(limiter, START + 1, 15, 10) == 5
    assert accepted(limiter, START + 2, 5, 1) == 0
    assert accepted(limiter, START + 60, 5, 1) == 0  # five of the second round are left
    assert accepted(limiter, START + 61, 5, 10) == 5


# Requests


def test_each_holder_has_requests_of_its_own() -> None:
    limits = RequestLimits()
    waits = [limits.check("token:1", START + n, 2) for n in range(3)]
    assert waits == [0.0, 0.0, pytest.approx(58, abs=0.002)]
    assert limits.check("token:2", START + 3, 2) == 0.0
    assert limits.check("token:1", START + 60, 2) == 0.0


def test_holders_are_forgotten_the_longest_quiet_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestLimits, "MAX_HOLDERS", 2)
    limits = RequestLimits()
    for holder in ("token:1", "token:2", "token:1", "token:3"):
        limits.check(holder, START, 1)
    assert limits.check("token:1", START, 1) > 0  # it has asked since token:2
    assert limits.check("token:2", START, 1) == 0.0


# Failed authentications


@pytest.mark.parametrize("free", [1, 5, 30, 1000])
def test_the_delay_grows_to_a_bound(free: int) -> None:
    waits = [failure_delay(count, free) for count in range(1, free + 30)]
    assert waits == sorted(waits)
    assert 0 < waits[0] < 0.1
    assert waits[free - 1] <= LONGEST_FREE_DELAY
    assert waits[-1] == LONGEST_DELAY
    assert failure_delay(10**9, free) == LONGEST_DELAY


def test_who_mistypes_a_token_hardly_notices() -> None:
    assert sum(failure_delay(count, 30) for count in (1, 2, 3)) < 0.5


def test_addresses_are_counted_apart() -> None:
    counts = FailureCounts()
    assert counts.record("10.0.0.1", START) == 1
    for number in range(100):
        assert counts.record("10.0.0.2", START) == number + 1
    assert counts.record("10.0.0.3", START) == 1


def test_a_minute_later_counting_begins_anew() -> None:
    counts = FailureCounts()
    counts.record("10.0.0.1", START)
    assert counts.record("10.0.0.1", START + 59) == 2
    assert counts.record("10.0.0.1", START + 60) == 1


def test_addresses_are_forgotten_oldest_first() -> None:
    counts = FailureCounts()
    counts.record("busy", START)
    for number in range(FailureCounts.MAX_ADDRESSES - 1):
        counts.record(f"address {number}", START)
    assert counts.record("busy", START) == 2  # still known, and now the newest
    counts.record("one more", START)
    assert counts.record("busy", START) == 3
    assert counts.record("address 0", START) == 1


# Over all processes

FREE = 3


async def test_processes_count_together() -> None:
    with override_settings(CHANNEL_LAYERS=IN_MEMORY):
        processes = Failures(), Failures()
        delays = [await process.record("1.2.3.4", 0.0, FREE) for process in processes * 3]
        assert delays == [failure_delay(count, FREE) for count in range(1, 7)]
        assert await processes[0].record("5.6.7.8", 0.0, FREE) == failure_delay(1, FREE)


async def test_a_process_counts_alone_while_nobody_answers(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with layer_of(data_dir):
        failures = Failures()
        delays = [await failures.record("1.2.3.4", 0.0, FREE) for _ in range(6)]
        assert delays == [failure_delay(count, FREE) for count in range(1, 7)]
        assert "counting a failed authentication" in caplog.text
        await close_layer()
