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

# Seconds. If the log's clock is put back by less, as by a failover, time stands still for so long;
# if by more, it was wrong before.
CLOCK_STEP = 60.0
# Seconds between two lines about the messages that one rule leaves out.
LOG_INTERVAL = 60.0


def processor_name(rule: str) -> str:
    """Return the name of a rule's processor."""
    return f"aggregation:{rule}"


class AggregationProcessor:
    """Computes one rule; its methods are those of the contract."""

    target = "aggregations"
    # So that a new rule has results at once.
    from_start = True

    def __init__(self, rule: AggregationSpec) -> None:
        self.rule = rule
        self.name = processor_name(rule.name)
        self.definition = rule.definition
        self.source = rule.source
        self.windows = Windows(rule)
        self._lateness = rule.allowed_lateness
        # View and path -> which of the accumulators take these values.
        self._inputs: dict[tuple[Any, Path], list[int]] = defaultdict(list)
        for index, need in enumerate(self.windows.needs):
            self._inputs[need.view, need.path].append(index)
        self._is_new = True
        # Epoch and offset of the last message.
        self._taken = "", 0
        self._is_due = False
        # How many messages were left out when that was logged last, and when that was.
        self._logged = 0
        self._logged_at = 0.0

    def restore(self, fields: Mapping[str, bytes]) -> None:
        self.windows.restore(fields)
        self._is_new = "progress" not in fields
        self._logged = sum(self.left_out.values())
        self._is_due = self.windows.is_due

    @property
    def left_out(self) -> dict[str, int]:
        """How many messages did not count, by reason."""
        return self.windows.progress.left_out()

    def take(self, records: Records) -> None:
        if self._is_new:
            self._is_new = False
            if records.first > 1:
                self.windows.mark_lost()
            else:
                self.windows.progress.began = records.timestamps[0]
        self._taken = records.epoch, records.last
        if self.windows.cells.is_replaced(records.epoch):
            self.windows.mark_lost()
        for part in columns.in_order(records):
            self._take(part)
        self._is_due = self.windows.is_due

    def _follow_clock(self, now: float) -> float:
        """Return the log's time; put back the watermark if the clock was wrong before.

        The watermark is behind the log's clock by the allowed lateness, at least.
        """
        ahead = self.windows.progress.watermark + self._lateness - now
        if ahead > CLOCK_STEP:
            self.windows.put_back(now - self._lateness, now + self.rule.skew)
        return now + ahead if 0 < ahead <= CLOCK_STEP else now

    def _take(self, records: Records) -> None:
        now = self._follow_clock(records.timestamps[0])
        if now > records.timestamps[0]:
            later = [max(now, timestamp) for timestamp in records.timestamps]
            records = Records(records.first, records.payloads, later, records.epoch)
        by_cell = self._sort(records)
        inputs = [
            (view and view(records, path), accumulators)
            for (view, path), accumulators in (self._inputs.items() if by_cell else ())
        ]
        for (number, group), indices in by_cell.items():
            cell = self.windows.cells.cell(number, group)
            if cell is None:
                self.windows.progress.crowded += len(indices)
                continue
            if cell.upto:
                indices = [i for i in indices if records.first + i > cell.upto]
            for column, accumulators in inputs:
                values: list[Any] = indices
                if column is not None:
                    values = [value for i in indices if (value := column[i]) is not None]
                for accumulator in accumulators if values else ():
                    cell.accumulators[accumulator].add(values)

    def _sort(self, records: Records) -> dict[tuple[int, GroupValues], list[int]]:
        """Return the indices of messages that count, by slide and group; move the watermark."""
        progress, slide = self.windows.progress, self.rule.slide
        clock = self.rule.time_path, self.rule.skew
        times, passed = columns.times(records, *clock), columns.passed_times(records, *clock)
        chosen = columns.matching(records, self.rule.filters)
        timed = [i for i in chosen if times[i] is not None]
        if len(timed) < len(chosen):
            own_times = columns.own_times(records, self.rule.time_path)
            untimed = sum(own_times[i] is None for i in chosen)
            progress.untimed += untimed
            progress.ahead += len(chosen) - len(timed) - untimed
        if not timed:
            return {}
        # A message that is ahead of the log's clock raises the watermark up to that clock only: so
        # no wrong clock makes other messages late.
        reached = [passed[i] for i in timed]
        if progress.is_torn:
            self.windows.mark_complete(reached[0] + self._lateness)
        newest = max(progress.watermark, max(reached) - self._lateness)
        if min(reached) // slide * slide + slide <= newest:
            timed = self._in_time(timed, reached)
        self.windows.advance(newest)
        keys = columns.keys(records, *clock, slide, self.rule.group_by)
        indices: dict[Any, list[int]] = defaultdict(list)
        for i in timed:
            indices[keys[i]].append(i)
        progress.ungrouped += len(indices.pop(None, ()))
        return indices

    def _in_time(self, timed: list[int], reached: list[float]) -> list[int]:
        """Return the indices of messages that come before the watermark has passed their slide."""
        progress, slide = self.windows.progress, self.rule.slide
        newest = (time - self._lateness for time in reached)
        watermarks = accumulate(newest, max, initial=progress.watermark)  # before each message
        in_time = [
            i
            for i, time, watermark in zip(timed, reached, watermarks, strict=False)
            if time // slide * slide + slide > watermark
        ]
        progress.late += len(timed) - len(in_time)
        return in_time

    def skip(self, first: int, last: int | None) -> None:
        """Take note that open windows, and those up to the next message, are incomplete."""
        self._is_new = False
        self.windows.mark_lost()
        if last is None:
            self.windows.cells.forget_ahead()

    def tick(self, now: float) -> str | None:
        """Close windows by time of publishing; return what to log of messages left out."""
        reached = self._follow_clock(now)
        if not self.rule.time_path:
            self.windows.advance(reached - self._lateness)
            self._is_due = self.windows.is_due
        left_out = sum(self.left_out.values())
        if left_out == self._logged or 0 <= now - self._logged_at < LOG_INTERVAL:
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
        fields, removed, parts = self.windows.store(*self._taken)
        return Changes(fields, removed, results, parts=parts)
