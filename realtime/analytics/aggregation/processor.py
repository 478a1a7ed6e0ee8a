"""An aggregation rule as a processor: messages in, results of windows out. Pure.

It works on a batch of messages at a time, column by column, so that C does most of the work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from realtime.analytics.aggregation import columns
from realtime.analytics.aggregation.columns import GroupValues
from realtime.analytics.aggregation.rule import AggregationSpec
from realtime.analytics.aggregation.windows import Windows
from realtime.analytics.processing.contract import Changes, Records
from realtime.filters import Path

# Seconds by which publishers' clocks may differ, and messages be on their way, before a window by
# time of publishing is over.
CLOCK_SLACK = 2.0
# Seconds between two lines about the messages that one rule leaves out.
LOG_INTERVAL = 60.0


class AggregationProcessor:
    """Computes one rule; its methods are those of the contract."""

    target = "aggregations"
    # So that a new rule has results at once.
    from_start = True

    def __init__(self, rule: AggregationSpec) -> None:
        self.rule = rule
        self.name = f"aggregation:{rule.name}"
        self.definition = rule.definition
        self.source = rule.source
        self.windows = Windows(rule)
        self._lateness = rule.allowed_lateness + (0.0 if rule.time_path else CLOCK_SLACK)
        # View and path -> which of the accumulators take these values.
        self._inputs: dict[tuple[Any, Path], list[int]] = defaultdict(list)
        for index, need in enumerate(self.windows.needs):
            self._inputs[need.view, need.path].append(index)
        self._is_new = True
        self._is_due = False
        # How many messages were left out when that was logged last, and when that was.
        self._logged = 0
        self._logged_at = 0.0

    def restore(self, fields: Mapping[str, bytes]) -> None:
        self.windows.restore(fields.items())
        self._is_new = "progress" not in fields
        self._logged = self.windows.progress.left_out()
        self._is_due = self.windows.is_due

    def take(self, records: Records) -> None:
        if self._is_new:
            self._is_new = False
            if records.first > 1:
                self.windows.mark_lost()
        by_cell = self._sort(records)
        inputs = [
            (view and view(records, path), accumulators)
            for (view, path), accumulators in (self._inputs.items() if by_cell else ())
        ]
        for (number, group), indices in by_cell.items():
            cell = self.windows.cell(number, group)
            if cell is None:
                self.windows.progress.crowded += len(indices)
                continue
            for column, accumulators in inputs:
                values: list[Any] = indices
                if column is not None:
                    values = [value for i in indices if (value := column[i]) is not None]
                for accumulator in accumulators if values else ():
                    cell.accumulators[accumulator].add(values)
        self._is_due = self.windows.is_due

    def _sort(self, records: Records) -> dict[tuple[int, GroupValues], list[int]]:
        """Return the indices of messages that count, by slide and group; move the watermark."""
        progress, slide = self.windows.progress, self.rule.slide
        times = columns.times(records, self.rule.time_path)
        chosen = columns.matching(records, self.rule.filters)
        timed = [i for i in chosen if times[i] is not None]
        progress.untimed += len(chosen) - len(timed)
        if not timed:
            return {}
        if progress.is_torn:
            self.windows.mark_complete(times[timed[0]] + self._lateness)
        own_times = [times[i] for i in timed]
        newest = max(progress.watermark, max(own_times) - self._lateness)
        if min(own_times) // slide * slide + slide <= newest:
            timed = self._in_time(timed, own_times)
        self.windows.advance(newest)
        keys = columns.keys(records, self.rule.time_path, slide, self.rule.group_by)
        indices: dict[Any, list[int]] = defaultdict(list)
        for i in timed:
            indices[keys[i]].append(i)
        progress.ungrouped += len(indices.pop(None, ()))
        return indices

    def _in_time(self, timed: list[int], own_times: list[float]) -> list[int]:
        """Return the indices of messages that come before the watermark has passed their slide."""
        progress, slide = self.windows.progress, self.rule.slide
        newest = (time - self._lateness for time in own_times)
        watermarks = accumulate(newest, max, initial=progress.watermark)  # before each message
        in_time = [
            i
            for i, time, watermark in zip(timed, own_times, watermarks, strict=False)
            if time // slide * slide + slide > watermark
        ]
        progress.late += len(timed) - len(in_time)
        return in_time

    def skip(self, first: int, last: int | None) -> None:
        """Take note that open windows, and those up to the next message, are incomplete."""
        self._is_new = False
        self.windows.mark_lost()

    def tick(self, now: float) -> str | None:
        """Close windows by time of publishing; return what to log of messages left out."""
        if not self.rule.time_path:
            self.windows.advance(now - self._lateness)
            self._is_due = self.windows.is_due
        left_out = self.windows.progress.left_out()
        if left_out == self._logged or now < self._logged_at + LOG_INTERVAL:
            return None
        self._logged, self._logged_at = left_out, now
        return f"left out {left_out:,} messages: {self.windows.progress.explain()}"

    @property
    def urgent(self) -> bool:
        return self._is_due

    def save(self) -> Changes:
        """Return results, and open windows as far as they have changed."""
        results = self.windows.close()
        self._is_due = self.windows.is_due
        return Changes(*self.windows.store(), results)
