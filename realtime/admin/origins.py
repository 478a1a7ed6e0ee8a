"""Allowed origins, with a banner that says which are in force."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from realtime.admin.common import ModelAdmin
from realtime.auth.models import AllowedOrigin
from realtime.auth.policy import environment_policy, load_policy


def origins_in_force() -> dict[str, Any]:
    """Return the origins in force and their source, and what it would be without any row."""
    policy, environment = load_policy(), environment_policy()
    return {
        "patterns": policy.config.allowed_origins,
        "source": policy.source("allowed_origins"),
        "from_admin": "allowed_origins" in policy.overridden,
        "otherwise": environment.config.allowed_origins,
        "otherwise_source": environment.source("allowed_origins"),
    }


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
        return {**(context or {}), "origins": origins_in_force()}
