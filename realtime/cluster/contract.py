"""What a cluster offers to the processes in it; nothing of where it keeps what they share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple, Protocol

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
Answer = Callable[[bytes], Awaitable[bytes]]


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


class Cluster(Protocol):
    """What processes share. Every method may raise :class:`realtime.cluster.clients.Unavailable`.

    A *member* or *process* is a name that is unique in the cluster.
    """

    @property
    def is_shared(self) -> bool:
        """Whether more than one process can be in it."""

    # Presence

    async def beat(self, work: str, member: str) -> Beat:
        """Say that a member shares some work; to be called again within :data:`GONE_AFTER`."""

    async def leave(self, work: str, member: str) -> None:
        """Say that a member shares some work no more."""

    # Questions

    async def listen(self, process: str, answer: Answer) -> None:
        """Answer the questions to a process until cancelled; survives every error."""

    def ask_all(self, question: bytes) -> Answers:
        """Ask all of :data:`PROCESSES`; return when all have answered or had their time.

        Blocks, so it must not be called on an event loop.
        """

    # Figures

    async def exchange(self, process: str, figures: bytes) -> list[bytes]:
        """Report a process's figures; return those of all :data:`PROCESSES` that are there."""

    def read_figures(self) -> list[bytes]:
        """Return the figures of all :data:`PROCESSES` that are there; one may come twice. Blocks.

        After a server was away, it and the one that stood in for it both have figures.
        """

    # Counting

    async def count(self, name: str, seconds: int) -> int:
        """Count an event; return how often this makes in the period that its first began."""

    async def acquire(self, holder: str, connection: str, process: str, limit: int) -> bool:
        """Take one of a holder's connections; tell whether it has fewer than *limit* others.

        The connections of a process that is not one of :data:`PROCESSES` do not count.
        """

    async def set_connections(self, process: str, changes: Mapping[tuple[str, str], bool]) -> None:
        """Write for each holder and connection whether the process has the connection."""

    # Tables

    async def read_rows(self, table: str) -> dict[str, bytes]:
        """Return the rows of a table by their names."""

    async def write_rows(
        self, table: str, rows: Mapping[str, bytes], removed: Collection[str], seconds: int
    ) -> None:
        """Write and remove rows of a table, which is kept for some seconds after that."""
