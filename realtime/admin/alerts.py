"""Alert rules with their form, and what came of them: alerts, notifications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from realtime.admin.forms import AlertRuleForm
from realtime.analytics.alerting.models import DEVIATION, Alert, AlertRule, Notification

if TYPE_CHECKING:
    _AlertRuleModelAdmin = admin.ModelAdmin[AlertRule]
    _AlertModelAdmin = admin.ModelAdmin[Alert]
    _NotificationModelAdmin = admin.ModelAdmin[Notification]
else:
    _AlertRuleModelAdmin = _AlertModelAdmin = _NotificationModelAdmin = admin.ModelAdmin

_WITHIN = "within a few seconds, if manage.py run_alerts runs"


def _badge(state: str) -> str:
    return format_html('<span class="realtime-state realtime-{0}">{0}</span>', state)


@admin.register(AlertRule)
class AlertRuleAdmin(_AlertRuleModelAdmin):
    """Rules, each with how many alerts of it are firing."""

    form = AlertRuleForm
    change_list_template = "admin/realtime/includes/styled_list.html"
    change_form_template = "admin/realtime/includes/styled_form.html"
    list_display = ("name", "enabled", "severity", "source", "when", "targets")
    list_filter = ("enabled", "severity", "source")
    search_fields = ("name", "value_path")
    save_as = True
    actions = ("begin_anew",)
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("name", "enabled", "severity")}),
        ("Values", {"fields": ("source", "filters", "value_path", "group_by", "time_path")}),
        ("Alert", {"fields": ("condition", "threshold", "clear", "for_seconds", "resolve_after")}),
        (
            "Deviation from the usual",
            {
                "fields": ("factor", "clear_factor", "alpha", "samples", "least"),
                "description": "For the condition of this name. Usual is the exponentially "
                "weighted mean of the values; what is out of bounds does not change it.",
            },
        ),
        (
            "Notify",
            {"fields": ("emails", "webhook_url", "webhook_secret", "webhook_enabled")},
        ),
    )

    def get_fieldsets(self, request: HttpRequest, obj: AlertRule | None = None) -> Any:
        """Leave the secret out for those who may only look."""
        may = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        if may:
            return self.fieldsets
        *others, (title, options) = self.fieldsets
        fields = [name for name in options["fields"] if name != "webhook_secret"]
        return [*others, (title, {"fields": fields})]

    def get_list_display(self, request: HttpRequest) -> Any:
        """Add how many alerts of each rule are firing; asked once for the page."""
        counts: dict[str, int] | None = None

        @admin.display(description="firing")
        def firing(rule: AlertRule) -> str:
            nonlocal counts
            if counts is None:
                found = Alert.objects.filter(resolved_at="").order_by().values("rule")
                counts = dict(found.values_list("rule", Count("pk")))
            if not (count := counts.get(rule.name, 0)):
                return "0"
            url = reverse("admin:realtime_alert_changelist")
            return format_html('<a href="{}?state=firing&q={}">{}</a>', url, rule.name, count)

        return (*self.list_display, firing)

    @admin.display(description="alert when")
    def when(self, rule: AlertRule) -> str:
        """Return the condition in words."""
        if rule.condition == DEVIATION:
            what = f"is more than {rule.factor:g} standard deviations from the usual"
        else:
            what = f"is {rule.condition} {rule.threshold:g}"
        lasting = f" for {rule.for_seconds:g} s" if rule.for_seconds else ""
        return f"{rule.value_path} {what}{lasting}"

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
        """Let rules forget their alerts and what they took for usual."""
        rules = list(queryset.filter(enabled=True))
        for rule in rules:
            rule.active_since = timezone.now()
            rule.save(update_fields=["active_since"])
            self.log_change(request, rule, "Begun anew.")
        text = f"Rules that begin anew: {len(rules)}. Their alerts are resolved {_WITHIN}."
        self.message_user(request, text, messages.SUCCESS)


class _ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """What is only looked at, and deleted."""

    change_list_template = "admin/realtime/includes/styled_list.html"
    change_form_template = "admin/realtime/includes/styled_form.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: run_alerts makes them."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: they are a record."""
        return False


class StateFilter(admin.SimpleListFilter):
    """Alerts that are firing, or resolved."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return both."""
        return [("firing", "Firing"), ("resolved", "Resolved")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Narrow to the chosen one."""
        if self.value() == "firing":
            return queryset.filter(resolved_at="")
        return queryset.exclude(resolved_at="") if self.value() == "resolved" else None


@admin.register(Alert)
class AlertAdmin(_ReadOnly):
    """Alerts, the newest first."""

    list_display = ("message", "state", "severity", "started_at", "resolved_at")
    list_filter = (StateFilter, "severity", "rule")
    search_fields = ("rule", "message", "alert_id")

    @admin.display(description="state", ordering="resolved_at")
    def state(self, alert: Alert) -> str:
        """Return the state, coloured."""
        return _badge("firing" if alert.is_firing else "resolved")


class StatusFilter(admin.SimpleListFilter):
    """Notifications by what :attr:`Notification.status` says of them."""

    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the three."""
        return [("waiting", "Waiting"), ("delivered", "Delivered"), ("failed", "Failed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Narrow to the chosen one."""
        conditions: dict[str, dict[str, Any]] = {
            "waiting": {"next_attempt_at__isnull": False},
            "delivered": {"delivered_at__isnull": False},
            "failed": {"next_attempt_at": None, "delivered_at": None},
        }
        condition = conditions.get(self.value() or "")
        return None if condition is None else queryset.filter(**condition)


@admin.register(Notification)
class NotificationAdmin(_ReadOnly):
    """Notifications, the newest first; any can be sent again."""

    list_display = ("created_at", "rule", "state", "channel", "badge", "last_error", "attempts")
    list_filter = (StatusFilter, "channel", "rule")
    search_fields = ("rule", "alert_id")
    actions = ("send_again",)

    @admin.display(description="status")
    def badge(self, notification: Notification) -> str:
        """Return the status, coloured."""
        return _badge(notification.status)

    def has_send_permission(self, request: HttpRequest) -> bool:
        """Tell whether the user may have notifications sent."""
        return bool(request.user.has_perm("realtime.change_notification"))

    @admin.action(description="Send selected notifications again", permissions=["send"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Notification]) -> None:
        """Queue notifications anew, with all their attempts."""
        for notification in queryset:
            self.log_change(request, notification, "Sent again.")
        count = queryset.update(attempts=0, delivered_at=None, next_attempt_at=timezone.now())
        text = f"Notifications that are sent again: {count}, {_WITHIN}."
        self.message_user(request, text, messages.SUCCESS)
