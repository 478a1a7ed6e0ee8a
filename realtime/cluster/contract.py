"""The times and answers that both kinds of cluster share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

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
