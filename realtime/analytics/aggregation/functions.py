"""Accumulators of the values of one group in one window, and the figures made of them. Pure.

An accumulator has ``add(values)``, ``merge(other)`` of its own class, ``dump()`` to what JSON can
hold, and ``load(data)``, which reads that. Its contents do not depend on the order or the parts in
which values came, so results do not depend on restarts. Sums are exact: integers as such, other
numbers as the decimals they are written as, rounded once at the end. Percentiles and counts of
different texts are exact, or in bounded space.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache, reduce
from importlib import import_module
from itertools import accumulate
from typing import Any, NamedTuple, Self

from realtime.analytics.aggregation import columns
from realtime.analytics.aggregation.rule import Function
from realtime.analytics.processing.contract import Records
from realtime.filters import Path

# Enough digits for any sum of floats.
_EXACT = Context(prec=800)
_ZERO = Decimal(0)
# Up to so many different values, counts of them and percentiles are exact.
EXACT_VALUES = 1000
# Beyond: the standard error of counts is 1.6 %, percentiles are within 1 % of a value.
_HLL_BITS = 12
_ACCURACY = 0.01
_BUCKETS_PER_E = 1 / math.log((1 + _ACCURACY) / (1 - _ACCURACY))


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
        return self.whole if self.other is None else _ratio(self._exact(), 1)

    def mean(self) -> float | None:
        """Return the mean; ``None`` of nothing, or if it is too large for a float."""
        return _ratio(self.whole if self.other is None else self._exact(), self.count)

    def _exact(self) -> Fraction:
        return self.whole + Fraction(self.other or 0)


def _ratio(value: int | Fraction, count: int) -> float | None:
    try:
        return float(value / count)
    except (OverflowError, ZeroDivisionError):
        return None


@dataclass(slots=True)
class Extremes:
    """The least and the greatest value."""

    low: Any = None
    high: Any = None

    def add(self, values: Sequence[Any]) -> None:
        if values:
            low, high = min(values), max(values)
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)

    def merge(self, other: Extremes) -> None:
        self.add([] if other.low is None else [other.low, other.high])

    def dump(self) -> Any:
        return [self.low, self.high]

    @classmethod
    def load(cls, data: Any) -> Self:
        return cls(*data)


@dataclass(slots=True)
class Percentiles:
    """How often each number came; beyond :data:`EXACT_VALUES` different ones, in which bucket.

    Buckets are those of a DDSketch (Masson, Rim, Lee 2019), each 2 % wide. Unlike KLL and t-digest
    they are the same whatever order and parts the numbers came in. DataDog's ``ddsketch`` ranks
    values in another way than SQL's ``quantile_disc``, and its sum depends on their order.
    """

    counts: Counter[Any] = field(default_factory=Counter)
    in_buckets: bool = False

    def add(self, values: Sequence[Any]) -> None:
        self.counts.update(map(_bucket, values) if self.in_buckets else values)
        if len(self.counts) > EXACT_VALUES:
            self._use_buckets()

    def merge(self, other: Percentiles) -> None:
        if other.in_buckets:
            self._use_buckets()
        # The other one stays as it is: later windows hold it too.
        use_buckets = self.in_buckets and not other.in_buckets
        self.counts.update(_in_buckets(other.counts) if use_buckets else other.counts)
        if len(self.counts) > EXACT_VALUES:
            self._use_buckets()

    def _use_buckets(self) -> None:
        if not self.in_buckets:
            self.counts = _in_buckets(self.counts)
            self.in_buckets = True

    def at(self, share: Fraction) -> int | float | None:
        """Return the least value that this share of the values does not exceed."""
        total = self.counts.total()
        if not total:
            return None
        values = sorted(self.counts)
        ranks = list(accumulate(self.counts[value] for value in values))
        value = values[bisect_left(ranks, share * total)]
        return _value(value) if self.in_buckets else value

    def dump(self) -> Any:
        return [self.in_buckets, list(self.counts), list(self.counts.values())]

    @classmethod
    def load(cls, data: Any) -> Self:
        in_buckets, values, counts = data
        return cls(Counter(dict(zip(values, counts, strict=True))), in_buckets)


def _in_buckets(counts: Counter[Any]) -> Counter[Any]:
    buckets: Counter[Any] = Counter()
    for value, count in counts.items():
        buckets[_bucket(value)] += count
    return buckets


# So that the number of the bucket of any float above 0 is positive.
_OFFSET = 40_000
_LOG_OF_LARGEST = 709.78


def _bucket(value: float) -> int:
    """Return the number of a value's bucket: in the order of values, 0 for 0."""
    if value == 0:
        return 0
    number = math.ceil(math.log(abs(value)) * _BUCKETS_PER_E) + _OFFSET
    return number if value > 0 else -number


def _value(bucket: int) -> float:
    """Return what is within 1 % of every value in a bucket."""
    if bucket == 0:
        return 0.0
    logarithm = min((abs(bucket) - _OFFSET) / _BUCKETS_PER_E, _LOG_OF_LARGEST)
    middle = math.exp(logarithm) * (1 - _ACCURACY)
    return math.copysign(middle, bucket)


@dataclass(slots=True)
class Distinct:
    """Which different texts there are; beyond :data:`EXACT_VALUES`, a HyperLogLog of them."""

    values: set[str] = field(default_factory=set)
    sketch: Any = None

    def add(self, values: Iterable[str]) -> None:
        if self.sketch is None:
            self.values.update(values)
            if len(self.values) <= EXACT_VALUES:
                return
            self.sketch = _new_sketch()
            values, self.values = self.values, set()
        for value in set(values):
            self.sketch.update(value)

    def merge(self, other: Distinct) -> None:
        if other.sketch is None:
            self.add(other.values)
            return
        texts, self.values = self.values, set()
        self.sketch = _united(self.sketch or _new_sketch(), other.sketch)
        self.add(texts)

    def count(self) -> int:
        """Return how many, about."""
        if self.sketch is None:
            return len(self.values)
        # The union with itself estimates from the registers alone, whatever the order was.
        estimate: float = _united(self.sketch, self.sketch).get_estimate()
        return round(estimate)

    def dump(self) -> Any:
        if self.sketch is None:
            return list(self.values)
        return b64encode(self.sketch.serialize_compact()).decode()

    @classmethod
    def load(cls, data: Any) -> Self:
        if isinstance(data, str):
            return cls(set(), _datasketches().hll_sketch.deserialize(b64decode(data)))
        return cls(set(data))


def _new_sketch() -> Any:
    return _datasketches().hll_sketch(_HLL_BITS, _datasketches().tgt_hll_type.HLL_8)


def _united(*sketches: Any) -> Any:
    union = _datasketches().hll_union(_HLL_BITS)
    for sketch in sketches:
        union.update(sketch)
    return union.get_result(_datasketches().tgt_hll_type.HLL_8)


@cache
def _datasketches() -> Any:
    # When it is first needed: it brings NumPy, and servers import this module too.
    return import_module("datasketches")


class Need(NamedTuple):
    """An accumulator that a rule needs: its class, and the values it takes.

    *view* is the function of :mod:`~realtime.analytics.aggregation.columns` that reads the values;
    ``None`` if messages are counted.
    """

    accumulator: type[Any]
    view: Callable[[Records, Path], list[Any]] | None
    path: Path


# Of each function: its accumulator, the values it takes, and its figure in a window of that size.
_FUNCTIONS: dict[str, tuple[type[Any], Any, Callable[[Any, int], Any]]] = {
    "count": (Count, columns.values, lambda counted, size: counted.count),
    "rate": (Count, columns.values, lambda counted, size: counted.count / size),
    "sum": (Sum, columns.numbers, lambda numbers, size: numbers.total()),
    "avg": (Sum, columns.numbers, lambda numbers, size: numbers.mean()),
    "min": (Extremes, columns.numbers, lambda extremes, size: extremes.low),
    "max": (Extremes, columns.numbers, lambda extremes, size: extremes.high),
    "distinct": (Distinct, columns.texts, lambda distinct, size: distinct.count()),
}


def need_of(function: Function) -> tuple[Need, Callable[[Any, int], Any]]:
    """Return a function's accumulator, and what makes its figure of that and a window's size."""
    if function.function in _FUNCTIONS:
        accumulator, view, figure = _FUNCTIONS[function.function]
        return Need(accumulator, view if function.path else None, function.path), figure
    share = Fraction(function.function[1:]) / 100
    need = Need(Percentiles, columns.numbers, function.path)
    return need, lambda percentiles, size: percentiles.at(share)
