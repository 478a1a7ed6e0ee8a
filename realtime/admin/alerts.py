"""Alert rules with their form; the alerts that were published, and the notifications of them."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import msgspec
from django import forms
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.db.models.functions import Now
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from realtime.admin.common import (
    ModelAdmin,
    ModelForm,
    RecordAdmin,
    badge,
    choice_filter,
    column,
    json_field,
)
from realtime.admin.standing import RuleStatus, ask_standing, status_of
from realtime.analytics.alerting.models import Alert, AlertRule, Notification
from realtime.analytics.alerting.processor import LEFT_OUT, AlertProcessor, explain
from realtime.analytics.alerting.rule import DEVIATION

_WITHIN = "within a few seconds, if manage.py run_alerts runs"


class AlertRuleForm(ModelForm[AlertRule]):
    """An alert rule. Its error messages come from the rule itself, through the model."""

    filters = json_field(
        "Filters",
        '{"rule": "airport_delays"}',
        'Only matching messages count, e.g. {"rule": "airport_delays"}: the results of one '
        "aggregation. {}: every message.",
    )

    class Meta:
        model = AlertRule
        exclude = ("active_since",)
        widgets: ClassVar[dict[str, Any]] = {
            "emails": forms.Textarea(attrs={"rows": 2}),
            "webhook_url": forms.TextInput(attrs={"class": "vLargeTextField", "type": "url"}),
            "webhook_secret": forms.TextInput(
                attrs={"class": "vLargeTextField realtime-code", "autocomplete": "off"}
            ),
        }


def read_status(row: AlertRule) -> RuleStatus:
    """Ask the processors' server how far a rule is."""
    standing = ask_standing(lambda: AlertProcessor(row.spec()), LEFT_OUT)
    status = status_of(standing, enabled=row.enabled)
    if standing is None or standing.field is None:
        return status
    return status._replace(left_out=explain(msgspec.json.decode(standing.field)))


def _status(row: AlertRule) -> RuleStatus:
    """Return how far a rule is, asked once for a row of a page."""
    if "_status" not in vars(row):
        vars(row)["_status"] = read_status(row)
    status: RuleStatus = vars(row)["_status"]
    return status


@admin.register(AlertRule)
class AlertRuleAdmin(ModelAdmin[AlertRule]):
    """Rules, each with how many alerts of it are firing."""

    form = AlertRuleForm
    list_display = ("name", "enabled", "severity", "source", "when", "targets")
    list_filter = ("enabled", "severity", "source")
    search_fields = ("name", "value_path")
    save_as = True
    actions = ("begin_anew",)
    readonly_fields = ("state", "behind", "left_out")
    state = column("state", lambda row: badge(_status(row).state))
    behind = column("messages behind", lambda row: _status(row).behind)
    left_out = column("left out", lambda row: _status(row).left_out)
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("name", "enabled", "severity")}),
        ("Values", {"fields": ("source", "filters", "value_path", "group_by", "time_path")}),
        ("Alert", {"fields": ("condition", "threshold", "clear", "for_seconds", "resolve_after")}),
        ("Notify", {"fields": ("emails", "webhook_url", "webhook_secret", "webhook_enabled")}),
    )
    status: ClassVar[Any] = ("Status", {"fields": readonly_fields})

    def get_fieldsets(self, request: HttpRequest, obj: AlertRule | None = None) -> Any:
        """Leave the secret out for those who may only look; a new rule has no status yet."""
        status = (self.status,) if obj else ()
        may_edit = (
            self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        )
        if may_edit:
            return (*self.fieldsets, *status)
        *others, (title, options) = self.fieldsets
        fields = [name for name in options["fields"] if name != "webhook_secret"]
        return [*others, (title, {"fields": fields}), *status]

    def get_list_display(self, request: HttpRequest) -> Any:
        """Add how many alerts of each rule are firing; asked once for the page."""

        @cache
        def counts() -> dict[str, int]:
            alerts = Alert.objects.filter(resolved_at="").order_by().values("rule")
            return dict(alerts.values_list("rule", Count("pk")))

        @admin.display(description="firing")
        def firing(rule: AlertRule) -> str:
            if not (count := counts().get(rule.name, 0)):
                return "0"
            url = reverse("admin:realtime_alert_changelist")
            return format_html('<a href="{}?state=firing&q={}">{}</a>', url, rule.name, count)

        return (*self.list_display, firing)

    @admin.display(description="alert when")
    def when(self, rule: AlertRule) -> str:
        """Return the condition in words."""
        threshold = "?" if rule.threshold is None else f"{rule.threshold:g}"
        condition = f"is {rule.condition} {threshold}"
        if rule.condition == DEVIATION:
            condition = f"is more than {threshold} standard deviations from the usual"
        lasting = f" for {rule.for_seconds:g} s" if rule.for_seconds else ""
        return f"{rule.value_path} {condition}{lasting}"

    @admin.display(description="notifies")
    def targets(self, rule: AlertRule) -> str:
        """Return who is told, without addresses."""
        count = len(rule.addresses)
        parts = [f"{count} address{'es' if count > 1 else ''}"] if count else []
        if rule.webhook_url:
            parts.append("webhook" if rule.webhook_enabled else "webhook (turned off)")
        return ", ".join(parts) or "-"

    @admin.action(description="Resolve alerts of the rules and begin anew", permissions=["change"])
    def begin_anew(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        """Let rules forget their alerts and what is usual."""
        rules = list(queryset.filter(enabled=True))
        for rule in rules:
            rule.active_since = timezone.now()
            rule.save(update_fields=["active_since"])
            self.log_change(request, rule, "Begun anew.")
        text = f"Rules that begin anew: {len(rules)}. Their alerts are resolved {_WITHIN}."
        self.message_user(request, text, messages.SUCCESS)


@admin.register(Alert)
class AlertAdmin(RecordAdmin):
    """Alerts, the newest first."""

    list_display = ("message", "state", "severity", "started_at", "resolved_at")
    list_filter = (
        choice_filter(
            "state", lambda: {"firing": Q(resolved_at=""), "resolved": ~Q(resolved_at="")}
        ),
        "severity",
        "rule",
    )
    search_fields = ("rule", "message", "alert_id")
    state = column(
        "state",
        lambda alert: badge("firing" if alert.is_firing else "resolved"),
        ordering="resolved_at",
    )


def _conditions_by_status() -> dict[str, Q]:
    """Return the conditions of notifications by :attr:`Notification.status`."""
    return {
        "waiting": Q(next_attempt_at__isnull=False),
        "delivered": Q(delivered_at__isnull=False),
        "failed": Q(next_attempt_at=None, delivered_at=None),
    }


@admin.register(Notification)
class NotificationAdmin(RecordAdmin):
    """Notifications, the newest first; any can be sent again."""

    list_display = (
        *("created_at", "rule", "state", "channel", "status_badge", "last_error", "attempts"),
    )
    list_filter = (choice_filter("status", _conditions_by_status), "channel", "rule")
    search_fields = ("rule", "alert_id")
    actions = ("send_again",)
    status_badge = column("status", lambda notification: badge(notification.status))

    def has_send_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("realtime.change_notification"))

    @admin.action(description="Send selected notifications again", permissions=["send"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Notification]) -> None:
        """Queue notifications again, with all their attempts."""
        for notification in queryset:
            self.log_change(request, notification, "Sent again.")
        count = queryset.update(attempts=0, delivered_at=None, next_attempt_at=Now())
        text = f"Notifications that are sent again: {count}, {_WITHIN}."
        self.message_user(request, text, messages.SUCCESS)
