"""The message of an alert, which clients, receivers of webhooks and people get. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from realtime.analytics.alerting.incidents import AlertGroup, AlertState
from realtime.analytics.alerting.rule import AlertSpec, ThresholdCondition
from realtime.protocol import format_timestamp
from realtime.protocol.times import EARLIEST, LATEST

FIRING = "firing"
RESOLVED = "resolved"


class Reason(StrEnum):
    """Why an alert is resolved."""

    CLEARED = "cleared"
    NO_DATA = "no_data"
    RULE_CHANGED = "rule_changed"
    RULE_ENDED = "rule_ended"


def encode_alert(rule: AlertSpec, group: AlertGroup, reason: Reason, at: float) -> bytes:
    """Return the message of an alert that fires, or that is resolved *at* a time for a reason."""
    alert = {
        "alert_id": group.alert_id,
        "rule": rule.name,
        "name": rule.name,
        "source": rule.source,
        "severity": rule.severity,
        "state": FIRING if group.state is AlertState.FIRING else RESOLVED,
        "group": group.group,
        "value": group.value,
        "threshold": group.bound,
        "started_at": write_time(group.since),
        "timestamp": write_time(at),
    }
    if group.state is AlertState.FIRING:
        alert["message"] = _sentence(rule, group, _firing(rule, group))
    else:
        alert |= {"resolved_at": write_time(at), "reason": reason.value}
        alert["message"] = _sentence(rule, group, _resolved(rule, group, reason))
    return msgspec.json.encode(alert)


def write_time(seconds: float) -> str:
    """Write a time, in seconds since 1970; one beyond the years 1 to 9999 as the nearest one."""
    return format_timestamp(min(max(seconds, EARLIEST), LATEST))


def _sentence(rule: AlertSpec, group: AlertGroup, predicate: str) -> str:
    return f"{rule.name}: {rule.value}{group_text(group.group)} {predicate}"


def group_text(group: dict[str, Any]) -> str:
    """Return a group as words, with a space before them; nothing for the empty group."""
    return "".join(
        f"{' of ' if first else ', '}{path}={value}"
        for first, (path, value) in zip([True, *[False] * len(group)], group.items(), strict=False)
    )


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
    if isinstance(condition, ThresholdCondition):
        return f"is {group.value:g}, not {condition.direction} {condition.clear:g}"
    return f"is {group.value:g}, within {_deviations(condition.clear_factor)} of what is usual"


def _deviations(factor: float) -> str:
    return f"{factor:g} standard deviation{'' if factor == 1 else 's'}"
