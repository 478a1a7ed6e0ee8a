"""What the admin's pages share: typed base classes, badges, filters of lists, fields of JSON."""

from __future__ import annotations

import json
from abc import abstractmethod
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


class ChoiceFilter(admin.SimpleListFilter):
    """Base class for a list's filter with one condition for each choice."""

    @abstractmethod
    def conditions(self) -> dict[str, Q]:
        """Return the choices, each with the condition of the rows that it shows."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices and their labels."""
        return [(choice, choice.capitalize()) for choice in self.conditions()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        """Return the rows of the choice; ``None`` for all rows."""
        condition = self.conditions().get(self.value() or "")
        return None if condition is None else queryset.filter(condition)


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
