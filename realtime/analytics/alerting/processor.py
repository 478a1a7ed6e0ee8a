"""A rule at work: reads a type's log, keeps each group's state, says which alerts fire and end.

It waits for nothing: the runner feeds it and saves what it says
(:mod:`realtime.analytics.processing`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from realtime.analytics.alerting.incidents import Group, State, Value, take
from realtime.analytics.alerting.messages import Reason, encode_alert, read_time
from realtime.analytics.alerting.rule import Rule, Threshold, read_number
from realtime.analytics.processing.contract import Changes, Records
from realtime.filters import Path, matches

logger = logging.getLogger(__name__)

# Of one rule. One more, and the group whose last value is the oldest is forgotten; one that is
# firing never is.
MAX_GROUPS = 10_000
MAX_GROUP_BYTES = 1024
# What a rule that was turned off or removed has for a definition.
ENDED = "ended"
_RULE = "rule"
_GROUP = "g:"


def processor_name(rule: str, source: str) -> str:
    """Return the name of a rule's processor: a rule that reads another type is another one."""
    return f"alert:{rule}:{source}"


class AlertProcessor:
    """Reads for one rule. With ``ended`` it only resolves what was firing."""

    target = "alerts"
    from_start = False
    # So that alerts which were firing before the rule was changed are resolved.
    keeps_state = True

    def __init__(self, rule: Rule, *, ended: bool = False, max_groups: int = MAX_GROUPS) -> None:
        self.name = processor_name(rule.name, rule.source)
        self.source = rule.source
        self.definition = ENDED if ended else rule.definition
        self.rule = rule
        self._ended = ended
        self._max_groups = max_groups
        self._turn = 0
        # Key of a group -> the group, those whose values are the oldest first.
        self.firing: dict[str, Group] = {}
        self.quiet: dict[str, Group] = {}
        # Keys of groups to be saved, and to be forgotten.
        self._changed: set[str] = set()
        self._removed: set[str] = set()
        self._is_new = False
        self._outputs: list[bytes] = []

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on; after another definition, resolve what was firing and begin anew."""
        found = {
            name.removeprefix(_GROUP): msgspec.json.decode(value, type=Group)
            for name, value in fields.items()
            if name.startswith(_GROUP)
        }
        groups = sorted(found.items(), key=lambda item: item[1].turn)
        self._is_new = fields.get(_RULE) != self.definition.encode()
        if self._is_new:
            reason = Reason.RULE_ENDED if self._ended else Reason.RULE_CHANGED
            for key, group in groups:
                if group.state is State.FIRING:
                    self._resolve(group, reason, group.at)
                self._removed.add(key)
            return
        for key, group in groups:
            (self.firing if group.state is State.FIRING else self.quiet)[key] = group
            self._turn = group.turn

    def take(self, records: Records) -> None:
        """Take the next values in."""
        if self._ended:
            return
        for key, labels, value in self._values(records):
            known = self.firing.pop(key, None) or self.quiet.pop(key, None)
            group = known or Group(labels)
            changed = take(self.rule, group, value)
            if known is None and not (self._is_worth_keeping(group) and self._make_room()):
                continue
            if changed:
                self._outputs.append(encode_alert(self.rule, group, Reason.CLEARED, group.at))
            self._keep(key, group)

    def skip(self, first: int, last: int | None) -> None:
        """Go on without what was lost: the groups are as they were."""
        logger.warning(
            "%s: messages from %d %s were lost", self.name, first, f"to {last}" if last else "on"
        )

    def tick(self, now: float) -> None:
        """Resolve alerts whose values have not come for too long."""
        limit = self.rule.resolve_after
        if limit is None:
            return
        for key, group in list(self.firing.items()):
            if now - group.published < limit:
                break
            del self.firing[key]
            group.state = State.OK
            self._resolve(group, Reason.NO_DATA, group.at + limit)
            self._keep(key, group)

    @property
    def urgent(self) -> bool:
        """Whether an alert fires or is resolved, or the rule is a new one."""
        return bool(self._outputs) or self._is_new

    def save(self) -> Changes:
        """Return the groups that changed, and the alerts."""
        fields = {_RULE: self.definition.encode()} if self._is_new else {}
        for key in self._changed:
            fields[_GROUP + key] = msgspec.json.encode(self.firing.get(key) or self.quiet[key])
        removed = [_GROUP + key for key in self._removed - self._changed]
        outputs, self._outputs = self._outputs, []
        self._changed, self._removed, self._is_new = set(), set(), False
        return Changes(fields, removed, outputs)

    # Groups

    def _keep(self, key: str, group: Group) -> None:
        """Keep a group as the freshest, or forget it if there is nothing to remember."""
        if not self._is_worth_keeping(group):
            self._forget(key)
            return
        self._turn += 1
        group.turn = self._turn
        (self.firing if group.state is State.FIRING else self.quiet)[key] = group
        self._removed.discard(key)
        self._changed.add(key)

    def _is_worth_keeping(self, group: Group) -> bool:
        return group.state is not State.OK or not isinstance(self.rule.condition, Threshold)

    def _forget(self, key: str) -> None:
        self._changed.discard(key)
        self._removed.add(key)

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

    def _resolve(self, group: Group, reason: Reason, at: float) -> None:
        group.state = State.OK
        self._outputs.append(encode_alert(self.rule, group, reason, at))

    # Messages

    def _values(self, records: Records) -> Iterator[tuple[str, dict[str, Any], Value]]:
        """Yield what concerns the rule: key and labels of the group, and the value."""
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
            at, labels = read_time(times[index]), _labels(rule.group_paths, payload)
            if at is None or labels is None:
                continue
            key = msgspec.json.encode(labels, order="sorted")
            if len(key) <= MAX_GROUP_BYTES:
                value = Value(number, at, published, records.first + index)
                yield key.decode(), labels, value


def _labels(
    paths: tuple[tuple[str, Path], ...] | None, payload: dict[str, Any]
) -> dict[str, Any] | None:
    """Return a message's group; ``None`` if it has what is no label.

    What a message lacks is null, and whole numbers are written as such: 1.0 is 1.
    """
    if paths is None:
        found = payload.get("group", {})
        if not isinstance(found, dict):
            return None
    else:
        found = {text: _at(payload, path) for text, path in paths}
    labels = {}
    for name, label in found.items():
        if isinstance(label, dict | list):
            return None
        is_whole = isinstance(label, float) and label.is_integer() and abs(label) < 2**53
        labels[name] = int(label) if is_whole else label
    return labels


def _at(payload: Any, path: Path) -> Any:
    for step in path:
        if not isinstance(payload, dict):
            return None
        payload = payload.get(step)
    return payload
