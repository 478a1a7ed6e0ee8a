"""The outbox: messages that wait to be published, and messages that cannot be published."""

from __future__ import annotations

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.timesince import timesince

from realtime.admin.common import ChoiceFilter, RecordAdmin
from realtime.publishing.outbox import OutboxMessage


class OutboxFilter(ChoiceFilter):
    """Messages that wait for the relay, or that it has parked."""

    title = "state"
    parameter_name = "state"

    def conditions(self) -> dict[str, Q]:
        return {"waiting": Q(error=""), "parked": ~Q(error="")}


@admin.register(OutboxMessage)
class OutboxMessageAdmin(RecordAdmin):
    """Messages that no relay has published; a message that is deleted never reaches anybody."""

    list_display = ("pk", "type", "age", "error")
    list_filter = (OutboxFilter, "type")
    actions = ("try_again",)
    show_full_result_count = False

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
        """Let the relay try parked messages again."""
        count = queryset.exclude(error="").update(error="")
        self.message_user(request, f"{count} will be tried again.", messages.SUCCESS)
