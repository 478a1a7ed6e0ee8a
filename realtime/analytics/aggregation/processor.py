"""A rule as a processor: reads its type's log, publishes to ``aggregations``.

Knows records and windows; the work is done a batch at a time, so that most of it is done by C.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from realtime.analytics.aggregation import columns
from realtime.analytics.aggregation.columns import Group
from realtime.analytics.aggregation.functions import MESSAGES, NUMBERS, TEXTS, VALUES
from realtime.analytics.aggregation.rule import Rule
from realtime.analytics.aggregation.windows import Windows
from realtime.analytics.processing.contract import Changes, Records
from realtime.filters import Path

logger = logging.getLogger(__name__)

# Seconds by which publishers' clocks may differ, and messages be on their way, before a window by
# time of publishing is over.
CLOCK_SLACK = 2.0
# Seconds between two lines about what one rule leaves out.
LOG_INTERVAL = 60.0

_COLUMNS = {VALUES: columns.values, TEXTS: columns.texts, NUMBERS: columns.numbers}


class RuleProcessor:
    """Works a rule out."""

    target = "aggregations"
    # So that a new rule has results at once.
    from_start = True

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.name = f"aggregation:{rule.name}"
        self.definition = rule.definition
        self.source = rule.source
        self.windows = Windows(rule)
        self._lateness = rule.allowed_lateness + (0.0 if rule.time_path else CLOCK_SLACK)
        # View and path -> which of the accumulators take these values.
        self._inputs: dict[tuple[str, Path], list[int]] = defaultdict(list)
        for index, one in enumerate(self.windows.needs):
            self._inputs[one.view, one.path].append(index)
        self._is_new = True
        self._is_due = False
        # Messages left out that the log tells of, and when it told last.
        self._told = 0
        self._told_at = 0.0

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on from open windows that were saved."""
        self.windows.restore(fields.items())
        self._is_new = "progress" not in fields
        self._told = self._left_out()
        self._is_due = self.windows.is_due

    def take(self, records: Records) -> None:
        """Count the next messages."""
        if self._is_new:
            self._is_new = False
            if records.first > 1:
                self.windows.tear()
        for (number, group), indices in self._sort(records).items():
            cell = self.windows.cell(number, group)
            if cell is None:
                self.windows.progress.crowded += len(indices)
                continue
            self._add(cell.kept, records, indices)
        self._is_due = self.windows.is_due

    def _sort(self, records: Records) -> dict[tuple[int, Group], list[int]]:
        """Return the indices of messages that count, by slide and group; move the watermark."""
        progress, slide = self.windows.progress, self.rule.slide
        times = columns.times(records, self.rule.time_path)
        chosen = columns.matching(records, self.rule.filters)
        timed = [i for i in chosen if times[i] is not None]
        if len(timed) < len(chosen):
            progress.untimed += len(chosen) - len(timed)
        if not timed:
            return {}
        if progress.is_torn:
            self.windows.mend(times[timed[0]] + self._lateness)
        its = [times[i] for i in timed]
        newest = max(progress.watermark, max(its) - self._lateness)
        if min(its) // slide * slide + slide <= newest:
            timed = self._in_time(timed, its)
        self.windows.advance(newest)
        return self._grouped(records, timed)

    def _in_time(self, timed: list[int], its: list[float]) -> list[int]:
        """Return the indices of messages that come before the watermark has passed their slide."""
        progress, slide = self.windows.progress, self.rule.slide
        # The watermark before each message.
        before = accumulate(
            (time - self._lateness for time in its), max, initial=progress.watermark
        )
        found = [
            i
            for i, time, watermark in zip(timed, its, before, strict=False)
            if time // slide * slide + slide > watermark
        ]
        progress.late += len(timed) - len(found)
        return found

    def _grouped(self, records: Records, chosen: list[int]) -> dict[tuple[int, Group], list[int]]:
        keys = columns.keys(records, self.rule.time_path, self.rule.slide, self.rule.group_by)
        found: dict[Any, list[int]] = defaultdict(list)
        for i in chosen:
            found[keys[i]].append(i)
        self.windows.progress.ungrouped += len(found.pop(None, ()))
        return found

    def _add(self, kept: list[Any], records: Records, indices: list[int]) -> None:
        for (view, path), targets in self._inputs.items():
            if view == MESSAGES:
                kept[targets[0]].add(indices)
                continue
            column = _COLUMNS[view](records, path)
            values = [value for i in indices if (value := column[i]) is not None]
            if values:
                for index in targets:
                    kept[index].add(values)

    def skip(self, first: int, last: int | None) -> None:
        """Take note that open windows, and those up to the next message, lack some."""
        self._is_new = False
        self.windows.tear()

    def tick(self, now: float) -> None:
        """Close windows by time of publishing; tell the log what was left out."""
        if not self.rule.time_path:
            self.windows.advance(now - self._lateness)
            self._is_due = self.windows.is_due
        left_out = self._left_out()
        if left_out > self._told and now >= self._told_at + LOG_INTERVAL:
            progress = self.windows.progress
            logger.warning(
                "the rule %s has left out %d messages: %d too late, %d without a time, "
                "%d without a group, %d in too many groups",
                self.rule.name,
                *(left_out, progress.late, progress.untimed, progress.ungrouped, progress.crowded),
            )
            self._told, self._told_at = left_out, now

    def _left_out(self) -> int:
        progress = self.windows.progress
        return progress.late + progress.untimed + progress.ungrouped + progress.crowded

    @property
    def urgent(self) -> bool:
        """Whether a window is over."""
        return self._is_due

    def save(self) -> Changes:
        """Return results, and open windows as far as they have changed."""
        results = self.windows.close()
        self._is_due = self.windows.is_due
        fields, removed = self.windows.store()
        return Changes(fields, removed, results)
