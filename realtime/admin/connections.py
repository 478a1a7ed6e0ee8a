"""Live connections, which can be ended; and the outbox: messages not yet published, or parked."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.timesince import timesince

from realtime.admin.common import RecordAdmin, choice_filter, column
from realtime.auth.grants import HolderType
from realtime.auth.models import AccessToken, Connection
from realtime.cluster import connections as live
from realtime.cluster.clients import Unavailable
from realtime.publishing.outbox import OutboxMessage

_AWAY = "The channel layer does not answer, so the servers cannot be asked: %s"


@admin.register(Connection)
class ConnectionAdmin(RecordAdmin):
    """A page that asks every process; there is nothing to add or to change."""

    def has_delete_permission(self, request: HttpRequest, obj: Connection | None = None) -> bool:
        """Refuse: disconnecting has a permission of its own."""
        return False

    @staticmethod
    def has_disconnect_permission(request: HttpRequest) -> bool:
        return bool(request.user.has_perm("realtime.disconnect_connection"))

    def get_urls(self) -> list[Any]:
        """Return the list alone: a connection has no page of its own."""
        return [url for url in super().get_urls() if url.name == "realtime_connection_changelist"]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the connections that match, or end one."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        if request.method == "POST":
            return self._disconnect(request, request.POST.get("client_id", ""))
        search, holder = request.GET.get("q", "").strip(), request.GET.get("holder", "")
        overview = live.ConnectionList([], 0, [])
        try:
            overview = live.connections(search, holder)
        except Unavailable as error:
            self.message_user(request, _AWAY % error, messages.ERROR)
        if overview.missing:
            text = f"No answer in time from {', '.join(overview.missing)}."
            self.message_user(request, text, messages.WARNING)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Live connections",
            "search": search,
            "holder": holder,
            "rows": self._rows(request, overview.connections),
            "total": overview.total,
            "may_disconnect": self.has_disconnect_permission(request),
            "media": self.media,
        }
        return TemplateResponse(request, "admin/realtime/connection/change_list.html", context)

    def _rows(
        self, request: HttpRequest, connections: list[live.Connection]
    ) -> list[dict[str, Any]]:
        """Return what the table shows; tokens by name, linked for those who may see them."""
        names: dict[int | None, str] = {}
        if request.user.has_perm("realtime.view_accesstoken"):
            keys = filter(None, map(_token_key, connections))
            names = dict(AccessToken.objects.filter(pk__in=keys).values_list("pk", "name"))
        rows = []
        for connection in connections:
            key = _token_key(connection)
            url = reverse("admin:realtime_accesstoken_change", args=[key]) if key in names else ""
            types = Counter(subscription.type for subscription in connection.subscriptions)
            rows.append(
                {
                    "connection": connection,
                    "name": names.get(key),
                    "url": url,
                    "since": datetime.fromtimestamp(connection.since, UTC),
                    "types": sorted(types.items()),
                }
            )
        return rows

    def _disconnect(self, request: HttpRequest, client_id: str) -> HttpResponse:
        """End a connection, say how that went, and show the list again."""
        if not self.has_disconnect_permission(request):
            raise PermissionDenied
        try:
            has_ended = live.disconnect(client_id)
        except Unavailable as error:
            self.message_user(request, _AWAY % error, messages.ERROR)
        else:
            text, level = f"{client_id or 'That connection'} has ended already.", messages.WARNING
            if has_ended:
                self.log_change(request, Connection(client_id=client_id), "Disconnected.")
                text, level = f"Disconnected {client_id}.", messages.SUCCESS
            self.message_user(request, text, level)
        return HttpResponseRedirect(request.get_full_path())


def _token_key(connection: live.Connection) -> int | None:
    holder, _, key = (connection.holder or "").partition(":")
    return int(key) if holder == HolderType.TOKEN else None


@admin.register(OutboxMessage)
class OutboxMessageAdmin(RecordAdmin):
    """Messages that no relay has published; a message that is deleted never reaches anybody."""

    list_display = ("pk", "type", "age", "error")
    list_filter = (
        choice_filter("state", lambda: {"waiting": Q(error=""), "parked": ~Q(error="")}),
        "type",
    )
    actions = ("try_again",)
    show_full_result_count = False
    age = column(
        "age", lambda row: timesince(row.created_at, timezone.now()), ordering="created_at"
    )

    @staticmethod
    def has_retry_permission(request: HttpRequest) -> bool:
        return bool(request.user.has_perm("realtime.retry_outboxmessage"))

    @admin.action(description="Try to publish again", permissions=["retry"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[OutboxMessage]) -> None:
        count = queryset.exclude(error="").update(error="")
        self.message_user(request, f"{count} will be tried again.", messages.SUCCESS)
