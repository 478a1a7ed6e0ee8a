"""Why a subscription gets nothing: how many of the newest messages match, and at which path not.

Reads what is at hand or the log, a bounded part of it, and lets others have their turn. Only what
a client may see is counted, and nothing is said of the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from realtime.cluster.clients import Unavailable
from realtime.delivery.feed import END, Feed
from realtime.filters import OR, compile_filters
from realtime.filters.clauses import MISSING, Filter, lookup, matches
from realtime.log import get_log

# The most that is looked at: messages, and about so many bytes of those that come from the log,
# from which so many messages are read one after another.
MAX_MESSAGES = 1000
MAX_BYTES = 4 * 1024 * 1024
BLOCK = 64
# Seconds after which others have their turn.
TURN = 0.002


class Explanation:
    """Counts of messages that a filter, each of its paths and each alternative match."""

    def __init__(self, filters: dict[str, Any]) -> None:
        """Take filters as a client wrote them, which compile."""
        self._filter = compile_filters(filters)
        self._matching = 0
        self._paths = {
            path: _PathCount(path, compile_filters({path: value}))
            for path, value in filters.items()
            if path != OR
        }
        self._alternatives = [Explanation(one) for one in filters.get(OR, ())]

    def count(self, payload: Any) -> None:
        """Count a message."""
        self._matching += matches(self._filter, payload)
        for path in self._paths.values():
            path.count(payload)
        for alternative in self._alternatives:
            alternative.count(payload)

    def as_data(self) -> dict[str, Any]:
        """Return the counts as ``explain`` has them."""
        paths = {name: path.as_data() for name, path in self._paths.items()}
        data: dict[str, Any] = {"matching": self._matching, "paths": paths}
        if self._alternatives:
            data["or"] = [alternative.as_data() for alternative in self._alternatives]
        return data


class _PathCount:
    """How many messages have something at a path, and match what is said of it."""

    def __init__(self, path: str, compiled: Filter) -> None:
        self._steps = tuple(path.split("."))
        self._filter = compiled
        self._present = 0
        self._matching = 0

    def count(self, payload: Any) -> None:
        self._present += lookup(payload, self._steps) is not MISSING
        self._matching += matches(self._filter, payload)

    def as_data(self) -> dict[str, int]:
        return {"present": self._present, "matching": self._matching}


async def explain(
    kind: str, feed: Feed | None, enforced: Filter, filters: dict[str, Any]
) -> dict[str, Any]:
    """Return what of the newest messages matches a client's filters.

    Of the newest 1,000 that are retained, or of 4 MiB of them, only those count that satisfy what
    is *enforced*. *feed* is the type's, if there is one here.

    Raises:
        Unavailable: the messages are not at hand, and the log does not answer.
    """
    explanation = Explanation(filters)
    retained = 0
    turn_ends = time.monotonic() + TURN
    async for bodies in _newest(kind, feed):
        for body in bodies:
            payload = _decode(body)
            if matches(enforced, payload):
                retained += 1
                explanation.count(payload)
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN
    return {"retained": retained, **explanation.as_data()}


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (RecursionError, ValueError):
        return None  # as it is for the hub


async def _newest(kind: str, feed: Feed | None) -> AsyncIterator[Sequence[bytes]]:
    """Yield the newest messages of a type, some at a time. Raises ``Unavailable``."""
    if feed is not None:
        at_hand = feed.read_at_hand(max(0, feed.position.offset - MAX_MESSAGES))
        if at_hand is not None:
            yield [message.payload for message in at_hand.messages]
            return
    log = get_log()
    epoch, high, _, _ = await log.read(kind, END)
    oldest, room = max(0, high - MAX_MESSAGES), MAX_BYTES
    while high > oldest and room > 0:
        after = start = max(oldest, high - BLOCK)
        while after < high:
            chunk = await log.read(kind, after)
            if chunk.epoch != epoch:
                raise Unavailable("another log has begun")
            bodies = [entry.body for entry in chunk.entries[: max(0, high + 1 - chunk.first)]]
            if chunk.first > after + 1:
                oldest = start  # what is before it is not retained
            if not bodies:
                break
            yield bodies
            room -= sum(map(len, bodies))
            after = chunk.first + len(bodies) - 1
        high = start
