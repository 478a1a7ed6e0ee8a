"""Live connections: who is connected now in all processes, and an end to any of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from realtime.auth.grants import HolderType
from realtime.auth.models import AccessToken, Connection
from realtime.cluster import connections as live
from realtime.cluster.clients import Unavailable

if TYPE_CHECKING:
    _ConnectionModelAdmin = admin.ModelAdmin[Connection]
else:
    _ConnectionModelAdmin = admin.ModelAdmin

_AWAY = "The channel layer does not answer, so the servers cannot be asked: %s"


@admin.register(Connection)
class ConnectionAdmin(_ConnectionModelAdmin):
    """A page that asks every process; there is nothing to add or to change."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: clients connect."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Connection | None = None) -> bool:
        """Refuse: a connection can only be ended."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Connection | None = None) -> bool:
        """Refuse: disconnecting has a permission of its own."""
        return False

    @staticmethod
    def has_disconnect_permission(request: HttpRequest) -> bool:
        """Tell whether the user may end connections."""
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

    def _rows(self, request: HttpRequest, found: list[live.Connection]) -> list[dict[str, Any]]:
        """Return what the table shows; tokens by name, linked for those who may see them."""
        held = {key for one in found if (key := _token_key(one)) is not None}
        names = {}
        if request.user.has_perm("realtime.view_accesstoken"):
            names = dict(AccessToken.objects.filter(pk__in=held).values_list("pk", "name"))
        rows = []
        for one in found:
            key = _token_key(one)
            url = reverse("admin:realtime_accesstoken_change", args=[key]) if key in names else ""
            types = [subscription.type for subscription in one.subscriptions]
            rows.append(
                {
                    "connection": one,
                    "name": names.get(key),
                    "url": url,
                    "since": datetime.fromtimestamp(one.since, UTC),
                    "types": sorted((kind, types.count(kind)) for kind in set(types)),
                }
            )
        return rows

    def _disconnect(self, request: HttpRequest, client_id: str) -> HttpResponse:
        if not self.has_disconnect_permission(request):
            raise PermissionDenied
        try:
            found = live.disconnect(client_id)
        except Unavailable as error:
            self.message_user(request, _AWAY % error, messages.ERROR)
        else:
            if found:
                connection = Connection(client_id=client_id)
                self.log_change(request, connection, "Disconnected.")
                self.message_user(request, f"Disconnected {client_id}.", messages.SUCCESS)
            else:
                text = f"{client_id or 'That connection'} has ended already."
                self.message_user(request, text, messages.WARNING)
        return HttpResponseRedirect(request.get_full_path())


def _token_key(connection: live.Connection) -> int | None:
    kind, _, key = (connection.holder or "").partition(":")
    return int(key) if kind == HolderType.TOKEN else None
