"""The table of the aggregation rules that administrators make."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from realtime.analytics.aggregation.rule import (
    ARGUMENTS,
    DEFAULT_SKEW,
    MAX_SECONDS,
    SOURCES,
    AggregationSpec,
    make_spec,
)
from realtime.analytics.rules import RuleError
from realtime.filters import MAX_PATH_CHARACTERS


class AggregationRule(models.Model):
    """A windowed aggregation. Fields are the arguments of :func:`make_spec`, which checks them."""

    name = models.SlugField(
        max_length=64, unique=True, help_text="The rule in its results. Letters, digits, - and _."
    )
    enabled = models.BooleanField(
        default=True, help_text="A rule that is switched on again goes on where it was."
    )
    note = models.CharField(max_length=200, blank=True)
    source = models.CharField(
        max_length=20, choices=[(kind, kind) for kind in SOURCES], default="events"
    )
    filters = models.JSONField(default=dict, blank=True)
    group_by = models.JSONField(default=list, blank=True)
    size = models.PositiveIntegerField(
        "window", default=60, help_text=f"Seconds, 1 to {MAX_SECONDS}."
    )
    slide = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Seconds from the beginning of one window to that of the next; the window is a "
        "multiple of it. Empty: windows follow one another.",
    )
    allowed_lateness = models.PositiveIntegerField(
        default=0,
        help_text="Seconds by which a message may be older than the newest one before it.",
    )
    allowed_skew = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Seconds by which a message's own time may be ahead of the time when it was "
        "published; one further ahead is left out. Empty: the allowed lateness, or "
        f"{DEFAULT_SKEW} if that is longer.",
    )
    time_path = models.CharField(
        max_length=MAX_PATH_CHARACTERS,
        blank=True,
        help_text="Where messages say when they happened: RFC 3339, or seconds or milliseconds "
        "since 1970. Empty: when they were published.",
    )
    functions = models.JSONField()
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def spec(self) -> AggregationSpec:
        """Return the rule. Raises :class:`~realtime.analytics.rules.RuleError`."""
        return make_spec(**{argument: getattr(self, argument) for argument in ARGUMENTS})

    def clean(self) -> None:
        """Raise ``ValidationError`` with the rule's own words."""
        self.filters = {} if self.filters is None else self.filters
        self.group_by = [] if self.group_by is None else self.group_by
        try:
            self.spec()
        except RuleError as error:
            raise ValidationError({error.field: error.text}) from error
