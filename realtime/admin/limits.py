"""The limits, as one form with the value in force and its source beside each field."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html

from realtime.admin.common import ModelAdmin
from realtime.auth.models import Limits
from realtime.auth.policy import LIMIT_FIELDS, Policy, environment_policy, load_policy


class SwitchSelect(forms.NullBooleanSelect):
    """On, off, or empty: the environment decides."""

    def __init__(self, unset: str) -> None:
        super().__init__()
        self.choices = [("unknown", unset), ("true", "On"), ("false", "Off")]


@admin.register(Limits)
class LimitsAdmin(ModelAdmin[Limits]):
    """The one row of limits."""

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
        limits = super().get_object(request, object_id, from_field)
        return Limits(pk=1) if limits is None and object_id == "1" else limits

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


def _switch(environment: Policy) -> forms.Widget:
    value = _shown(environment.config.enable_rate_limiting)
    return SwitchSelect(f"As in the environment ({value})")
