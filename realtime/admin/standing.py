"""How far the processor of a rule is, in the words of the admin's pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from realtime.analytics.processing.contract import AnyProcessor
from realtime.analytics.processing.state import Standing, read_standing
from realtime.analytics.rules import RuleError
from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable


class RuleStatus(NamedTuple):
    """How far a rule is, in words."""

    state: str
    behind: str = "-"
    left_out: str = "-"
    closed_until: str = "-"


def ask_standing(make: Callable[[], AnyProcessor], field: str) -> Standing | None:
    """Ask the server of a rule's processor; ``None`` if the rule is wrong or nobody answers."""
    if not get_cluster().is_shared:
        return None
    try:
        return read_standing(make(), field)
    except (RuleError, Unavailable):
        return None


def status_of(standing: Standing | None, *, enabled: bool) -> RuleStatus:
    """Return the state of a rule, and how many messages it is behind."""
    if not enabled:
        state = "disabled"
    elif standing is None:
        state = "unknown"
    else:
        state = "running" if standing.owner else "waiting"
    behind = None if standing is None else standing.behind
    return RuleStatus(state, "-" if behind is None else f"{behind:,}")
