"""Percentiles of numbers, and counts of different texts: exact, or in bounded space. Pure.

Both are accumulators, as described in :mod:`~realtime.analytics.aggregation.functions`. Their
contents do not depend on the order or the parts in which values came, nor on the order of merges.

DataDog's ``ddsketch`` is not used: it ranks values in another way than SQL's ``quantile_disc``, and
it keeps a sum that depends on the order of values.
"""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from importlib import import_module
from typing import Any, Self

# Up to so many different values, counts of them and percentiles are exact.
EXACT_VALUES = 1000
# Beyond: the standard error of counts is 1.6 %, percentiles are within 1 % of a value.
_HLL_BITS = 12
_ACCURACY = 0.01
_BUCKETS_PER_E = 1 / math.log((1 + _ACCURACY) / (1 - _ACCURACY))


@dataclass(slots=True)
class Percentiles:
    """How often each number came; beyond :data:`EXACT_VALUES` different ones, in which bucket.

    Buckets are those of a DDSketch (Masson, Rim, Lee 2019), each 2 % wide. Unlike KLL and t-digest
    they are the same whatever order and parts the numbers came in.
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
        """Count by bucket from now on, if that is not done yet."""
        if not self.in_buckets:
            self.counts = _in_buckets(self.counts)
            self.in_buckets = True

    def at(self, share: Fraction) -> int | float | None:
        """Return the least value that this share of the values does not exceed."""
        total = self.counts.total()
        if not total:
            return None
        rank = max(1, math.ceil(share * total))
        for value in sorted(self.counts):
            rank -= self.counts[value]
            if rank <= 0:
                return _value(value) if self.in_buckets else value
        raise AssertionError("ranks end with the total")

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
        """Return the texts, or the sketch's own bytes in Base64."""
        if self.sketch is None:
            return list(self.values)
        return b64encode(self.sketch.serialize_compact()).decode()

    @classmethod
    def load(cls, data: Any) -> Self:
        if isinstance(data, str):
            return cls(set(), _datasketches().hll_sketch.deserialize(b64decode(data)))
        return cls(set(data))


def _new_sketch() -> Any:
    library = _datasketches()
    return library.hll_sketch(_HLL_BITS, library.tgt_hll_type.HLL_8)


def _united(*sketches: Any) -> Any:
    library = _datasketches()
    union = library.hll_union(_HLL_BITS)
    for sketch in sketches:
        union.update(sketch)
    return union.get_result(library.tgt_hll_type.HLL_8)


@cache
def _datasketches() -> Any:
    # When it is first needed: it brings NumPy, and servers import this module too.
    return import_module("datasketches")
