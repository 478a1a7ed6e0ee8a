"""The filters of groups, which are enforced on connections of the groups' users."""

from __future__ import annotations

import json

from django.contrib import admin

from realtime.admin.common import OPERATORS_HELP, ModelAdmin, ModelForm, json_field
from realtime.auth.models import GroupFilters


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

    @admin.display(description="enforced filters")
    def filters_text(self, filters: GroupFilters) -> str:
        """Return the filters as they are entered."""
        return json.dumps(filters.filters)
