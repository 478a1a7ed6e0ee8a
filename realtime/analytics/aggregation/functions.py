"""Accumulators of the values of one group in one window, and the figures made of them. Pure.

An accumulator has ``add(values)``, ``merge(other)`` of its own class, ``dump()`` to what JSON can
hold, and ``load(data)``, which reads that. Its contents do not depend on the parts in which values
came, so results do not depend on restarts. Sums are exact: integers as such, other numbers as the
decimals they are written as, rounded once at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import reduce
from typing import Any, NamedTuple, Self

from realtime.analytics.aggregation.rule import Function
from realtime.analytics.aggregation.sketches import Distinct, Percentiles
from realtime.filters import Path

# Enough digits for any sum of floats.
_EXACT = Context(prec=800)
_ZERO = Decimal(0)


@dataclass(slots=True)
class Count:
    """How many values."""

    count: int = 0

    def add(self, values: Sequence[Any]) -> None:
        self.count += len(values)

    def merge(self, other: Count) -> None:
        self.count += other.count

    def dump(self) -> int:
        return self.count

    @classmethod
    def load(cls, data: int) -> Self:
        return cls(data)


@dataclass(slots=True)
class Sum:
    """The exact sum of numbers and how many they are: integers and other numbers apart."""

    count: int = 0
    whole: int = 0
    # None as long as all numbers are integers: then the sum is an integer too.
    other: Decimal | None = None

    def add(self, values: Sequence[Any]) -> None:
        self.count += len(values)
        if float not in set(map(type, values)):
            self.whole += sum(values)
            return
        self.whole += sum(value for value in values if type(value) is int)
        decimals = (Decimal(repr(value)) for value in values if type(value) is float)
        self.other = reduce(_EXACT.add, decimals, self.other or _ZERO)

    def merge(self, other: Sum) -> None:
        self.count += other.count
        self.whole += other.whole
        if other.other is not None:
            self.other = _EXACT.add(self.other or _ZERO, other.other)

    def dump(self) -> Any:
        return [self.count, self.whole, None if self.other is None else str(self.other)]

    @classmethod
    def load(cls, data: Any) -> Self:
        count, whole, other = data
        return cls(count, whole, None if other is None else Decimal(other))

    def total(self) -> int | float | None:
        """Return the sum; ``None`` of nothing, or if it is no integer and too large for a float."""
        if not self.count:
            return None
        if self.other is None:
            return self.whole
        return _finite(lambda: float(self._exact()))

    def mean(self) -> float | None:
        """Return the mean; ``None`` of nothing."""
        if not self.count:
            return None
        if self.other is None:
            return _finite(lambda: self.whole / self.count)
        return _finite(lambda: float(self._exact() / self.count))

    def _exact(self) -> Fraction:
        return self.whole + Fraction(self.other or 0)


def _finite(compute: Callable[[], float]) -> float | None:
    try:
        value = compute()
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


@dataclass(slots=True)
class Extremes:
    """The least and the greatest value."""

    low: Any = None
    high: Any = None

    def add(self, values: Sequence[Any]) -> None:
        if values:
            self._take(min(values), max(values))

    def merge(self, other: Extremes) -> None:
        if other.low is not None:
            self._take(other.low, other.high)

    def _take(self, low: Any, high: Any) -> None:
        if self.low is not None:
            low, high = min(self.low, low), max(self.high, high)
        self.low, self.high = low, high

    def dump(self) -> Any:
        return [self.low, self.high]

    @classmethod
    def load(cls, data: Any) -> Self:
        return cls(*data)


# What a column holds: messages, values that are not null, scalars as texts, or numbers.
MESSAGES, VALUES, TEXTS, NUMBERS = "messages", "values", "texts", "numbers"


class Need(NamedTuple):
    """An accumulator that a rule needs: its class, and the values it takes."""

    accumulator: type[Any]
    view: str
    path: Path


def need_of(function: Function) -> Need:
    """Return the accumulator that a function is computed from."""
    match function.function:
        case "count" | "rate":
            return Need(Count, VALUES if function.path else MESSAGES, function.path)
        case "sum" | "avg":
            return Need(Sum, NUMBERS, function.path)
        case "min" | "max":
            return Need(Extremes, NUMBERS, function.path)
        case "distinct":
            return Need(Distinct, TEXTS, function.path)
    return Need(Percentiles, NUMBERS, function.path)


def reader(function: Function, size: int) -> Callable[[Any], Any]:
    """Return what computes a function's figure from its accumulator; *size* is the window's."""
    match function.function:
        case "count":
            return lambda counted: int(counted.count)
        case "rate":
            return lambda counted: float(counted.count / size)
        case "sum":
            return Sum.total
        case "avg":
            return Sum.mean
        case "min":
            return lambda extremes: extremes.low
        case "max":
            return lambda extremes: extremes.high
        case "distinct":
            return Distinct.count
    share = Fraction(function.function[1:]) / 100
    return lambda percentiles: percentiles.at(share)
