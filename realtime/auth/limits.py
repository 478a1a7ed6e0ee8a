"""The rate limit of messages, and the delay after failed authentications. Pure.

Every function takes the time, in seconds of a monotonic clock. Knows nothing of clients.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum

WINDOW = 60.0
FLOODING_FACTOR = 10
# Seconds that the answer to a failed authentication waits: the step between the first ("free")
# ones, the longest of these, and the longest of all.
DELAY_STEP = 0.02
LONGEST_FREE_DELAY = 0.6
LONGEST_DELAY = 5.0


class Verdict(Enum):
    """What to do with a client's message."""

    ACCEPT = "accept"
    REFUSE = "refuse"
    FLOODING = "flooding"


class RateLimiter:
    """Counts the messages of one connection over the last 60 seconds.

    A refused one does not count. A client floods if more than ten times the limit are refused.
    """

    __slots__ = ("_accepted", "_refused", "_refused_since")

    def __init__(self) -> None:
        # Times of the accepted messages, oldest first; never more than the limit.
        self._accepted: deque[float] = deque()
        # How many were refused in the current period of 60 seconds, and when that began.
        self._refused, self._refused_since = 0, 0.0

    def check(self, now: float, limit: int) -> Verdict:
        """Count a message that arrives *now*; return what to do with it."""
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
        """Return the seconds until the next message is accepted, rounded up to milliseconds."""
        excess = len(self._accepted) - limit
        if excess < 0:
            return 0.0
        return max(0.001, round(self._accepted[excess] + WINDOW - now + 0.0005, 3))


class RequestLimits:
    """Counts the requests of each holder of rights over the last 60 seconds."""

    MAX_HOLDERS = 10_000

    def __init__(self) -> None:
        # Holder -> its limiter; the holder whose last request is longest ago is first.
        self._limiters: OrderedDict[str, RateLimiter] = OrderedDict()

    def check(self, holder: str, now: float, limit: int) -> float:
        """Count a request that arrives *now*; return 0 if it is accepted, else seconds to wait."""
        limiter = self._limiters.pop(holder, None) or RateLimiter()
        self._limiters[holder] = limiter
        if len(self._limiters) > self.MAX_HOLDERS:
            self._limiters.popitem(last=False)
        if limiter.check(now, limit) is Verdict.ACCEPT:
            return 0.0
        return limiter.retry_after(now, limit)


class FailureCounts:
    """Counts the failed authentications of each address, in minutes that begin with a failure."""

    MAX_ADDRESSES = 10_000

    def __init__(self) -> None:
        # Address -> (failures in its current minute, when that began); the longest quiet is first.
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def record(self, address: str, now: float) -> int:
        """Count a failure of *address*; return how many there are in its current minute."""
        count, since = self._failures.pop(address, (0, now))
        if now - since >= WINDOW:
            count, since = 0, now
        self._failures[address] = count + 1, since
        if len(self._failures) > self.MAX_ADDRESSES:
            self._failures.popitem(last=False)
        return count + 1


def failure_delay(count: int, free: int) -> float:
    """Return for how many seconds the answer to an address's nth failure in a minute waits.

    With 30 *free* ones: the 1st waits 0.02 s, the 30th 0.6 s, the 31st 1.2 s, the 32nd 2.4 s, and
    those from the 34th on 5 s. Only failures wait.
    """
    longest_free = min(LONGEST_FREE_DELAY, DELAY_STEP * free)
    if count <= free:
        return longest_free * count / free
    doublings = min(count - free, 16)  # LONGEST_DELAY is reached earlier
    return min(LONGEST_DELAY, longest_free * 2.0**doublings)
