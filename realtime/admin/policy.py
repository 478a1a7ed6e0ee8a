"""The pages of what is in force for all: limits, allowed origins, and the filters of groups.

Beside a limit, and above the origins, is the value in force and where it comes from.
"""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html

from realtime.admin.common import OPERATORS_HELP, ModelAdmin, ModelForm, column, json_field
from realtime.auth.models import AllowedOrigin, GroupFilters, Limits
from realtime.auth.policy import LIMIT_FIELDS, Policy, environment_policy, load_policy


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
        unset = f"As in the environment ({_shown(environment.config.enable_rate_limiting)})"
        switch = forms.NullBooleanSelect()
        switch.choices = [("unknown", unset), ("true", "On"), ("false", "Off")]
        kw["widgets"] = {"enable_rate_limiting": switch}
        return super().get_form(request, obj, change, **kw)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        """Offer one way to save; the page has no others to go to."""
        context.update(show_save_and_continue=False, title="Limits", subtitle=None)
        return super().render_change_form(request, context, *args, **kwargs)

    def response_change(self, request: HttpRequest, obj: Limits) -> HttpResponse:
        """Come back to the form, which shows what is in force now."""
        text = "Saved. Running servers follow within 2 seconds."
        self.message_user(request, text, messages.SUCCESS)
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


@admin.register(AllowedOrigin)
class AllowedOriginAdmin(ModelAdmin[AllowedOrigin]):
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
        context = self._with_banner(extra_context)
        return super().changeform_view(request, object_id, form_url, context)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Add the banner: without the last row the environment's origins are in force again."""
        return super().delete_view(request, object_id, self._with_banner(extra_context))

    @staticmethod
    def _with_banner(context: dict[str, Any] | None) -> dict[str, Any]:
        """Add the origins in force and their source, and what it would be without any row."""
        policy, environment = load_policy(), environment_policy()
        origins = {
            "patterns": policy.config.allowed_origins,
            "source": policy.source("allowed_origins"),
            "from_admin": "allowed_origins" in policy.overridden,
            "otherwise": environment.config.allowed_origins,
            "otherwise_source": environment.source("allowed_origins"),
        }
        return {**(context or {}), "origins": origins}


class GroupFiltersForm(ModelForm[GroupFilters]):
    """A group's filters."""

    filters = json_field(
        "Enforced filters",
        '{"tenant_id": "acme"}',
        "Users of the group receive only messages that match all of these. A user of several "
        "groups receives what matches the filters of all of them. " + OPERATORS_HELP,
    )

    class Meta:
        model = GroupFilters
        fields = ("group", "filters")


@admin.register(GroupFilters)
class GroupFiltersAdmin(ModelAdmin[GroupFilters]):
    """A group's filters; which types it may receive is among the group's other permissions."""

    form = GroupFiltersForm
    list_display = ("group", "filters_text")
    list_select_related = ("group",)
    search_fields = ("group__name",)
    autocomplete_fields = ("group",)
    filters_text = column("enforced filters", lambda row: json.dumps(row.filters))
