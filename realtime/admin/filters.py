"""What the list of tokens can be narrowed to."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from realtime.protocol import SUBSCRIPTION_TYPES


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
        revoked = Q(revoked_at__isnull=False) | Q(owner__isnull=False, owner__is_active=False)
        conditions = {
            "active": ~revoked & (Q(expires_at=None) | ~past),
            "expired": ~revoked & past,
            "revoked": revoked,
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
