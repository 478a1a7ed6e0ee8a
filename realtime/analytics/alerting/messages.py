"""How an alert is written: the message that clients, receivers of webhooks and people get. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from realtime.analytics.alerting.incidents import Group, State
from realtime.analytics.alerting.rule import Rule, Threshold

FIRING = "firing"
RESOLVED = "resolved"

# Times that a datetime holds, in seconds since 1970.
_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799


class Reason(StrEnum):
    """Why an alert is resolved."""

    CLEARED = "cleared"
    NO_DATA = "no_data"
    RULE_CHANGED = "rule_changed"
    RULE_ENDED = "rule_ended"


def encode_alert(rule: Rule, group: Group, reason: Reason, at: float) -> bytes:
    """Return the message on an alert that fires, or was firing; resolved *at* a time, if it is."""
    alert = {
        "alert_id": group.alert_id,
        "rule": rule.name,
        "name": rule.name,
        "source": rule.source,
        "severity": rule.severity,
        "state": FIRING if group.state is State.FIRING else RESOLVED,
        "group": group.group,
        "value": group.value,
        "threshold": group.bound,
        "started_at": write_time(group.since),
        "timestamp": write_time(at),
    }
    if group.state is State.FIRING:
        alert["message"] = _sentence(rule, group, _out(rule, group))
    else:
        alert |= {"resolved_at": write_time(at), "reason": reason.value}
        alert["message"] = _sentence(rule, group, _well(rule, group, reason))
    return msgspec.json.encode(alert)


def write_time(seconds: float) -> str:
    """Write seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    seconds = min(max(seconds, _EARLIEST), _LATEST)
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def read_time(value: Any) -> float | None:
    """Read seconds since 1970, or ISO 8601 with an offset; ``None`` for what is neither."""
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(value)
            return time.timestamp() if time.tzinfo is not None else None
        except (ValueError, OverflowError):
            return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if _EARLIEST <= value <= _LATEST else None
    return None


def _sentence(rule: Rule, group: Group, what: str) -> str:
    return f"{rule.name}: {rule.value}{group_text(group.group)} {what}"


def group_text(group: dict[str, Any]) -> str:
    """Return a group as words, with a space before them; nothing for the empty group."""
    return "".join(
        f"{' of ' if first else ', '}{path}={value}"
        for first, (path, value) in zip([True, *[False] * len(group)], group.items(), strict=False)
    )


def _out(rule: Rule, group: Group) -> str:
    condition = rule.condition
    if isinstance(condition, Threshold):
        return f"is {group.value:g}, {condition.direction} {condition.threshold:g}"
    usual = group.baseline.mean if group.baseline is not None else group.value
    return f"is {group.value:g}, more than {_deviations(condition.factor)} from {usual:g}"


def _well(rule: Rule, group: Group, reason: Reason) -> str:
    condition = rule.condition
    if reason is Reason.NO_DATA:
        return f"has had no value for {rule.resolve_after:g} s; the last one was {group.value:g}"
    if reason is Reason.RULE_CHANGED:
        return f"was {group.value:g}; the rule was changed"
    if reason is Reason.RULE_ENDED:
        return f"was {group.value:g}; the rule was turned off or removed"
    if isinstance(condition, Threshold):
        return f"is {group.value:g}, not {condition.direction} {condition.clear:g}"
    return f"is {group.value:g}, within {_deviations(condition.clear_factor)} of what is usual"


def _deviations(factor: float) -> str:
    return f"{factor:g} standard deviation{'' if factor == 1 else 's'}"
