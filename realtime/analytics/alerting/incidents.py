"""What a group of values goes through: ok, pending, firing, resolved. Pure.

Each group has at most one incident at a time. It begins when values have been out of bounds for
as long as the rule says, and ends when one is clear, or when none has come for too long.
"""

from __future__ import annotations

import uuid
from enum import IntEnum
from typing import Any

import msgspec

from realtime.analytics.alerting.rule import Baseline, Deviation, Rule, Verdict

# Namespace of alert ids (version 5 UUIDs). Changing it changes every id.
ALERT_NAMESPACE = uuid.UUID("0b9d3c52-7a41-5c0e-9f63-51d1c4a7e2b8")


class State(IntEnum):
    """Where a group is; a resolved one is ok again."""

    OK = 0
    PENDING = 1
    FIRING = 2


class Group(msgspec.Struct, array_like=True):
    """One group of a rule's values, as it is kept."""

    group: dict[str, Any]
    state: State = State.OK
    # The number of the value that came last, of all the rule's: the higher, the fresher.
    turn: int = 0
    # The last value, its own time, and when it was published; seconds since 1970.
    value: float = 0.0
    at: float = 0.0
    published: float = 0.0
    # Since when values have been out of bounds, by their own time.
    since: float = 0.0
    alert_id: str = ""
    # The bound that was passed; None for one that no float holds.
    bound: float | None = None
    baseline: Baseline | None = None


class Value(msgspec.Struct):
    """A value: its own time, when it was published, and its message's offset."""

    number: float
    at: float
    published: float
    offset: int


def take(rule: Rule, group: Group, value: Value) -> bool:
    """Let a group have its next value; tell whether an alert fires or is resolved by it."""
    gap = value.published - group.published
    before = group.state
    group.value, group.at, group.published = value.number, value.at, value.published
    verdict = rule.condition.judge(value.number, group.baseline)
    if before is State.FIRING:
        if verdict.is_clear:
            group.state = State.OK
    else:
        if before is State.PENDING and rule.resolve_after is not None and gap >= rule.resolve_after:
            group.state = State.OK
        _watch(rule, group, value, verdict)
    if group.state is State.OK and isinstance(rule.condition, Deviation):
        # What is out of bounds teaches nothing: an anomaly would soon be what is usual.
        group.baseline = group.baseline or Baseline()
        group.baseline.learn(value.number, rule.condition.alpha)
    return State.FIRING in (before, group.state) and before is not group.state


def _watch(rule: Rule, group: Group, value: Value, verdict: Verdict) -> None:
    """Go on to pending and firing while values are out of bounds, else back to ok."""
    if not verdict.is_out:
        group.state = State.OK
        return
    if group.state is State.OK:
        group.state, group.since = State.PENDING, value.at
    # Messages may come out of order: what is older says that it has lasted longer.
    group.since = min(group.since, value.at)
    if value.at - group.since >= rule.for_seconds:
        group.state, group.bound = State.FIRING, verdict.bound
        group.alert_id = _alert_id(rule, group, value)


def _alert_id(rule: Rule, group: Group, value: Value) -> str:
    """Return the same id whenever the same message of the log makes the same group fire."""
    parts = [rule.name, rule.source, group.group, group.since, value.offset, value.published]
    text = msgspec.json.encode(parts, order="sorted").decode()
    return str(uuid.uuid5(ALERT_NAMESPACE, text))
