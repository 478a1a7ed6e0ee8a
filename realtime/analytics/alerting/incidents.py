"""The states of a group of values: ok, pending, firing, and ok again when resolved. Pure.

Each group has at most one incident at a time. It begins when values have been out of bounds for
as long as the rule says, and ends when a value is clear, or when no value has come for too long.

    out of bounds        for long enough         clear, or no value for too long
    OK ------------> PENDING ------------> FIRING ------------> OK
     ^                  |
     +------------------+ a value within bounds
"""

from __future__ import annotations

import uuid
from enum import IntEnum
from typing import Any

import msgspec

from realtime.analytics.alerting.rule import (
    AlertSpec,
    Baseline,
    DeviationCondition,
    Judgement,
)

# Namespace of alert ids (version 5 UUIDs). Changing it changes every id.
ALERT_NAMESPACE = uuid.UUID("0b9d3c52-7a41-5c0e-9f63-51d1c4a7e2b8")


class AlertState(IntEnum):
    """The state of a group."""

    OK = 0
    PENDING = 1
    FIRING = 2


class AlertGroup(msgspec.Struct, array_like=True):
    """One group of a rule's values, as it is stored: fields keep their order."""

    group: dict[str, Any]
    state: AlertState = AlertState.OK
    # The number of the group's last value among all values of the rule: higher is newer.
    turn: int = 0
    # The last value, its own time, and when it was published; seconds since 1970.
    value: float = 0.0
    at: float = 0.0
    published: float = 0.0
    # Since when values have been out of bounds, by their own time.
    since: float = 0.0
    alert_id: str = ""
    # The bound that was passed; None for one that is too large for a float.
    bound: float | None = None
    baseline: Baseline | None = None


class Value(msgspec.Struct):
    """A value: its own time, when it was published, and its message's offset."""

    number: float
    at: float
    published: float
    offset: int


def take(rule: AlertSpec, group: AlertGroup, value: Value) -> bool:
    """Give a group its next value; tell whether an alert fires or is resolved by it."""
    gap = value.published - group.published
    before = group.state
    group.value, group.at, group.published = value.number, value.at, value.published
    judgement = rule.condition.judge(value.number, group.baseline)
    if before is AlertState.FIRING:
        if judgement.is_clear:
            group.state = AlertState.OK
    else:
        if (
            before is AlertState.PENDING
            and rule.resolve_after is not None
            and gap >= rule.resolve_after
        ):
            group.state = AlertState.OK
        _watch(rule, group, value, judgement)
    if group.state is AlertState.OK and isinstance(rule.condition, DeviationCondition):
        # What is out of bounds teaches nothing: an anomaly would soon be what is usual.
        group.baseline = group.baseline or Baseline()
        group.baseline.learn(value.number, rule.condition.alpha)
    return AlertState.FIRING in (before, group.state) and before is not group.state


def _watch(rule: AlertSpec, group: AlertGroup, value: Value, judgement: Judgement) -> None:
    """Go on to pending and firing while values are out of bounds, else back to ok."""
    if not judgement.is_out:
        group.state = AlertState.OK
        return
    if group.state is AlertState.OK:
        group.state, group.since = AlertState.PENDING, value.at
    # Messages may come out of order: what is older says that it has lasted longer.
    group.since = min(group.since, value.at)
    if value.at - group.since >= rule.for_seconds:
        group.state, group.bound = AlertState.FIRING, judgement.bound
        group.alert_id = _alert_id(rule, group, value)


def _alert_id(rule: AlertSpec, group: AlertGroup, value: Value) -> str:
    """Return the same id whenever the same message of the log makes the same group fire."""
    parts = [rule.name, rule.source, group.group, group.since, value.offset, value.published]
    text = msgspec.json.encode(parts, order="sorted").decode()
    return str(uuid.uuid5(ALERT_NAMESPACE, text))
