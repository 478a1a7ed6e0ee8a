"""The filters of groups, for connections of their users."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from django.contrib import admin

from realtime.admin.forms import GroupFiltersForm
from realtime.auth.models import GroupFilters

if TYPE_CHECKING:
    _GroupFiltersModelAdmin = admin.ModelAdmin[GroupFilters]
else:
    _GroupFiltersModelAdmin = admin.ModelAdmin


@admin.register(GroupFilters)
class GroupFiltersAdmin(_GroupFiltersModelAdmin):
    """A group's filters; its permissions to receive types are with the group's others."""

    form = GroupFiltersForm
    list_display = ("group", "filters_text")
    list_select_related = ("group",)
    search_fields = ("group__name",)
    autocomplete_fields = ("group",)

    @admin.display(description="enforced filters")
    def filters_text(self, filters: GroupFilters) -> str:
        """Return the filters as they are entered."""
        return json.dumps(filters.filters)
