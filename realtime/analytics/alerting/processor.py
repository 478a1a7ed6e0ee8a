"""An alert rule as a processor: messages in, alerts that fire and are resolved out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from realtime.analytics.alerting.incidents import (
    AlertGroup,
    AlertState,
    Reason,
    Value,
    encode_alert,
    take,
)
from realtime.analytics.alerting.rule import AlertSpec, ThresholdCondition, read_number
from realtime.analytics.processing.contract import Changes, Records
from realtime.analytics.rules import plain_number
from realtime.filters import MISSING, lookup, matches
from realtime.protocol.times import read_time

# Groups of one rule. One more, and the group whose last value is the oldest is forgotten, but none
# that is firing.
MAX_GROUPS = 10_000
MAX_GROUP_BYTES = 1024
# Seconds between two lines about the messages that one rule leaves out.
LOG_INTERVAL = 60.0
# The definition of a rule that was turned off or removed.
ENDED = "ended"
# The field of the state that has how many messages were left out, by reason.
LEFT_OUT = "left_out"
_RULE = "rule"
_GROUP = "g:"
_UNTIMED, _UNGROUPED, _CROWDED = "without a time", "without a group", "in too many groups"


def explain(left_out: Mapping[str, int]) -> str:
    """Return why messages were left out, and how many, as text."""
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())


class AlertProcessor:
    """Runs one rule. With *ended* it only resolves the alerts that were firing."""

    target = "alerts"
    from_start = False
    # So that alerts which were firing before the rule was changed are resolved.
    keeps_state = True

    def __init__(
        self, rule: AlertSpec, *, ended: bool = False, max_groups: int = MAX_GROUPS
    ) -> None:
        # When a rule reads another type, its earlier processor has to end, so it has another name.
        self.name = f"alert:{rule.name}:{rule.source}"
        self.source = rule.source
        self.definition = ENDED if ended else rule.definition
        self.rule = rule
        self._has_ended = ended
        self._max_groups = max_groups
        self._turn = 0
        # Key of a group -> the group, those whose values are the oldest first.
        self.firing: dict[str, AlertGroup] = {}
        self.quiet: dict[str, AlertGroup] = {}
        # Keys of groups to be saved, and of groups to be removed.
        self._changed: set[str] = set()
        self._removed: set[str] = set()
        self._is_new = False
        # The alerts to be published, each with its id, and how many have been handed over.
        self._outputs: list[tuple[str, bytes]] = []
        self.published = 0
        self._is_reconciled = False
        # How many messages did not count, by reason; how many were saved, and logged when.
        self.left_out = dict.fromkeys((_UNTIMED, _UNGROUPED, _CROWDED), 0)
        self._saved = self._logged = 0
        self._logged_at = 0.0

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on; after another definition, resolve what was firing and begin anew."""
        stored = {
            name.removeprefix(_GROUP): msgspec.json.decode(value, type=AlertGroup)
            for name, value in fields.items()
            if name.startswith(_GROUP)
        }
        groups = sorted(stored.items(), key=lambda item: item[1].turn)
        self._is_new = fields.get(_RULE) != self.definition.encode()
        if self._is_new:
            reason = Reason.RULE_ENDED if self._has_ended else Reason.RULE_CHANGED
            for key, group in groups:
                if group.state is AlertState.FIRING:
                    self._resolve(group, reason, group.at)
                self._removed.add(key)
            self._saved = -1 if LEFT_OUT in fields else 0
            return
        self.left_out |= msgspec.json.decode(fields.get(LEFT_OUT, b"{}"))
        self._saved = self._logged = sum(self.left_out.values())
        for key, group in groups:
            (self.firing if group.state is AlertState.FIRING else self.quiet)[key] = group
            self._turn = group.turn

    def take(self, records: Records) -> None:
        """Take the next values in."""
        if self._has_ended:
            return
        for key, labels, value in self._values(records):
            earlier = self.firing.pop(key, None) or self.quiet.pop(key, None)
            group = earlier or AlertGroup(labels)
            has_changed = take(self.rule, group, value)
            if earlier is None:
                if not self._is_worth_keeping(group):
                    continue
                if not self._make_room():
                    self.left_out[_CROWDED] += 1
                    continue
            if has_changed:
                self._publish(group, Reason.CLEARED, group.at)
            self._keep(key, group)

    def skip(self, first: int, last: int | None) -> None:
        """Go on without lost messages: the groups stay as they are."""

    def tick(self, now: float) -> str | None:
        """Resolve alerts without values for too long; return what to log of messages left out."""
        if self.rule.resolve_after is not None:
            for key, group in list(self.firing.items()):
                if now - group.published < self.rule.resolve_after:
                    break
                del self.firing[key]
                self._resolve(group, Reason.NO_DATA, group.at + self.rule.resolve_after)
                self._keep(key, group)
        left_out = sum(self.left_out.values())
        if left_out == self._logged or 0 <= now - self._logged_at < LOG_INTERVAL:
            return None
        self._logged, self._logged_at = left_out, now
        return f"left out {left_out:,} messages: {explain(self.left_out)}"

    @property
    def urgent(self) -> bool:
        """Whether an alert fires or is resolved, or the rule is a new one."""
        return bool(self._outputs) or self._is_new

    def save(self) -> Changes:
        """Return the groups that changed, and the alerts."""
        fields = {_RULE: self.definition.encode()} if self._is_new else {}
        if self._saved != sum(self.left_out.values()):
            fields[LEFT_OUT] = msgspec.json.encode(self.left_out)
            self._saved = sum(self.left_out.values())
        for key in self._changed:
            fields[_GROUP + key] = msgspec.json.encode(self.firing.get(key) or self.quiet[key])
        removed = [_GROUP + key for key in self._removed - self._changed]
        outputs, self._outputs = [body for _, body in self._outputs], []
        self.published += len(outputs)
        self._changed, self._removed, self._is_new = set(), set(), False
        return Changes(fields, removed, outputs)

    def _keep(self, key: str, group: AlertGroup) -> None:
        """Keep a group as the freshest, or forget it if there is nothing to remember."""
        if not self._is_worth_keeping(group):
            self._forget(key)
            return
        self._turn += 1
        group.turn = self._turn
        (self.firing if group.state is AlertState.FIRING else self.quiet)[key] = group
        self._removed.discard(key)
        self._changed.add(key)

    def _is_worth_keeping(self, group: AlertGroup) -> bool:
        return group.state is not AlertState.OK or not isinstance(
            self.rule.condition, ThresholdCondition
        )

    def _make_room(self) -> bool:
        """Forget the quiet group with the oldest value if there are too many; else refuse."""
        if len(self.firing) + len(self.quiet) < self._max_groups:
            return True
        if not self.quiet:
            return False
        oldest = next(iter(self.quiet))
        del self.quiet[oldest]
        self._forget(oldest)
        return True

    def _forget(self, key: str) -> None:
        self._changed.discard(key)
        self._removed.add(key)

    def _resolve(self, group: AlertGroup, reason: Reason, at: float) -> None:
        group.state = AlertState.OK
        self._publish(group, reason, at)

    def _publish(self, group: AlertGroup, reason: Reason, at: float) -> None:
        self._outputs.append((group.alert_id, encode_alert(self.rule, group, reason, at)))

    @property
    def alert_ids(self) -> set[str]:
        """The ids of the alerts that are firing."""
        return {group.alert_id for group in self.firing.values()}

    def reconcile(self, differences: Mapping[str, AlertGroup | None], now: float) -> None:
        """Make good what a store has lost.

        *differences* are alerts, by id, of which people have been told something else than this
        rule has: their groups as people know them, ``None`` for an alert that nobody was told of.
        What :attr:`published` counts has been told already. *now* is in seconds since 1970.
        """
        unpublished = {alert_id for alert_id, _ in self._outputs}
        keys = {group.alert_id: key for key, group in self.firing.items()}
        for alert_id, told in differences.items():
            key = keys.get(alert_id)
            if alert_id in unpublished:
                continue
            if told is not None and told.state is AlertState.FIRING:
                if key is None:
                    self._take_over(told, now)
            elif key is not None and told is None:
                self._publish(self.firing[key], Reason.CLEARED, self.firing[key].at)
            elif key is not None:  # what is out of bounds fires anew
                group = self.firing.pop(key)
                group.state = AlertState.OK
                self._keep(key, group)
        self._is_reconciled = True

    def _take_over(self, group: AlertGroup, now: float) -> None:
        """Go on with an alert that people know as firing, or resolve it if that cannot be."""
        key = msgspec.json.encode(group.group, order="sorted").decode()
        quiet = self.quiet.get(key, group)
        labels = self.rule.group_paths
        reason = None
        if self._has_ended:
            reason = Reason.RULE_ENDED
        elif labels is not None and group.group.keys() != {label for label, _ in labels}:
            reason = Reason.RULE_CHANGED
        elif (
            self._is_reconciled
            or key in self.firing
            or self.rule.condition.has_to_learn(quiet.baseline)
        ):
            reason = Reason.LOST
        if reason is not None:
            self._resolve(group, reason, group.at)
            return
        group.published, group.baseline = now, quiet.baseline
        group.bound = self.rule.condition.judge(group.value, quiet.baseline).bound
        if self.quiet.pop(key, None) is None:
            self._make_room()
        self._keep(key, group)

    def _values(self, records: Records) -> Iterator[tuple[str, dict[str, Any], Value]]:
        """Yield each value of the rule, with the key and the labels of its group."""
        rule = self.rule
        numbers = records.column(rule.value_path)
        times = records.timestamps if rule.time_path is None else records.column(rule.time_path)
        for index, payload in enumerate(records):
            published = records.timestamps[index]
            number = read_number(numbers[index])
            if number is None or published < rule.since:
                continue
            if not matches(rule.compiled_filters, payload):
                continue
            at, labels = read_time(times[index]), self._labels(payload)
            if at is None:
                self.left_out[_UNTIMED] += 1
                continue
            key = b"" if labels is None else msgspec.json.encode(labels, order="sorted")
            if labels is None or len(key) > MAX_GROUP_BYTES:
                self.left_out[_UNGROUPED] += 1
                continue
            yield key.decode(), labels, Value(number, at, published, records.first + index)

    def _labels(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        """Return a message's group; ``None`` if a label is no scalar. A missing one is null."""
        paths = self.rule.group_paths
        if paths is None:
            labels = payload.get("group", {})
            if not isinstance(labels, dict):
                return None
        else:
            labels = {text: lookup(payload, path) for text, path in paths}
        if any(isinstance(label, dict | list) for label in labels.values()):
            return None
        return {
            name: None if label is MISSING else plain_number(label)
            for name, label in labels.items()
        }
