"""The actions on tokens, in the list and on a token's page: revoke, rotate, extend.

Each asks first, on a page of its own, and leaves an entry in the admin's log.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import model_ngettext
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.views.decorators.debug import sensitive_variables

from realtime.admin.common import ModelAdmin
from realtime.auth.models import AccessToken
from realtime.auth.tokens import revoke, rotate
from realtime.protocol import SUBSCRIPTION_TYPES

# A secret has no character that JavaScript would need quoted.
_AUTH_LINE = 'socket.send(JSON.stringify({ type: "auth", data: { token: "%s" } }));'
_WITHIN = "within 2 seconds"


class OverlapForm(forms.Form):
    """How long the old secret goes on to work."""

    overlap = forms.TypedChoiceField(
        label="The old secret works for",
        choices=[(0, "no time: it ends now"), (1, "1 hour"), (24, "1 day"), (168, "7 days")],
        coerce=int,
        initial=24,
        help_text="Clients that use it are disconnected when it ends.",
    )


class ExtensionForm(forms.Form):
    """How many days longer tokens are valid."""

    days = forms.IntegerField(
        label="Days more", min_value=1, max_value=3650, initial=30, help_text="1 to 3650"
    )


class TokenActions(ModelAdmin[AccessToken]):
    """The actions of the tokens' admin."""

    @admin.action(description="Revoke selected access tokens", permissions=["change"])
    def revoke_tokens(
        self, request: HttpRequest, queryset: QuerySet[AccessToken]
    ) -> HttpResponse | None:
        """Revoke, with an entry for each token in the admin log."""
        active = list(queryset.filter(revoked_at=None))
        if not active:
            self.message_user(request, "Nothing to revoke: revoked already.", messages.WARNING)
            return None
        if request.POST.get("post"):
            self._revoke(request, active)
            return None
        names = model_ngettext(self.opts, len(active))
        question = (
            f"Are you sure you want to revoke the following {names}? Clients that use them are "
            f"disconnected {_WITHIN}. This cannot be undone."
        )
        note = _others(queryset.count() - len(active), "revoked already")
        return self._ask(request, "revoke_tokens", question, active, "Yes, revoke", note=note)

    def _revoke(self, request: HttpRequest, tokens: list[AccessToken]) -> None:
        with transaction.atomic():
            count = revoke(tokens)
            for token in tokens:
                self.log_change(request, token, "Revoked.")
        names = model_ngettext(self.opts, count)
        text = f"Revoked {count} {names}. Live connections are closed {_WITHIN}."
        self.message_user(request, text, messages.SUCCESS)

    @admin.action(description="Rotate the secret of the selected token", permissions=["change"])
    def rotate_token(
        self, request: HttpRequest, queryset: QuerySet[AccessToken]
    ) -> HttpResponse | None:
        """Give one token a new secret and show it once."""
        tokens = list(queryset.filter(revoked_at=None)[:2])
        if queryset.count() != 1 or len(tokens) != 1:
            text = "Select one token that is not revoked: each new secret is shown on its own page."
            self.message_user(request, text, messages.WARNING)
            return None
        token = tokens[0]
        form = OverlapForm(request.POST if request.POST.get("post") else None)
        if form.is_valid():
            return self._rotate(request, token, timedelta(hours=form.cleaned_data["overlap"]))
        return self._ask(
            request,
            "rotate_token",
            "The token gets a new secret and keeps its rights.",
            [token],
            "Make a new secret",
            form=form,
            state=_state(token),
        )

    @sensitive_variables()
    def _rotate(
        self, request: HttpRequest, token: AccessToken, overlap: timedelta
    ) -> HttpResponse | None:
        """Rotate a token's secret, and show the new one, unless the token has been changed."""
        with transaction.atomic():
            token = AccessToken.objects.select_for_update().get(pk=token.pk)
            # After a second rotation, the old secret would be one that nobody has received.
            if not constant_time_compare(request.POST.get("state", ""), _state(token)):
                text = f"{token} has been changed meanwhile, by a second click perhaps."
                self.message_user(request, text, messages.WARNING)
                return None
            secret = rotate(token, overlap)
            until = token.previous_until
            ends = f"works until {until:%Y-%m-%d %H:%M} UTC" if until else "has ended"
            self.log_change(request, token, f"Rotated; the secret before {ends}.")
        return self.show_secret(request, token, secret, "Secret rotated", f"The old one {ends}.")

    @admin.action(description="Extend selected access tokens", permissions=["change"])
    def extend_tokens(
        self, request: HttpRequest, queryset: QuerySet[AccessToken]
    ) -> HttpResponse | None:
        """Extend tokens that expire: from their expiry on, or from now if that is past."""
        tokens = list(queryset.filter(revoked_at=None, expires_at__isnull=False))
        if not tokens:
            text = "Nothing to extend: revoked, or without expiry."
            self.message_user(request, text, messages.WARNING)
            return None
        form = ExtensionForm(request.POST if request.POST.get("post") else None)
        if form.is_valid():
            self._extend(request, tokens, timedelta(days=form.cleaned_data["days"]))
            return None
        question = f"The following {model_ngettext(self.opts, len(tokens))} will expire later."
        note = _others(queryset.count() - len(tokens), "revoked, or without expiry")
        return self._ask(request, "extend_tokens", question, tokens, "Extend", form=form, note=note)

    def _extend(self, request: HttpRequest, tokens: list[AccessToken], more: timedelta) -> None:
        with transaction.atomic():
            for token in tokens:
                token.expires_at = max(token.expires_at or timezone.now(), timezone.now()) + more
                token.save(update_fields=["expires_at"])
                text = f"Extended until {token.expires_at:%Y-%m-%d %H:%M} UTC."
                self.log_change(request, token, text)
        names = model_ngettext(self.opts, len(tokens))
        text = f"Extended {len(tokens)} {names} by {more.days} days."
        self.message_user(request, text, messages.SUCCESS)

    # Pages

    def _ask(
        self,
        request: HttpRequest,
        action: str,
        question: str,
        tokens: list[AccessToken],
        submit: str,
        **more: Any,
    ) -> HttpResponse:
        """Return the page that asks before an action is carried out."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": "Are you sure?",
            "action": action,
            "question": question,
            "tokens": tokens,
            "submit": submit,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "media": self.media,
            **more,
        }
        return TemplateResponse(request, "admin/realtime/accesstoken/confirmation.html", context)

    @sensitive_variables()
    def show_secret(
        self, request: HttpRequest, token: AccessToken, secret: str, title: str, note: str = ""
    ) -> HttpResponse:
        """Show a secret in this very response, so that it is kept nowhere: not in a message."""
        may_view = self.has_view_or_change_permission(request, token)
        page = reverse("admin:realtime_accesstoken_change", args=[token.pk])
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "token": token,
            "note": note,
            "types": types_allowed(token),
            "secret": secret,
            "auth_line": _AUTH_LINE % secret,
            "may_view": may_view,
            # A reload of the secret's page leads here.
            "next_url": page if may_view else reverse("admin:index"),
        }
        return TemplateResponse(request, "admin/realtime/accesstoken/created.html", context)


def types_allowed(token: AccessToken) -> str:
    """Return the types, in their usual order."""
    chosen = [name for name in SUBSCRIPTION_TYPES if name in token.types]
    return "all" if len(chosen) == len(SUBSCRIPTION_TYPES) else ", ".join(chosen)


def _others(count: int, reason: str) -> str:
    """Say how many of the selected tokens an action leaves out."""
    return f"{count} of your selection {'is' if count == 1 else 'are'} {reason}." if count else ""


def _state(token: AccessToken) -> str:
    """Return a text that changes with a token's secret and reveals nothing of it."""
    return salted_hmac("realtime.rotation", bytes(token.digest)).hexdigest()
