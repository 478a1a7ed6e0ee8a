"""What an alert rule is: which values it looks at, and when they are out of bounds. Pure.

A rule of the admin and a rule in code are the same here, with the same error messages.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from realtime.analytics.rules import (
    RuleError,
    check_choice,
    read_rule_filters,
    read_rule_path,
    sources_for,
)
from realtime.filters import Filter, Path

SOURCES = sources_for("alerts")
SEVERITIES = ("info", "warning", "critical")
ABOVE, BELOW, DEVIATION = "above", "below", "deviation"
MAX_GROUP_PATHS = 8
# Ten years.
MAX_SECONDS = 315_360_000.0

_COMPARISONS = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "more_than": operator.gt,
    "less_than": operator.lt,
}
_NAME = re.compile(r"[-a-zA-Z0-9_]{1,100}\Z")


class Baseline(msgspec.Struct, array_like=True):
    """What is usual for the values of a group: their number, weighted mean and variance."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def learn(self, value: float, alpha: float) -> None:
        """Take a value in with the weight *alpha*; all earlier ones together have the remainder.

        As in T. Finch, Incremental calculation of weighted mean and variance (2009), section 9.
        """
        if self.count == 0:
            self.count, self.mean = 1, value
            return
        difference = value - self.mean
        step = alpha * difference
        self.mean += step
        self.variance = (1 - alpha) * (self.variance + difference * step)
        self.count += 1
        if not (math.isfinite(self.mean) and math.isfinite(self.variance)):
            # Larger than any float: begin again, as there is nothing to compare with.
            self.count, self.mean, self.variance = 0, 0.0, 0.0


class Judgement(NamedTuple):
    """Whether a value is out of bounds, whether it is well within, and the bound it is held to.

    A value that is neither is between the two bounds, and changes nothing.
    """

    is_out: bool
    is_clear: bool
    bound: float


@dataclass(frozen=True)
class ThresholdCondition:
    """A value may not go above, or below, a number; it is well again at *clear*."""

    direction: str
    threshold: float
    clear: float

    def check(self) -> None:
        """Raise :class:`~realtime.analytics.rules.RuleError`."""
        check_choice("direction", self.direction, (ABOVE, BELOW))
        _check_number("threshold", self.threshold)
        _check_number("clear", self.clear)
        if self.direction == ABOVE and self.clear > self.threshold:
            raise RuleError("clear", f"expected at most the threshold, {self.threshold:g}")
        if self.direction == BELOW and self.clear < self.threshold:
            raise RuleError("clear", f"expected at least the threshold, {self.threshold:g}")

    def has_to_learn(self, baseline: Baseline | None) -> bool:
        """Whether no value can be judged yet."""
        return False

    def judge(self, value: float, baseline: Baseline | None) -> Judgement:
        """Judge a value."""
        if self.direction == ABOVE:
            return Judgement(value > self.threshold, value <= self.clear, self.threshold)
        return Judgement(value < self.threshold, value >= self.clear, self.threshold)


@dataclass(frozen=True)
class DeviationCondition:
    """A value may not be further from the usual than *factor* standard deviations.

    Usual is the exponentially weighted mean, in which each value has the weight *alpha* when it
    comes. A value is well again within *clear_factor* standard deviations. A distance of *least* or
    less never counts; the first *samples* values only teach what is usual.
    """

    factor: float
    clear_factor: float
    alpha: float = 0.05
    samples: int = 30
    least: float = 0.0

    def check(self) -> None:
        """Raise :class:`~realtime.analytics.rules.RuleError`."""
        _check_number("deviation", self.factor, more_than=0)
        _check_number("clear", self.clear_factor, at_least=0, at_most=self.factor)
        _check_number("alpha", self.alpha, more_than=0, less_than=1)
        _check_number("samples", self.samples, at_least=2, at_most=1_000_000)
        _check_number("least", self.least, at_least=0)

    def has_to_learn(self, baseline: Baseline | None) -> bool:
        """Whether no value can be judged yet, as too few have come."""
        return baseline is None or baseline.count < self.samples

    def judge(self, value: float, baseline: Baseline | None) -> Judgement:
        """Judge a value by what is usual."""
        if baseline is None or self.has_to_learn(baseline):
            return Judgement(False, True, value)
        deviation = math.sqrt(baseline.variance)
        out, clear = (
            max(factor * deviation, self.least) for factor in (self.factor, self.clear_factor)
        )
        distance = abs(value - baseline.mean)
        bound = baseline.mean + (out if value > baseline.mean else -out)
        return Judgement(distance > out, distance <= clear, bound)


AlertCondition = ThresholdCondition | DeviationCondition


def make_condition(
    direction: str, bound: float, clear: float | None = None, **learning: Any
) -> AlertCondition:
    """Return the condition that values are not above, below or in deviation of a bound.

    *learning* are further fields of :class:`DeviationCondition`, which has a bound in standard
    deviations. *clear* is by default the bound, and two thirds of it for a deviation.
    """
    if direction != DEVIATION:
        return ThresholdCondition(direction, bound, bound if clear is None else clear)
    _check_number("deviation", bound)
    return DeviationCondition(bound, bound * 2 / 3 if clear is None else clear, **learning)


class Targets(NamedTuple):
    """Who is told about a rule's alerts."""

    emails: Sequence[str] = ()
    webhook_url: str = ""
    webhook_secret: str = ""


@dataclass(frozen=True)
class AlertSpec:
    """When to alert, and whom to tell.

    ``value`` is the path of a number in messages of type ``source`` that match ``filters``.
    ``group_by`` are paths: each combination of their values has alerts of its own; ``None`` is the
    ``group`` of an aggregation. ``for_seconds`` is how long values must be out of bounds by the
    messages' own time: what is at ``time``, or when they were published. After ``resolve_after``
    seconds without a value an alert is resolved; ``None``: never. Messages published before
    ``since``, in seconds since 1970, are ignored. Raises :class:`RuleError`.
    """

    name: str
    source: str
    value: str
    condition: AlertCondition
    filters: Mapping[str, Any] = field(default_factory=dict)
    group_by: Sequence[str] | None = None
    severity: str = "warning"
    for_seconds: float = 0.0
    resolve_after: float | None = None
    time: str | None = None
    since: float = 0.0
    targets: Targets = field(default_factory=Targets)
    # Made of the others. Groups: the paths as text and as steps; None: the whole ``group``.
    value_path: Path = field(init=False, repr=False, compare=False)
    time_path: Path | None = field(init=False, repr=False, compare=False)
    group_paths: tuple[tuple[str, Path], ...] | None = field(init=False, repr=False, compare=False)
    compiled_filters: Filter = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise RuleError("name", "expected 1 to 100 of a-z A-Z 0-9 - _")
        check_choice("source", self.source, SOURCES)
        check_choice("severity", self.severity, SEVERITIES)
        self.condition.check()
        _check_number("for_seconds", self.for_seconds, at_least=0, at_most=MAX_SECONDS)
        if self.resolve_after is not None:
            _check_number("resolve_after", self.resolve_after, at_most=MAX_SECONDS, more_than=0)
        vars(self).update(
            value_path=read_rule_path("value", self.value),
            time_path=None if self.time is None else read_rule_path("time", self.time),
            group_paths=self._read_groups(),
            compiled_filters=read_rule_filters(self.filters),
        )

    def _read_groups(self) -> tuple[tuple[str, Path], ...] | None:
        if self.group_by is None:
            return None if self.source == "aggregations" else ()
        if isinstance(self.group_by, str) or not isinstance(self.group_by, Iterable):
            raise RuleError("group_by", "expected a list of paths")
        if len(self.group_by) > MAX_GROUP_PATHS:
            raise RuleError("group_by", f"more than {MAX_GROUP_PATHS} paths")
        return tuple((text, read_rule_path("group_by", text)) for text in self.group_by)

    @cached_property
    def definition(self) -> str:
        """All that decides when it alerts, as text. Stored: another one resolves all alerts."""
        name = "Threshold" if isinstance(self.condition, ThresholdCondition) else "Deviation"
        parts = (
            (self.value, self.time, self.for_seconds, self.resolve_after, self.since),
            (name, *vars(self.condition).values()),
            self.filters,
            self.group_by,
            self.severity,
        )
        return json.dumps(parts, sort_keys=True)


def read_number(value: Any) -> float | None:
    """Return a finite number, or ``None`` for anything else, also for true and false."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _check_number(name: str, value: Any, **bounds: float) -> None:
    """Raise :class:`RuleError` unless *value* is a number in its bounds, such as ``at_least=0``."""
    if read_number(value) is None:
        raise RuleError(name, "expected a number")
    if not all(_COMPARISONS[bound](value, limit) for bound, limit in bounds.items()):
        words = (f"{bound.replace('_', ' ')} {limit:g}" for bound, limit in bounds.items())
        raise RuleError(name, f"expected {' and '.join(words)}")
