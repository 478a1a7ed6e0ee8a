"""The open windows of a rule, what they hold, and the results of those that are over. Pure.

Time is cut into slides, counted from 1970, and a window is a number of consecutive slides. Values
are kept by slide and group, and merged into a window when it is over: when the watermark, the
newest time less the allowed lateness, has passed its end. With ``size=30, slide=10``:

    seconds    0        10        20        30        40        50
    slides     |    0    |    1    |    2    |    3    |    4    |
    windows    |------- 0 to 30: over -------|
                         |------- 10 to 40: open ------|
                                   |------- 20 to 50: open ------|
    watermark                                     ^ 35

The watermark is at 35, so slides 0 to 2 are over, and the window of 0 to 30 is published. Slides 1
and 2 are still kept, as later windows hold them. A message of second 29 is late now, since the
first window that holds it is over. It counts in no window, not even in the two that are open.
So a slide that is over does not change any more, and results do not depend on when they are made.
A message of second 31 is not late: its slide is open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import msgspec

from realtime.analytics.aggregation.cells import Cells
from realtime.analytics.aggregation.functions import Need, need_of
from realtime.analytics.aggregation.rule import AggregationSpec
from realtime.protocol import format_timestamp

# Results that are made at a time, about: whole windows, at least one.
MAX_RESULTS = 2000

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class Progress:
    """How far a rule is, and how many messages it left out; stored beside the cells.

    Times are in seconds since 1970; slides are counted from then. Fields are stored by name.
    """

    # The newest time less the allowed lateness; by the log's clock it has been reached. -1: no
    # message has come yet.
    watermark: float = -1.0
    # Windows that end with this slide or before have been published.
    published: int = 0
    # Messages that were left out: too late, too far ahead, without a time, without a group, in too
    # many groups.
    late: int = 0
    ahead: int = 0
    untimed: int = 0
    ungrouped: int = 0
    crowded: int = 0
    # Messages of these slides may have been lost; -1: none. While ``is_torn`` the last of these
    # slides is not known yet.
    torn_from: int = -1
    torn_to: int = -1
    is_torn: bool = False
    # When the first message of a log that began at offset 1 was published; -1 if the rule began in
    # the midst of one. Nobody knows whether there was another log before.
    began: float = -1.0

    def left_out(self) -> dict[str, int]:
        """Return why messages did not count, and how many."""
        return {
            "too late": self.late,
            "too far ahead": self.ahead,
            "without a time": self.untimed,
            "without a group": self.ungrouped,
            "in too many groups": self.crowded,
        }

    def explain(self) -> str:
        """Return why messages did not count, and how many, as text."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.left_out().items())


class Windows:
    """The open windows of one rule."""

    def __init__(self, rule: AggregationSpec) -> None:
        self.rule = rule
        self.progress = Progress()
        needs = [need_of(function) for function in rule.functions]
        self.needs: list[Need] = list(dict.fromkeys(need for need, _ in needs))
        self._figures = [
            (function.name, self.needs.index(need), figure)
            for function, (need, figure) in zip(rule.functions, needs, strict=True)
        ]
        self._group_names = [".".join(path) for path in rule.group_by]
        self.cells = Cells(self.needs)
        # Results of windows that were over when the watermark was put back.
        self._results_before: list[bytes] = []

    def advance(self, watermark: float) -> None:
        """Raise the watermark."""
        self.progress.watermark = max(self.progress.watermark, watermark)

    def put_back(self, watermark: float, newest: float) -> None:
        """Go on from an earlier watermark, as the clock that it came from was wrong.

        Nothing after *newest* has happened yet. What came meanwhile was too late for its window, or
        is in one that has not begun: so the windows from here on are incomplete.
        """
        while (end := self._next_end()) is not None:
            self._results_before += self._results(end)
            self._forget(end)
        progress = self.progress
        progress.watermark = watermark
        progress.published = min(progress.published, self._over())
        self.cells.remove(
            [number for number in self.cells.slides if number * self.rule.slide > newest]
        )
        progress.torn_from = progress.torn_to = -1
        self.mark_lost()

    def mark_lost(self) -> None:
        """Note that messages were lost before the next one; then :meth:`mark_complete`."""
        progress = self.progress
        if progress.torn_from < 0:
            progress.torn_from = max(0, self._over())
        progress.is_torn = True

    def mark_complete(self, time: float) -> None:
        """Take note that no message from this time on was lost."""
        self.progress.torn_to = max(self.progress.torn_to, int(time // self.rule.slide))
        self.progress.is_torn = False

    def _over(self) -> int:
        """Return how many slides since 1970 are over."""
        return int(self.progress.watermark // self.rule.slide)

    @property
    def is_due(self) -> bool:
        """Whether there are results to publish."""
        return bool(self._results_before) or self._next_end() is not None

    def _next_end(self) -> int | None:
        """Return the end of the oldest window that is over and not published, if it holds any."""
        over, published = self._over(), self.progress.published
        ends = (
            end
            for number in self.cells.slides
            if (end := max(number, published) + 1) <= min(number + self.rule.slides, over)
        )
        return min(ends, default=None)

    def close(self) -> list[bytes]:
        """Forget windows that are over and return their results, the oldest first.

        Call again while :attr:`is_due`: about :data:`MAX_RESULTS` come at a time.
        """
        results, self._results_before = self._results_before, []
        while (end := self._next_end()) is not None and len(results) < MAX_RESULTS:
            results += self._results(end)
            self._forget(end)
        if end is None:
            self._forget(self._over())
        return results

    def _forget(self, published: int) -> None:
        progress = self.progress
        progress.published = max(progress.published, published)
        unused = progress.published - self.rule.slides
        self.cells.remove([number for number in self.cells.slides if number <= unused])
        if not progress.is_torn and unused >= progress.torn_to:
            progress.torn_from = progress.torn_to = -1

    def _results(self, end: int) -> Iterator[bytes]:
        """Yield a window's results in the order of their groups' texts."""
        slide, size = self.rule.slide, self.rule.size
        until = format_timestamp(end * slide)
        window = {"start": format_timestamp((end - self.rule.slides) * slide), "end": until}
        more = {"incomplete": True} if self._is_torn(end) else {}
        for group, accumulators in self.cells.merged(range(end - self.rule.slides, end)):
            values = {name: figure(accumulators[at], size) for name, at, figure in self._figures}
            plain = (value[0] if type(value) is tuple else value for value in group)
            named = dict(zip(self._group_names, plain, strict=True))
            result = {"rule": self.rule.name, "group": named, "window": window}
            yield _encoder.encode(result | {"values": values, "timestamp": until} | more)

    def _is_torn(self, end: int) -> bool:
        """Whether messages of the window with that end may have been lost."""
        progress, start, slide = self.progress, end - self.rule.slides, self.rule.slide
        if 0 <= progress.torn_from < end and (progress.is_torn or start <= progress.torn_to):
            return True
        return start * slide <= progress.began < end * slide + self.rule.allowed_lateness

    def store(
        self, epoch: str, taken: int
    ) -> tuple[dict[str, bytes], list[str], Iterator[dict[str, bytes]]]:
        """Return the fields to set, those to remove, and parts to set before; as :class:`Cells`."""
        return {"progress": _encoder.encode(asdict(self.progress))}, *self.cells.store(epoch, taken)

    def restore(self, fields: Mapping[str, bytes]) -> None:
        """Go on from what was stored."""
        cells = dict(fields)
        if (progress := cells.pop("progress", None)) is not None:
            self.progress = msgspec.json.decode(progress, type=Progress)
        self.cells.restore(cells)
