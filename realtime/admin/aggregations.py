"""Aggregation rules: the list and the form, and how each rule stands."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import msgspec
from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html

from realtime.admin.forms import StrictDecoder
from realtime.analytics.aggregation.models import AggregationRule
from realtime.analytics.aggregation.processor import RuleProcessor
from realtime.analytics.aggregation.rule import RuleError
from realtime.analytics.aggregation.windows import Progress
from realtime.analytics.processing.state import Standing, read_standing
from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable

if TYPE_CHECKING:
    _RuleModelAdmin = admin.ModelAdmin[AggregationRule]
    _RuleModelForm = forms.ModelForm[AggregationRule]
else:
    _RuleModelAdmin = admin.ModelAdmin
    _RuleModelForm = forms.ModelForm


def _json_field(label: str, example: str, help_text: str, rows: int, empty: Any) -> forms.JSONField:
    return forms.JSONField(
        label=label,
        required=empty is None,
        initial=empty,
        decoder=StrictDecoder,
        widget=forms.Textarea(
            attrs={"rows": rows, "class": "vLargeTextField realtime-code", "spellcheck": "false"}
        ),
        help_text=help_text,
        error_messages={"invalid": f"This is not JSON. Expected e.g. {example}."},
    )


FUNCTIONS = '[{"name": "flights", "function": "count"}]'


class AggregationRuleForm(_RuleModelForm):
    """A rule. What it may say is worded by the rule itself, through the model."""

    filters = _json_field(
        "Filters",
        '{"event_type": "departure"}',
        'Only matching messages count, e.g. {"event_type": "departure"}. {}: every message.',
        rows=3,
        empty=dict,
    )
    group_by = _json_field(
        "Group by",
        '["payload.origin"]',
        'A result for each different value at these paths, e.g. ["payload.origin"]. []: one.',
        rows=2,
        empty=list,
    )
    functions = _json_field(
        "Functions",
        FUNCTIONS,
        'The figures of a result, e.g. [{"name": "flights", "function": "count"}, {"name": '
        '"p95_delay", "function": "p95", "path": "payload.delay_minutes"}]. Functions are count, '
        "sum, avg, min, max, distinct, rate (a second) and p1 to p99.999.",
        rows=6,
        empty=None,
    )

    class Meta:
        model = AggregationRule
        fields = (
            "name",
            "enabled",
            "note",
            "source",
            "filters",
            "group_by",
            "size",
            "slide",
            "allowed_lateness",
            "time_path",
            "functions",
        )


class Shown(NamedTuple):
    """How a rule stands, in words."""

    state: str
    behind: str
    left_out: str
    until: str


def _show(row: AggregationRule) -> Shown:
    standing, progress = _read(row), Progress()
    if standing is not None and standing.field is not None:
        progress = msgspec.json.decode(standing.field, type=Progress)
    if not row.enabled:
        state = "disabled"
    elif standing is None:
        state = "unknown"
    else:
        state = "running" if standing.owner else "waiting"
    if standing is None or standing.position is None:
        return Shown(state, "-", "-", "-")
    behind = "-" if standing.behind is None else f"{standing.behind:,}"
    left_out = (
        f"{progress.late:,} too late, {progress.untimed:,} without a time, "
        f"{progress.ungrouped:,} without a group, {progress.crowded:,} in too many groups"
    )
    return Shown(state, behind, left_out, _time(progress.watermark))


def _read(row: AggregationRule) -> Standing | None:
    """Return how a rule stands; ``None`` if that is not known."""
    if not get_cluster().is_shared:
        return None
    try:
        return read_standing(RuleProcessor(row.to_rule()), "progress")
    except (RuleError, Unavailable):
        return None


def _time(seconds: float) -> str:
    if seconds < 0:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


@admin.register(AggregationRule)
class AggregationRuleAdmin(_RuleModelAdmin):
    """Rules, which ``manage.py run_aggregations`` runs; it notices changes within 2 seconds."""

    form = AggregationRuleForm
    list_display = ("name", "source", "window", "figures", "note")
    list_filter = ("enabled", "source")
    search_fields = ("name", "note")
    save_as = True
    readonly_fields = ("state", "behind", "left_out", "closed_until")
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("name", "enabled", "note")}),
        ("Messages", {"fields": ("source", "filters", "time_path", "allowed_lateness")}),
        ("Windows and groups", {"fields": ("size", "slide", "group_by")}),
        ("Figures", {"fields": ("functions",)}),
    )
    standing: ClassVar[Any] = ("How it stands", {"fields": readonly_fields})

    def get_fieldsets(self, request: HttpRequest, obj: AggregationRule | None = None) -> Any:
        """Add how the rule stands, which a new one does not do yet."""
        return self.fieldsets if obj is None else (*self.fieldsets, self.standing)

    def get_list_display(self, request: HttpRequest) -> Any:
        """Add how each rule stands; asked once for a row."""
        known: dict[Any, Shown] = {}

        def shown(row: AggregationRule) -> Shown:
            if row.pk not in known:
                known[row.pk] = _show(row)
            return known[row.pk]

        @admin.display(description="state")
        def state(row: AggregationRule) -> str:
            return _badge(shown(row).state)

        @admin.display(description="messages behind")
        def behind(row: AggregationRule) -> str:
            return shown(row).behind

        name, *others = self.list_display
        return (name, state, behind, *others)

    @admin.display(description="window", ordering="size")
    def window(self, row: AggregationRule) -> str:
        """Return the window's size, and how often there is one."""
        every = f" every {row.slide} s" if row.slide and row.slide != row.size else ""
        return f"{row.size} s{every}"

    @admin.display(description="figures")
    def figures(self, row: AggregationRule) -> str:
        """Return the names of the functions."""
        try:
            return ", ".join(one.name for one in row.to_rule().functions)
        except RuleError:
            return "-"

    @admin.display(description="state")
    def state(self, row: AggregationRule) -> str:
        """Return whether a process runs it."""
        return _badge(_show(row).state)

    @admin.display(description="messages behind")
    def behind(self, row: AggregationRule) -> str:
        """Return how many messages it has not read."""
        return _show(row).behind

    @admin.display(description="left out")
    def left_out(self, row: AggregationRule) -> str:
        """Return how many messages did not count, and why."""
        return _show(row).left_out

    @admin.display(description="windows are over until")
    def closed_until(self, row: AggregationRule) -> str:
        """Return the time up to which windows are over."""
        return _show(row).until


def _badge(state: str) -> str:
    return format_html('<span class="realtime-state realtime-{0}">{0}</span>', state)
