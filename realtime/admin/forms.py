"""The admin's forms: how a person enters what a token may do. Knows models; nothing of pages."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from django import forms
from django.core.exceptions import ValidationError
from django.utils import timezone

from realtime.analytics.alerting.models import AlertRule
from realtime.auth.models import AccessToken, GroupFilters, all_types
from realtime.auth.tokens import MARK, PREFIX_CHARACTERS, generate_prefix
from realtime.filters import OPERATORS
from realtime.protocol import SUBSCRIPTION_TYPES

if TYPE_CHECKING:
    _TokenModelForm = forms.ModelForm[AccessToken]
    _GroupFiltersModelForm = forms.ModelForm[GroupFilters]
    _AlertRuleModelForm = forms.ModelForm[AlertRule]
else:
    _TokenModelForm = _GroupFiltersModelForm = _AlertRuleModelForm = forms.ModelForm

OPERATORS_HELP = (
    'A value may be an object of operators, all of which must hold: {"amount": {"gte": 100, "lt": '
    f'500}}}}; there are {", ".join(OPERATORS)}. {{"$or": [filters, filters]}}: one of them must '
    "match. {}: every message."
)
FILTERS_HELP = (
    'Only messages that match all of them reach this token, e.g. {"tenant_id": "acme"} or '
    '{"payload.region": ["eu", "us"]} (any of several values). ' + OPERATORS_HELP
)


class StrictDecoder(json.JSONDecoder):
    """Reads JSON as the WebSocket API does: NaN, lone surrogates and huge numbers are none."""

    def decode(self, s: str, *args: Any) -> Any:
        """Return the value. Raises ``JSONDecodeError``."""
        try:
            return msgspec.json.decode(s)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), s, 0) from error


def _filters_field(help_text: str, label: str = "Enforced filters") -> forms.JSONField:
    return forms.JSONField(
        label=label,
        required=False,
        initial=dict,
        decoder=StrictDecoder,
        widget=forms.Textarea(
            attrs={"rows": 3, "class": "vLargeTextField realtime-code", "spellcheck": "false"}
        ),
        help_text=help_text,
        error_messages={"invalid": 'This is not JSON. Expected e.g. {"tenant_id": "acme"}.'},
    )


class GroupFiltersForm(_GroupFiltersModelForm):
    """A group's filters."""

    filters = _filters_field(
        "Only messages that match all of them reach users of the group. Who is in several groups "
        "gets what matches the filters of all of them. " + OPERATORS_HELP
    )

    class Meta:
        model = GroupFilters
        fields = ("group", "filters")


class AlertRuleForm(_AlertRuleModelForm):
    """An alert rule. The rule words its errors, in the model."""

    filters = _filters_field(
        'Only matching messages count, e.g. {"rule": "airport_delays"}: the results of one '
        "aggregation. {}: every message.",
        "Filters",
    )

    class Meta:
        model = AlertRule
        exclude = ("active_since",)
        widgets: ClassVar[dict[str, Any]] = {
            "emails": forms.Textarea(attrs={"rows": 2}),
            "webhook_url": forms.TextInput(attrs={"class": "vLargeTextField", "type": "url"}),
            "webhook_secret": forms.TextInput(
                attrs={"class": "vLargeTextField realtime-code", "autocomplete": "off"}
            ),
        }


class TokenForm(_TokenModelForm):
    """What can be changed of a token. The compiler of filters words their errors, in the model."""

    types = forms.MultipleChoiceField(
        label="Types",
        choices=[(name, name) for name in SUBSCRIPTION_TYPES],
        initial=all_types,
        widget=forms.CheckboxSelectMultiple,
        help_text="The subscription types that this token may subscribe to.",
        error_messages={"required": "Choose at least one subscription type."},
    )
    filters = _filters_field(FILTERS_HELP)

    class Meta:
        model = AccessToken
        fields = (
            "name",
            "owner",
            "types",
            "filters",
            "can_publish",
            "can_view_stats",
            "expires_at",
            "rate_limit_per_minute",
            "max_connections",
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
        made = AccessToken.objects.filter(prefix=prefix).first() if prefix else None
        if made is not None:
            raise ValidationError(
                f"This form has been saved already: it made {made}, whose secret was shown then "
                "and cannot be shown again. Open a new form for another token."
            )
        return cleaned


class SwitchSelect(forms.NullBooleanSelect):
    """On, off, or nothing said."""

    def __init__(self, unset: str) -> None:
        super().__init__()
        self.choices = [("unknown", unset), ("true", "On"), ("false", "Off")]
