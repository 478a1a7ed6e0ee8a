"""Access tokens: the list, the form, and the page that shows a new secret once."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html

from realtime.admin.actions import TokenActions, types_allowed
from realtime.admin.filters import StateFilter, TypeFilter
from realtime.admin.forms import NewTokenForm, TokenForm
from realtime.auth.models import AccessToken
from realtime.auth.tokens import assign_secret, holder_of
from realtime.cluster import connections as live
from realtime.cluster.clients import Unavailable

if TYPE_CHECKING:
    _TokenModelAdmin = admin.ModelAdmin[AccessToken]
else:
    _TokenModelAdmin = admin.ModelAdmin

# Where a new token's secret is between saving the token and the response that shows it.
SECRET = "_new_secret"  # noqa: S105 - an attribute's name


# When the servers cannot be asked.
_UNKNOWN: dict[str, int] = {}


def _count_connections() -> dict[str, int]:
    try:
        return live.count_by_holder()
    except Unavailable:
        return _UNKNOWN


@admin.register(AccessToken)
class AccessTokenAdmin(TokenActions, _TokenModelAdmin):
    """Tokens: made with their secret shown once, changed, revoked; the digest is never shown."""

    list_display = (
        "name",
        "prefix",
        "state_badge",
        "rights",
        "owner",
        "expires",
        "last_used",
    )
    list_select_related = ("owner",)
    list_filter = (
        StateFilter,
        TypeFilter,
        ("owner", admin.RelatedOnlyFieldListFilter),
        "can_publish",
        "can_view_stats",
    )
    search_fields = ("name", "prefix", "owner__username")
    search_help_text = "Name, prefix or owner"
    autocomplete_fields = ("owner",)
    readonly_fields = ("prefix", "state_badge", "created_at", "last_used_at", "revoked_at")
    actions = ("revoke_tokens", "rotate_token", "extend_tokens")
    fieldsets: ClassVar[Any] = (
        (None, {"fields": ("name", "owner")}),
        ("Rights", {"fields": ("types", "filters", "can_publish", "can_view_stats")}),
        ("Bounds", {"fields": ("expires_at", "rate_limit_per_minute", "max_connections")}),
    )
    record: ClassVar[Any] = (
        "Record",
        {"fields": readonly_fields},
    )

    # What the list and the pages show

    @admin.display(description="state")
    def state_badge(self, token: AccessToken) -> str:
        """Return the state, coloured."""
        return format_html('<span class="realtime-state realtime-{0}">{0}</span>', token.state)

    @admin.display(description="rights")
    def rights(self, token: AccessToken) -> str:
        """Return the types, and what else it may or may not."""
        more = {
            "publish": token.can_publish,
            "statistics": token.can_view_stats,
            "filtered": bool(token.filters),
        }
        return "; ".join([types_allowed(token), *(name for name, has in more.items() if has)])

    @admin.display(description="expires", ordering="expires_at", empty_value="never")
    def expires(self, token: AccessToken) -> datetime | None:
        """Return the expiry."""
        expires_at: datetime | None = token.expires_at
        return expires_at

    @admin.display(description="last used", ordering="last_used_at", empty_value="never")
    def last_used(self, token: AccessToken) -> datetime | None:
        """Return the last use."""
        last_used_at: datetime | None = token.last_used_at
        return last_used_at

    def get_fieldsets(self, request: HttpRequest, obj: AccessToken | None = None) -> Any:
        """Add the token's record, which a new one does not have yet."""
        if obj is not None:
            return (*self.fieldsets, self.record)
        first = (None, {"fields": ("name", "owner", "reserved_prefix")})
        return (first, *self.fieldsets[1:])

    def get_form(
        self, request: HttpRequest, obj: AccessToken | None = None, change: bool = False, **kw: Any
    ) -> Any:
        """Return the form that makes a token, or the one that changes it."""
        kw.setdefault("form", TokenForm if obj is not None else NewTokenForm)
        return super().get_form(request, obj, change, **kw)

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> HttpResponse:
        """Offer the actions; and on a new token's form one way to save, as its secret follows."""
        token = context.get("original")
        context["token_actions"] = []
        if isinstance(token, AccessToken) and self.has_change_permission(request, token):
            context["token_actions"] = self._offered(token)
        context["checkbox_name"] = ACTION_CHECKBOX_NAME
        if add:
            context.update(show_save_and_add_another=False, show_save_and_continue=False)
        return super().render_change_form(request, context, add, *args, **kwargs)

    @staticmethod
    def _offered(token: AccessToken) -> list[tuple[str, str]]:
        if token.revoked_at is not None:
            return []
        extend = [("extend_tokens", "Extend")] if token.expires_at is not None else []
        return [*extend, ("rotate_token", "Rotate secret"), ("revoke_tokens", "Revoke")]

    def get_list_display(self, request: HttpRequest) -> Any:
        """Add how many connections each token has now; asked once for the page."""
        counts: dict[str, int] | None = None

        @admin.display(description="connections")
        def connections(token: AccessToken) -> str:
            nonlocal counts
            if counts is None:
                counts = _count_connections()
            count = counts.get(holder_of(token), 0) if counts is not _UNKNOWN else "unknown"
            if not count or not request.user.has_perm("realtime.view_connection"):
                return str(count)
            url = reverse("admin:realtime_connection_changelist")
            return format_html('<a href="{}?holder={}">{}</a>', url, holder_of(token), count)

        return (*self.list_display, connections)

    # Making and changing

    def save_model(
        self, request: HttpRequest, obj: AccessToken, form: TokenForm, change: bool
    ) -> None:
        """Save a new token with its secret; of another one only what the form holds.

        So a form that was opened before does not undo a revocation.
        """
        if change:
            obj.save(update_fields=list(form.cleaned_data))
            return
        vars(obj)[SECRET] = assign_secret(obj, form.cleaned_data.get("reserved_prefix"))
        obj.save()

    def response_add(
        self, request: HttpRequest, obj: AccessToken, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the secret in this very response, so that it is kept nowhere: not in a message."""
        return self.show_secret(request, obj, vars(obj).pop(SECRET), "Access token created")
