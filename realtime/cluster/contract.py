"""What all clusters have in common, and the cluster of one process, in memory."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping
from time import monotonic
from typing import Any, NamedTuple

# Seconds without a beat after which a member counts as gone, and after which it is forgotten.
GONE_AFTER = 6
FORGET_AFTER = 60
# Seconds in which a process answers a question, or it is named as one that did not answer.
ANSWER_TIMEOUT = 1.5
# Seconds after which the connections of a holder are forgotten if none is added.
CONNECTIONS_TTL = 3600
# The work that all serving processes share.
PROCESSES = "processes"

# What a process does with a question.
Answer = Callable[[bytes], Coroutine[Any, Any, bytes]]


class Beat(NamedTuple):
    """Who shares some work, in the order of their names, when one of them has said it is there.

    ``was_gone`` tells whether the others may have taken it for gone before.
    """

    members: list[str]
    was_gone: bool


class Answers(NamedTuple):
    """The answers by the names of the processes, and the processes that did not answer in time."""

    by_process: dict[str, bytes]
    missing: list[str]


class LocalCluster:
    """What the members within one process share, for a channel layer that does not leave it.

    A *member* or *process* is a unique name. Several event loops of the process may be in it.
    :class:`realtime.cluster.redis.RedisCluster` has the same methods; there, each may raise
    :class:`realtime.cluster.clients.Unavailable`.
    """

    # Whether more than one process can be in it.
    is_shared = False
    # Names that are counted at the same time; beyond that the oldest is forgotten.
    MAX_COUNTS = 10_000

    def __init__(self) -> None:
        # Work -> member -> when it was last there.
        self._members: dict[str, dict[str, float]] = {}
        # Process -> the loop on which it answers, and what answers.
        self._listeners: dict[str, tuple[asyncio.AbstractEventLoop, Answer]] = {}
        self._figures: dict[str, bytes] = {}
        # Name -> how often it was counted in its period, and when that ends; oldest first.
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        # Holder -> connection -> the process that has it.
        self._connections: dict[str, dict[str, str]] = {}
        self._tables: dict[str, dict[str, bytes]] = {}

    # Presence

    async def beat(self, work: str, member: str) -> Beat:
        """Say that a member shares some work; to be called again within :data:`GONE_AFTER`."""
        was_gone = member not in self._present(work)
        self._members.setdefault(work, {})[member] = monotonic()
        return Beat(sorted(self._present(work)), was_gone)

    async def leave(self, work: str, member: str) -> None:
        """Say that a member shares some work no more."""
        self._members.get(work, {}).pop(member, None)

    def _present(self, work: str) -> set[str]:
        since = monotonic() - GONE_AFTER
        return {member for member, at in self._members.get(work, {}).copy().items() if at > since}

    # Questions

    async def listen(self, process: str, answer: Answer) -> None:
        """Answer the questions to a process until cancelled; survives every error."""
        self._listeners[process] = asyncio.get_running_loop(), answer
        try:
            await asyncio.Event().wait()  # until cancelled
        finally:
            del self._listeners[process]

    def ask_all(self, question: bytes) -> Answers:
        """Ask all of :data:`PROCESSES`; return when all have answered or had their time.

        Blocks, so it must not be called on an event loop.
        """
        answers = Answers({}, [])
        for process in sorted(self._present(PROCESSES)):
            try:
                loop, answer = self._listeners[process]
                answering = asyncio.run_coroutine_threadsafe(answer(question), loop)
                answers.by_process[process] = answering.result(ANSWER_TIMEOUT)
            except Exception:  # it does not listen, does not answer in time, or fails
                answers.missing.append(process)
        return answers

    # Figures

    async def exchange(self, process: str, figures: bytes) -> list[bytes]:
        """Report a process's figures; return those of all :data:`PROCESSES` that are there."""
        self._figures[process] = figures
        present = self._present(PROCESSES)
        self._figures = {name: text for name, text in self._figures.items() if name in present}
        return list(self._figures.values())

    def read_figures(self) -> list[bytes]:
        """Return the figures of all :data:`PROCESSES` that are there; one may come twice. Blocks.

        After a server was away, it and the one that stood in for it both have figures.
        """
        present = self._present(PROCESSES)
        return [text for name, text in self._figures.copy().items() if name in present]

    # Counting

    async def count(self, name: str, seconds: int) -> int:
        """Count an event; return how often this makes in the period that its first began."""
        count, ends_at = self._counts.get(name, (0, 0.0))
        if ends_at <= monotonic():
            count, ends_at = 0, monotonic() + seconds
            self._counts.pop(name, None)
        self._counts[name] = count + 1, ends_at
        if len(self._counts) > self.MAX_COUNTS:
            self._counts.popitem(last=False)
        return count + 1

    async def acquire(self, holder: str, connection: str, process: str, limit: int) -> bool:
        """Take one of a holder's connections; tell whether it has fewer than *limit* others.

        The connections of a process that is not one of :data:`PROCESSES` do not count.
        """
        present = self._present(PROCESSES) | {process}
        connections = {
            name: its_process
            for name, its_process in self._connections.get(holder, {}).items()
            if its_process in present
        }
        if len(connections.keys() - {connection}) >= limit:
            return False
        self._connections[holder] = connections | {connection: process}
        return True

    async def set_connections(self, process: str, changes: Mapping[tuple[str, str], bool]) -> None:
        """Write for each holder and connection whether the process has the connection."""
        for (holder, connection), is_held in changes.items():
            connections = self._connections.setdefault(holder, {})
            if is_held:
                connections[connection] = process
            else:
                connections.pop(connection, None)
            if not connections:
                del self._connections[holder]

    # Tables

    async def read_rows(self, table: str) -> dict[str, bytes]:
        """Return the rows of a table by their names."""
        return self._tables.get(table, {}).copy()

    async def write_rows(
        self, table: str, rows: Mapping[str, bytes], removed: Collection[str], seconds: int
    ) -> None:
        """Write and remove rows of a table, which is kept for some seconds after that."""
        # Rows are few, so they stay as long as the process runs.
        merged = self._tables.get(table, {}) | dict(rows)
        self._tables[table] = {name: row for name, row in merged.items() if name not in removed}
