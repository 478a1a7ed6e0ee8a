"""The outbox: what waits to be published, since when, and what cannot be. Nothing is edited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.timesince import timesince

from realtime.publishing.outbox import OutboxMessage

if TYPE_CHECKING:
    _OutboxModelAdmin = admin.ModelAdmin[OutboxMessage]
else:
    _OutboxModelAdmin = admin.ModelAdmin


class _Parked(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> Any:
        return [("waiting", "waits for the relay"), ("parked", "cannot be published")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "waiting":
            return queryset.filter(error="")
        return queryset.exclude(error="") if self.value() == "parked" else queryset


@admin.register(OutboxMessage)
class OutboxMessageAdmin(_OutboxModelAdmin):
    """Messages that no relay has published; deleting one means that nobody ever gets it."""

    list_display = ("pk", "type", "age", "error")
    list_filter = (_Parked, "type")
    actions = ("try_again",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: code publishes."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: a message is as its transaction wrote it."""
        return False

    @staticmethod
    def has_retry_permission(request: HttpRequest) -> bool:
        """Tell whether the user may have messages tried again."""
        return bool(request.user.has_perm("realtime.retry_outboxmessage"))

    @admin.display(description="age", ordering="created_at")
    def age(self, message: OutboxMessage) -> str:
        """Return for how long it has waited."""
        return timesince(message.created_at, timezone.now())

    @admin.action(description="Try to publish again", permissions=["retry"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> None:
        """Let the relay take what it has set aside."""
        count = queryset.exclude(error="").update(error="")
        self.message_user(request, f"{count} will be tried again.", messages.SUCCESS)
