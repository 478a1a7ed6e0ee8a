"""Access tokens: the list, the form, and the page that shows a new secret once."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from realtime.admin.actions import TokenActions, types_allowed
from realtime.admin.common import (
    OPERATORS_HELP,
    ModelForm,
    badge,
    choice_filter,
    column,
    json_field,
)
from realtime.auth.models import AccessToken, all_types
from realtime.auth.tokens import (
    MARK,
    PREFIX_CHARACTERS,
    assign_secret,
    generate_prefix,
    holder_of,
)
from realtime.cluster import connections as live
from realtime.cluster.clients import Unavailable
from realtime.protocol import SUBSCRIPTION_TYPES

# The attribute of a new token that holds its secret from saving until the response shows it.
SECRET = "_new_secret"  # noqa: S105 - an attribute's name


class TokenForm(ModelForm[AccessToken]):
    """The fields of a token that can be changed. Errors in filters are those of their compiler."""

    types = forms.MultipleChoiceField(
        label="Types",
        choices=[(name, name) for name in SUBSCRIPTION_TYPES],
        initial=all_types,
        widget=forms.CheckboxSelectMultiple,
        help_text="The subscription types that this token may subscribe to.",
        error_messages={"required": "Choose at least one subscription type."},
    )
    filters = json_field(
        "Enforced filters",
        '{"tenant_id": "acme"}',
        'This token receives only messages that match all of these, e.g. {"tenant_id": "acme"} or '
        '{"payload.region": ["eu", "us"]} (any of several values). ' + OPERATORS_HELP,
    )

    class Meta:
        model = AccessToken
        fields = (
            *("name", "owner", "types", "filters", "can_publish", "can_view_stats"),
            *("expires_at", "rate_limit_per_minute", "max_connections"),
        )
        labels: ClassVar[dict[str, str]] = {
            "can_publish": "May publish",
            "can_view_stats": "May see the statistics",
            "rate_limit_per_minute": "Messages a minute",
            "max_connections": "Connections at the same time",
        }


class NewTokenForm(TokenForm):
    """Makes a token, once: each rendering of the form reserves the prefix of one token.

    So a form that is sent again, by a reload or a second click, makes no second secret.
    """

    reserved_prefix = forms.RegexField(
        rf"^{MARK}[0-9a-f]{{{PREFIX_CHARACTERS}}}\Z",
        initial=generate_prefix,
        required=False,
        widget=forms.HiddenInput,
    )

    def clean_expires_at(self) -> datetime | None:
        """Refuse a time at which the new token would have expired already."""
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise ValidationError("This time is in the past.")
        return expires_at

    def clean(self) -> dict[str, Any] | None:
        """Refuse a form from which a token has been made."""
        cleaned = super().clean()
        prefix = self.cleaned_data.get("reserved_prefix")
        token = AccessToken.objects.filter(prefix=prefix).first() if prefix else None
        if token is not None:
            raise ValidationError(
                f"This form has been saved already: it made {token}, whose secret was shown then "
                "and cannot be shown again. Open a new form for another token."
            )
        return cleaned


def _conditions_by_state() -> dict[str, Q]:
    """Return the conditions of tokens by :attr:`AccessToken.state`."""
    past = Q(expires_at__lte=timezone.now())
    revoked = Q(revoked_at__isnull=False) | Q(owner__isnull=False, owner__is_active=False)
    return {
        "active": ~revoked & (Q(expires_at=None) | ~past),
        "expired": ~revoked & past,
        "revoked": revoked,
    }


def _conditions_by_type() -> dict[str, Q]:
    """Return the types, each with a condition that every database understands."""
    return {name: Q(types__icontains=f'"{name}"') for name in SUBSCRIPTION_TYPES}


@admin.register(AccessToken)
class AccessTokenAdmin(TokenActions):
    """Tokens: made with their secret shown once, changed, revoked; the digest is never shown."""

    list_display = ("name", "prefix", "state_badge", "rights", "owner", "expires", "last_used")
    list_select_related = ("owner",)
    list_filter = (
        choice_filter("state", _conditions_by_state),
        choice_filter("subscription_type", _conditions_by_type, str),
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
    record: ClassVar[Any] = ("Record", {"fields": readonly_fields})

    # What the list and the pages show

    state_badge = column("state", lambda token: badge(token.state))
    expires = column(
        "expires", lambda token: token.expires_at, ordering="expires_at", empty_value="never"
    )
    last_used = column(
        "last used", lambda token: token.last_used_at, ordering="last_used_at", empty_value="never"
    )

    @admin.display(description="rights")
    def rights(self, token: AccessToken) -> str:
        """Return the types, and what else it may or may not."""
        more = {
            "publish": token.can_publish,
            "statistics": token.can_view_stats,
            "filtered": bool(token.filters),
        }
        return "; ".join([types_allowed(token), *(name for name, has in more.items() if has)])

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
        **kw: Any,
    ) -> HttpResponse:
        """Offer the actions; and on a new token's form one way to save, as its secret follows."""
        token = context.get("original")
        actions = []
        if (
            isinstance(token, AccessToken)
            and token.revoked_at is None
            and self.has_change_permission(request, token)
        ):
            actions = [("rotate_token", "Rotate secret"), ("revoke_tokens", "Revoke")]
            if token.expires_at is not None:
                actions.insert(0, ("extend_tokens", "Extend"))
        context.update(token_actions=actions, checkbox_name=ACTION_CHECKBOX_NAME)
        if add:
            context.update(show_save_and_add_another=False, show_save_and_continue=False)
        return super().render_change_form(request, context, add, *args, **kw)

    def get_list_display(self, request: HttpRequest) -> Any:
        """Add how many connections each token has now; asked once for the page."""

        @cache
        def counts() -> dict[str, int] | None:
            try:
                return live.count_by_holder()
            except Unavailable:
                return None

        @admin.display(description="connections")
        def connections(token: AccessToken) -> str:
            by_holder = counts()
            count = "unknown" if by_holder is None else by_holder.get(holder_of(token), 0)
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
