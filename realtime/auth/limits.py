"""Limits as pure decisions: the sliding minute of messages, the delay of failed logins. Pure.

Every function takes the time, in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum

WINDOW = 60.0
FLOODING_FACTOR = 10
# Seconds that the answer to a failed authentication waits: more with each, and at most.
DELAY_STEP = 0.02
LONGEST_FREE_DELAY = 0.6
LONGEST_DELAY = 5.0


class Verdict(Enum):
    """What to do with a client's message."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    FLOODING = "flooding"


class RateLimiter:
    """The messages of one connection over the last 60 seconds.

    A refused message does not count against the limit. More than ten times the limit of refused
    messages within 60 seconds is flooding.
    """

    __slots__ = ("_accepted", "_refused", "_refused_since")

    def __init__(self) -> None:
        # Times of the accepted messages, oldest first; never more than the limit.
        self._accepted: deque[float] = deque()
        # Refusals since the first of the current 60 seconds.
        self._refused = 0
        self._refused_since = 0.0

    def check(self, now: float, limit: int) -> Verdict:
        """Count a message that arrives *now* and judge it."""
        accepted = self._accepted
        while accepted and accepted[0] <= now - WINDOW:
            accepted.popleft()
        if len(accepted) < limit:
            accepted.append(now)
            return Verdict.ACCEPT
        if now - self._refused_since >= WINDOW:
            self._refused, self._refused_since = 0, now
        self._refused += 1
        return Verdict.FLOODING if self._refused > FLOODING_FACTOR * limit else Verdict.REFUSE

    def retry_after(self, now: float, limit: int) -> float:
        """Return the seconds until the next message is accepted, to the millisecond above."""
        excess = len(self._accepted) - limit
        if excess < 0:
            return 0.0
        return max(0.001, round(self._accepted[excess] + WINDOW - now + 0.0005, 3))


class RequestLimits:
    """The requests of each holder of rights over the last 60 seconds."""

    MAX_HOLDERS = 10_000

    def __init__(self) -> None:
        # The one that asked longest ago is first.
        self._limiters: OrderedDict[str, RateLimiter] = OrderedDict()

    def check(self, holder: str, now: float, limit: int) -> float:
        """Count a request that arrives *now*; return the seconds to wait, 0 if it is accepted."""
        limiter = self._limiters.pop(holder, None) or RateLimiter()
        self._limiters[holder] = limiter
        if len(self._limiters) > self.MAX_HOLDERS:
            self._limiters.popitem(last=False)
        if limiter.check(now, limit) is Verdict.ACCEPT:
            return 0.0
        return limiter.retry_after(now, limit)


class FailureCounts:
    """How many authentications failed of each address, in its current minute."""

    MAX_ADDRESSES = 10_000

    def __init__(self) -> None:
        # Address -> (failures in its current minute, when that began); oldest first.
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def record(self, address: str, now: float) -> int:
        """Count a failure of *address* and return how many that makes."""
        count, since = self._failures.pop(address, (0, now))
        if now - since >= WINDOW:
            count, since = 0, now
        self._failures[address] = count + 1, since
        if len(self._failures) > self.MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return count + 1


def failure_delay(count: int, free: int) -> float:
    """Return for how many seconds the answer to an address's so-manieth failure in a minute waits.

    *free* of them wait little, each of the others twice as long as the one before. Only failures
    wait, so a valid token behind the same address is not slowed.
    """
    longest_free = min(LONGEST_FREE_DELAY, DELAY_STEP * free)
    if count <= free:
        return longest_free * count / free
    doublings = min(count - free, 16)  # the longest is reached before
    return min(LONGEST_DELAY, longest_free * 2.0**doublings)
