"""The states of a group of values, and the messages of its alerts. Pure.

Each group has at most one incident at a time. It begins when values have been out of bounds for
as long as the rule says, and ends when a value is clear, or when no value has come for too long.

    out of bounds        for long enough         clear, or no value for too long
    OK ------------> PENDING ------------> FIRING ------------> OK
     ^                  |
     +------------------+ a value within bounds
"""

from __future__ import annotations

import uuid
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from realtime.analytics.alerting.rule import (
    AlertSpec,
    Baseline,
    DeviationCondition,
    Judgement,
    ThresholdCondition,
)
from realtime.protocol import format_timestamp
from realtime.protocol.times import EARLIEST, LATEST

FIRING, RESOLVED = "firing", "resolved"

# Namespace of alert ids (version 5 UUIDs). Changing it changes every id.
ALERT_NAMESPACE = uuid.UUID("0b9d3c52-7a41-5c0e-9f63-51d1c4a7e2b8")


class AlertState(IntEnum):
    """The state of a group: a resolved alert leaves it ok again."""

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


class Reason(StrEnum):
    """Why an alert is resolved."""

    CLEARED = "cleared"
    NO_DATA = "no_data"
    RULE_CHANGED = "rule_changed"
    RULE_ENDED = "rule_ended"
    LOST = "lost"


def encode_alert(rule: AlertSpec, group: AlertGroup, reason: Reason, at: float) -> bytes:
    """Return the message of an alert that fires, or that is resolved *at* a time for a reason."""
    is_firing = group.state is AlertState.FIRING
    happened = _firing(rule, group) if is_firing else _resolved(rule, group, reason)
    alert = {
        "alert_id": group.alert_id,
        "rule": rule.name,
        "name": rule.name,
        "source": rule.source,
        "severity": rule.severity,
        "state": FIRING if is_firing else RESOLVED,
        "group": group.group,
        "value": group.value,
        "threshold": group.bound,
        "started_at": write_time(group.since),
        "timestamp": write_time(at),
    }
    if not is_firing:
        alert |= {"resolved_at": write_time(at), "reason": reason.value}
    alert["message"] = f"{rule.name}: {rule.value}{group_text(group.group)} {happened}"
    return msgspec.json.encode(alert)


def write_time(seconds: float) -> str:
    """Write a time, in seconds since 1970; one beyond the years 1 to 9999 as the nearest one."""
    return format_timestamp(min(max(seconds, EARLIEST), LATEST))


def group_text(group: dict[str, Any]) -> str:
    """Return a group as words, with a space before them; nothing for the empty group."""
    labels = ", ".join(f"{path}={value}" for path, value in group.items())
    return f" of {labels}" if group else ""


def _firing(rule: AlertSpec, group: AlertGroup) -> str:
    condition = rule.condition
    if isinstance(condition, ThresholdCondition):
        return f"is {group.value:g}, {condition.direction} {condition.threshold:g}"
    usual = group.baseline.mean if group.baseline is not None else group.value
    return f"is {group.value:g}, more than {_deviations(condition.factor)} from {usual:g}"


def _resolved(rule: AlertSpec, group: AlertGroup, reason: Reason) -> str:
    condition = rule.condition
    if reason is Reason.NO_DATA:
        return f"has had no value for {rule.resolve_after:g} s; the last one was {group.value:g}"
    if reason is Reason.RULE_CHANGED:
        return f"was {group.value:g}; the rule was changed"
    if reason is Reason.RULE_ENDED:
        return f"was {group.value:g}; the rule was turned off or removed"
    if reason is Reason.LOST:
        return f"was {group.value:g}; what was known of it since has been lost"
    if isinstance(condition, ThresholdCondition):
        return f"is {group.value:g}, not {condition.direction} {condition.clear:g}"
    return f"is {group.value:g}, within {_deviations(condition.clear_factor)} of what is usual"


def _deviations(factor: float) -> str:
    return f"{factor:g} standard deviation{'' if factor == 1 else 's'}"
