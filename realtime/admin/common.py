"""What the admin's pages share: typed base classes, badges, filters of lists, fields of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html

from realtime.filters.compiler import OPERATORS

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as ModelAdmin
    from django.forms import ModelForm as ModelForm
else:
    # Django's own classes cannot be written with a model in brackets, which type checkers need.
    class ModelAdmin(admin.ModelAdmin):
        """Django's, as ``ModelAdmin[Model]``."""

        def __class_getitem__(cls, model: Any) -> Any:
            return cls

    class ModelForm(forms.ModelForm):
        """Django's, as ``ModelForm[Model]``."""

        def __class_getitem__(cls, model: Any) -> Any:
            return cls


OPERATORS_HELP = (
    'A value may be an object of operators, all of which must hold: {"amount": {"gte": 100, "lt": '
    f'500}}}}; there are {", ".join(OPERATORS)}. {{"$or": [filters, filters]}}: one of them must '
    "match. {}: every message."
)


class RecordAdmin(ModelAdmin[Any]):
    """Base class for rows that code makes: administrators look at them, and may delete them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def choice_filter(
    name: str, conditions: Callable[[], dict[str, Q]], label: Callable[[str], str] = str.capitalize
) -> type[admin.SimpleListFilter]:
    """Return a list's filter with one condition for each choice, which *label* names."""

    class ChoiceFilter(admin.SimpleListFilter):
        """Shows the rows of one choice, or all."""

        title, parameter_name = name.replace("_", " "), name.rpartition("_")[2]

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(choice, label(choice)) for choice in conditions()]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(conditions().get(self.value() or "", Q()))

    return ChoiceFilter


def column(description: str, value: Callable[[Any], Any], **options: Any) -> Any:
    """Return a column of a list, or a field that is only shown, with the *value* of each row."""
    return admin.display(description=description, **options)(lambda page, row: value(row))


class StrictDecoder(json.JSONDecoder):
    """Reads JSON as the WebSocket API does: it refuses NaN, lone surrogates and huge numbers."""

    def decode(self, s: str, *args: Any) -> Any:
        """Return the value. Raises ``JSONDecodeError``."""
        try:
            return msgspec.json.decode(s)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), s, 0) from error


def json_field(
    label: str, example: str, help_text: str, *, rows: int = 3, empty: Any = dict
) -> forms.JSONField:
    """Return a field of JSON; *empty* makes the value of an empty field, which ``None`` forbids."""
    return forms.JSONField(
        label=label,
        required=empty is None,
        initial=empty,
        decoder=StrictDecoder,
        widget=forms.Textarea(
            attrs={"rows": rows, "class": "vLargeTextField realtime-code", "spellcheck": "false"}
        ),
        help_text=help_text,
        error_messages={"invalid": f"This is not JSON. Expected e.g. {example}."},
    )


def badge(state: str) -> str:
    """Return a state, coloured."""
    return format_html('<span class="realtime-state realtime-{0}">{0}</span>', state)
