"""The admin's pages: access tokens, allowed origins, limits. No rule of its own.

What a token, an origin or a limit may be is in :mod:`realtime.models`, which value is in force
in :mod:`realtime.policy`, how a secret is made in :mod:`realtime.auth`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import model_ngettext
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Q, QuerySet
from django.forms import Widget
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from realtime.auth import assign_secret, revoke
from realtime.forms import NewTokenForm, SwitchSelect, TokenForm
from realtime.models import AccessToken, AllowedOrigin, Limits
from realtime.policy import LIMIT_FIELDS, Policy, environment_policy, load_policy
from realtime.protocol import SUBSCRIPTION_TYPES

if TYPE_CHECKING:
    _TokenModelAdmin = admin.ModelAdmin[AccessToken]
    _OriginModelAdmin = admin.ModelAdmin[AllowedOrigin]
    _LimitsModelAdmin = admin.ModelAdmin[Limits]
else:
    _TokenModelAdmin = _OriginModelAdmin = _LimitsModelAdmin = admin.ModelAdmin

admin.site.site_header = admin.site.site_title = "Real-time streaming"
admin.site.index_title = "Administration"

# Where a new token's secret is between saving the token and the response that shows it.
SECRET = "_new_secret"  # noqa: S105 - an attribute's name
# A secret has no character that JavaScript would need quoted.
_AUTH_LINE = 'socket.send(JSON.stringify({ type: "auth", data: { token: "%s" } }));'


def origins_in_force() -> dict[str, Any]:
    """Return what the pages of origins say is in force, and what would be without any row."""
    policy, environment = load_policy(), environment_policy()
    return {
        "patterns": policy.config.allowed_origins,
        "source": policy.source("allowed_origins"),
        "from_admin": "allowed_origins" in policy.overridden,
        "otherwise": environment.config.allowed_origins,
        "otherwise_source": environment.source("allowed_origins"),
    }


class StateFilter(admin.SimpleListFilter):
    """Tokens by what :attr:`AccessToken.state` says of them."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the three states."""
        return [("active", "Active"), ("expired", "Expired"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Narrow to the chosen state."""
        past = Q(expires_at__lte=timezone.now())
        conditions = {
            "active": Q(revoked_at=None) & (Q(expires_at=None) | ~past),
            "expired": Q(revoked_at=None) & past,
            "revoked": Q(revoked_at__isnull=False),
        }
        condition = conditions.get(self.value() or "")
        return None if condition is None else queryset.filter(condition)


class TypeFilter(admin.SimpleListFilter):
    """Tokens by a subscription type that they may subscribe to."""

    title = "subscription type"
    parameter_name = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the six types."""
        return [(name, name) for name in SUBSCRIPTION_TYPES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Narrow to the chosen type, in a way that every database has."""
        name = self.value()
        if name not in SUBSCRIPTION_TYPES:
            return None
        return queryset.filter(types__icontains=f'"{name}"')


@admin.register(AccessToken)
class AccessTokenAdmin(_TokenModelAdmin):
    """Tokens: made with their secret shown once, changed, revoked; the digest is never shown."""

    list_display = (
        "name",
        "prefix",
        "state_badge",
        "types_allowed",
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
    actions = ("revoke_tokens",)
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

    @admin.display(description="types")
    def types_allowed(self, token: AccessToken) -> str:
        """Return the types, in their usual order."""
        chosen = [name for name in SUBSCRIPTION_TYPES if name in token.types]
        return "all" if len(chosen) == len(SUBSCRIPTION_TYPES) else ", ".join(chosen)

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
        """Offer revocation; and on a new token's form one way to save, as its secret follows."""
        token = context.get("original")
        active = token is not None and token.revoked_at is None
        context["revocable"] = active and self.has_change_permission(request, token)
        context["checkbox_name"] = ACTION_CHECKBOX_NAME
        if add:
            context.update(show_save_and_add_another=False, show_save_and_continue=False)
        return super().render_change_form(request, context, add, *args, **kwargs)

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
        secret = vars(obj).pop(SECRET)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Access token created",
            "token": obj,
            "types": self.types_allowed(obj),
            "secret": secret,
            "auth_line": _AUTH_LINE % secret,
            "may_view": self.has_view_permission(request, obj),
            "next_url": self._page_after_creation(request, obj),
        }
        return TemplateResponse(request, "admin/realtime/accesstoken/created.html", context)

    def _page_after_creation(self, request: HttpRequest, token: AccessToken) -> str:
        """Return the page that a reload of the secret's page leads to."""
        if self.has_view_or_change_permission(request, token):
            return reverse("admin:realtime_accesstoken_change", args=[token.pk])
        return reverse("admin:index")

    # Revoking

    @admin.action(description="Revoke selected access tokens", permissions=["change"])
    def revoke_tokens(
        self, request: HttpRequest, queryset: QuerySet[AccessToken]
    ) -> HttpResponse | None:
        """Ask first; then revoke, with an entry for each token in the admin log."""
        active = list(queryset.filter(revoked_at=None))
        if not active:
            self.message_user(request, "Nothing to revoke: revoked already.", messages.WARNING)
            return None
        if request.POST.get("post"):
            self._revoke(request, active)
            return None
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Are you sure?",
            "tokens": active,
            "objects_name": model_ngettext(self.opts, len(active)),
            "revoked_already": queryset.count() - len(active),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "media": self.media,
        }
        template = "admin/realtime/accesstoken/revoke_confirmation.html"
        return TemplateResponse(request, template, context)

    def _revoke(self, request: HttpRequest, tokens: Iterable[AccessToken]) -> None:
        tokens = list(tokens)
        with transaction.atomic():
            count = revoke(tokens)
            for token in tokens:
                self.log_change(request, token, "Revoked.")
        names = model_ngettext(self.opts, count)
        self.message_user(
            request,
            f"Revoked {count} {names}. Live connections are closed within 2 seconds.",
            messages.SUCCESS,
        )


@admin.register(AllowedOrigin)
class AllowedOriginAdmin(_OriginModelAdmin):
    """Origins, with a banner that says which are in force now and where they come from."""

    list_display = ("pattern", "note", "created_at")
    search_fields = ("pattern", "note")
    readonly_fields = ("created_at",)

    def get_fields(self, request: HttpRequest, obj: AllowedOrigin | None = None) -> Any:
        """Leave out what a new row does not have yet."""
        return ("pattern", "note") if obj is None else ("pattern", "note", "created_at")

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Add the banner, also to the page that asks before it deletes what was selected."""
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse):
            response.context_data = self._with_banner(response.context_data)
        return response

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Add the banner."""
        context = self._with_banner(extra_context)
        return super().changeform_view(request, object_id, form_url, context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Add the banner: without the last row the environment's origins are in force again."""
        return super().delete_view(request, object_id, self._with_banner(extra_context))

    @staticmethod
    def _with_banner(context: dict[str, Any] | None) -> dict[str, Any]:
        return {**(context or {}), "origins": origins_in_force()}


@admin.register(Limits)
class LimitsAdmin(_LimitsModelAdmin):
    """The one row of limits, as one form: each field beside the value in force and its source."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Refuse: the row is made by the first save."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Limits | None = None) -> bool:
        """Refuse: emptying the fields has the same effect."""
        return False

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Limits | None:
        """Return the row, also while it is not in the database."""
        found = super().get_object(request, object_id, from_field)
        return Limits(pk=1) if found is None and object_id == "1" else found

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Lead to the form."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        return HttpResponseRedirect(reverse("admin:realtime_limits_change", args=[1]))

    def get_form(
        self, request: HttpRequest, obj: Limits | None = None, change: bool = False, **kw: Any
    ) -> Any:
        """Return a form whose help texts say what is in force."""
        policy, environment = load_policy(), environment_policy()
        kw["help_texts"] = {name: _help(name, policy, environment) for name in LIMIT_FIELDS}
        kw["widgets"] = {"enable_rate_limiting": _switch(environment)}
        return super().get_form(request, obj, change, **kw)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Offer one way to save; the page has no others to go to."""
        context.update(show_save_and_continue=False, title="Limits", subtitle=None)
        return super().render_change_form(request, context, *args, **kwargs)

    def response_change(self, request: HttpRequest, obj: Limits) -> HttpResponse:
        """Come back to the form, which shows what is in force now."""
        self.message_user(
            request, "Saved. Running servers follow within 2 seconds.", messages.SUCCESS
        )
        return HttpResponseRedirect(request.path)


def _help(name: str, policy: Policy, environment: Policy) -> str:
    """Return a limit's help text: the value in force, its source, and what the limit is of."""
    field: Any = Limits._meta.get_field(name)
    text = format_html(
        '<span class="realtime-in-force">in force: {}</span> {}',
        _in_force(name, policy),
        field.help_text,
    )
    if name not in policy.overridden:
        return text
    return format_html("{} Empty: {}.", text, _in_force(name, environment))


def _in_force(name: str, policy: Policy) -> str:
    return f"{_shown(getattr(policy.config, name))}, {policy.source(name)}"


def _shown(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _switch(environment: Policy) -> Widget:
    value = _shown(environment.config.enable_rate_limiting)
    return SwitchSelect(f"As in the environment ({value})")
