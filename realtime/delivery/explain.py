"""Why a subscription receives nothing: how many of a type's newest messages its filters match."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from realtime.cluster.clients import Unavailable
from realtime.delivery.feed import END, Feed
from realtime.filters import (
    MISSING,
    OR,
    Filter,
    compile_filters,
    decode_or_none,
    lookup,
    matches,
    read_path,
)
from realtime.log import get_log
from realtime.tasks import TimeSlice

# The most that is looked at: messages, and about so many bytes of messages from the log, which is
# read backwards in blocks of so many messages.
MAX_MESSAGES = 1000
MAX_BYTES = 4 * 1024 * 1024
BLOCK = 64
# Seconds after which other tasks run.
COUNTING_SECONDS = 0.002


async def explain(
    kind: str, feed: Feed | None, enforced: Filter, filters: dict[str, Any]
) -> dict[str, Any]:
    """Return how many of a type's newest messages a client's filters match.

    The newest are 1,000 retained messages, or 4 MiB of them. Only those count, as ``retained``,
    that satisfy *enforced*, the filter of the client's token. Raises ``Unavailable`` if the
    messages are not in memory (of *feed*, the type's if there is one here) and the log does not
    answer.
    """
    explanation = Explanation(filters)
    retained = 0
    time_slice = TimeSlice(COUNTING_SECONDS)
    async for bodies in _newest(kind, feed):
        for body in bodies:
            payload = decode_or_none(body)
            if matches(enforced, payload):
                retained += 1
                explanation.count(payload)
            await time_slice.yield_if_due()
    return {"retained": retained, **explanation.as_data()}


async def _newest(kind: str, feed: Feed | None) -> AsyncIterator[Sequence[bytes]]:
    """Yield the newest messages of a type, some at a time."""
    if feed is not None:
        recent = feed.read_recent(max(0, feed.position.offset - MAX_MESSAGES))
        if recent is not None:
            yield [message.payload for message in recent.messages]
            return
    log = get_log()
    epoch, high, _, _ = await log.read(kind, END)
    oldest, room = max(0, high - MAX_MESSAGES), MAX_BYTES
    # Each block, from the newest to the oldest, is read forwards, in one read or more.
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


class Explanation:
    """Counts of messages that a filter, each of its paths and each alternative match."""

    def __init__(self, filters: dict[str, Any]) -> None:
        """Take filters as a client wrote them, which must compile."""
        self._filter = compile_filters(filters)
        self._matching = 0
        self._paths = {
            path: (read_path(path), compile_filters({path: value}), {"present": 0, "matching": 0})
            for path, value in filters.items()
            if path != OR
        }
        self._alternatives = [Explanation(alternative) for alternative in filters.get(OR, ())]

    def count(self, payload: Any) -> None:
        self._matching += matches(self._filter, payload)
        for path, compiled, counts in self._paths.values():
            counts["present"] += lookup(payload, path) is not MISSING
            counts["matching"] += matches(compiled, payload)
        for alternative in self._alternatives:
            alternative.count(payload)

    def as_data(self) -> dict[str, Any]:
        """Return the counts as ``explain`` answers them; ``or`` only if there are alternatives:

        ``{"matching": 2, "paths": {"user": {"present": 9, "matching": 2}}, "or": [...]}``
        """
        paths = {name: counts for name, (_, _, counts) in self._paths.items()}
        data: dict[str, Any] = {"matching": self._matching, "paths": paths}
        if self._alternatives:
            data["or"] = [alternative.as_data() for alternative in self._alternatives]
        return data
