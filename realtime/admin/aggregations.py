"""Aggregation rules: their list and form, and how far each rule is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

import msgspec
from django.contrib import admin
from django.http import HttpRequest

from realtime.admin.common import ModelAdmin, ModelForm, badge, column, json_field
from realtime.admin.standing import RuleStatus, ask_standing, status_of
from realtime.analytics.aggregation.models import AggregationRule
from realtime.analytics.aggregation.processor import AggregationProcessor
from realtime.analytics.aggregation.rule import EXAMPLE
from realtime.analytics.aggregation.windows import Progress
from realtime.analytics.rules import RuleError


class AggregationRuleForm(ModelForm[AggregationRule]):
    """A rule. Its error messages come from the rule itself, through the model."""

    filters = json_field(
        "Filters",
        '{"event_type": "departure"}',
        'Only matching messages count, e.g. {"event_type": "departure"}. {}: every message.',
    )
    group_by = json_field(
        "Group by",
        '["payload.origin"]',
        'One result for each combination of values at these paths, e.g. ["payload.origin"]. '
        "[]: one result.",
        rows=2,
        empty=list,
    )
    functions = json_field(
        "Functions",
        EXAMPLE,
        'The figures of a result, e.g. [{"name": "flights", "function": "count"}, {"name": '
        '"p95_delay", "function": "p95", "path": "payload.delay_minutes"}]. Functions are count, '
        "sum, avg, min, max, distinct, rate (a second) and p1 to p99.999.",
        rows=6,
        empty=None,
    )

    class Meta:
        model = AggregationRule
        fields = (
            *("name", "enabled", "note", "source", "filters", "group_by"),
            *("size", "slide", "allowed_lateness", "allowed_skew", "time_path", "functions"),
        )


def read_status(row: AggregationRule) -> RuleStatus:
    """Ask the processors' server how far a rule is."""
    standing = ask_standing(lambda: AggregationProcessor(row.spec()), "progress")
    status = status_of(standing, enabled=row.enabled)
    if standing is None or standing.position is None:
        return status
    progress = Progress()
    if standing.field is not None:
        progress = msgspec.json.decode(standing.field, type=Progress)
    until = "-"
    if progress.watermark >= 0:
        until = f"{datetime.fromtimestamp(progress.watermark, UTC):%Y-%m-%d %H:%M:%S UTC}"
    return status._replace(left_out=progress.explain(), closed_until=until)


def _status(row: AggregationRule) -> Any:
    """Return how far a rule is, asked once for a row of a page."""
    if "_status" not in vars(row):
        vars(row)["_status"] = read_status(row)
    return vars(row)["_status"]


@admin.register(AggregationRule)
class AggregationRuleAdmin(ModelAdmin[AggregationRule]):
    """Rules, which ``manage.py run_aggregations`` runs; it notices changes within 2 seconds."""

    form = AggregationRuleForm
    list_display = ("name", "state", "behind", "source", "window", "figures", "note")
    list_filter = ("enabled", "source")
    search_fields = ("name", "note")
    save_as = True
    readonly_fields = ("state", "behind", "left_out", "closed_until")
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("name", "enabled", "note")}),
        (
            "Messages",
            {"fields": ("source", "filters", "time_path", "allowed_lateness", "allowed_skew")},
        ),
        ("Windows and groups", {"fields": ("size", "slide", "group_by")}),
        ("Figures", {"fields": ("functions",)}),
    )
    status: ClassVar[Any] = ("Status", {"fields": readonly_fields})
    state = column("state", lambda row: badge(_status(row).state))
    behind = column("messages behind", lambda row: _status(row).behind)
    left_out = column("left out", lambda row: _status(row).left_out)
    closed_until = column("windows are over until", lambda row: _status(row).closed_until)

    def get_fieldsets(self, request: HttpRequest, obj: AggregationRule | None = None) -> Any:
        """Add the status, which a new rule does not have yet."""
        return self.fieldsets if obj is None else (*self.fieldsets, self.status)

    @admin.display(description="window", ordering="size")
    def window(self, row: AggregationRule) -> str:
        """Return the window's size, and how often a window begins."""
        every = f" every {row.slide} s" if row.slide and row.slide != row.size else ""
        return f"{row.size} s{every}"

    @admin.display(description="figures")
    def figures(self, row: AggregationRule) -> str:
        try:
            return ", ".join(function.name for function in row.spec().functions)
        except RuleError:
            return "-"
