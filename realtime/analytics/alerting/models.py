"""The tables of alert rules, of published alerts, and of notifications."""

from __future__ import annotations

import re
from typing import Any, ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import models
from django.utils import timezone

from realtime.analytics.alerting.rule import (
    ABOVE,
    BELOW,
    DEVIATION,
    SEVERITIES,
    SOURCES,
    AlertSpec,
    Targets,
    make_condition,
)
from realtime.analytics.alerting.signing import check_secret, new_secret
from realtime.analytics.rules import RuleError

EMAIL = "email"
WEBHOOK = "webhook"
# Names of a rule's fields -> the model's, where they differ. The last ones are in no form.
_FIELDS = {
    "value": "value_path",
    "time": "time_path",
    "deviation": "threshold",
    **dict.fromkeys(("alpha", "samples", "least"), "condition"),
}


def _choices(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(name, name) for name in names]


class AlertRule(models.Model):
    """When to alert, and whom to tell: an :class:`~realtime.analytics.alerting.rule.AlertSpec`."""

    name = models.SlugField(max_length=100, unique=True)
    enabled = models.BooleanField(
        default=True, help_text="A rule that is turned off resolves its alerts."
    )
    severity = models.CharField(max_length=16, choices=_choices(SEVERITIES), default="warning")
    source = models.CharField(
        "messages of type", max_length=32, choices=_choices(SOURCES), default="aggregations"
    )
    filters = models.JSONField(
        default=dict,
        blank=True,
        help_text='Only matching messages count, e.g. {"rule": "airport_delays"}.',
    )
    value_path = models.CharField(
        "value", max_length=256, help_text="The path of a number, e.g. values.mean_delay."
    )
    group_by = models.CharField(
        max_length=1024,
        blank=True,
        help_text="Paths, separated by commas; each combination of their values has alerts of its "
        "own. Empty: the group of an aggregation; no groups for other types.",
    )
    condition = models.CharField(
        max_length=16,
        choices=[(ABOVE, ABOVE), (BELOW, BELOW), (DEVIATION, "deviation from the usual")],
        default=ABOVE,
        help_text="Usual is the exponentially weighted mean of a group's values; values that are "
        "out of bounds do not change it.",
    )
    threshold = models.FloatField(
        null=True, help_text="For a deviation: the number of standard deviations, e.g. 3."
    )
    clear = models.FloatField(
        null=True,
        blank=True,
        help_text="The value, or for a deviation the number of standard deviations, at which the "
        "alert is resolved. Empty: the threshold; for a deviation two thirds of it.",
    )
    # Further fields of a deviation, in rules that were made when the form had them.
    learning = models.JSONField(default=dict, editable=False)
    for_seconds = models.FloatField(
        default=0.0, help_text="How long values must be out of bounds before an alert fires."
    )
    resolve_after = models.FloatField(
        "resolve without values after",
        null=True,
        blank=True,
        help_text="Seconds without a value, by the clock. Empty: the alert stays.",
    )
    time_path = models.CharField(
        "time",
        max_length=256,
        blank=True,
        help_text="The path of a message's own time, e.g. timestamp: RFC 3339, or seconds or "
        "milliseconds since 1970. Empty: when it was published.",
    )
    emails = models.TextField(
        "e-mail to", blank=True, help_text="Addresses, one a line or separated by commas."
    )
    webhook_url = models.CharField(
        "webhook", max_length=2000, blank=True, help_text="An http or https URL to POST alerts to."
    )
    webhook_secret = models.CharField(
        max_length=128,
        blank=True,
        default=new_secret,
        help_text="Signs what is posted; the receiver needs it. Empty: a new one is made.",
    )
    webhook_enabled = models.BooleanField(
        "webhook is on", default=True, help_text="Turned off when the receiver answers 410 Gone."
    )
    # When the rule was turned on, or was told to begin anew. Earlier messages do not count.
    active_since = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, and note since when the rule is on."""
        if not self.enabled:
            self.active_since = None
        elif self.active_since is None:
            self.active_since = timezone.now()
        if not self.webhook_secret:
            self.webhook_secret = new_secret()
        super().save(*args, **kwargs)

    def clean(self) -> None:
        """Raise ``ValidationError`` with the rule's own words."""
        if self.filters in (None, ""):
            self.filters = {}
        try:
            self.spec()
            self._check_targets()
        except RuleError as error:
            name = _FIELDS.get(error.field, error.field)
            raise ValidationError({name: error.text}) from error

    def _check_targets(self) -> None:
        """Raise :class:`RuleError` if the addresses or the webhook cannot be used."""
        for address in self.addresses:
            try:
                validate_email(address)
            except ValidationError:
                raise RuleError("emails", f"{address!r} is not an e-mail address.") from None
        try:
            parts = urlsplit(self.webhook_url)
            _ = parts.port
        except ValueError as error:
            raise RuleError("webhook_url", f"This is not a URL: {error}.") from error
        is_web = parts.scheme in ("http", "https") and parts.hostname
        if self.webhook_url and not (is_web and self.webhook_url.isprintable()):
            raise RuleError("webhook_url", "Expected http://... or https://...")
        if self.webhook_secret:
            check_secret(self.webhook_secret)

    @property
    def addresses(self) -> list[str]:
        """The e-mail addresses."""
        return [address for address in re.split(r"[\s,;]+", self.emails) if address]

    @property
    def targets(self) -> Targets:
        """Whom to tell."""
        url = self.webhook_url if self.webhook_enabled else ""
        return Targets(self.addresses, url, self.webhook_secret)

    def spec(self) -> AlertSpec:
        """Return the rule. Raises :class:`~realtime.analytics.rules.RuleError`."""
        paths = [path.strip() for path in self.group_by.split(",") if path.strip()]
        if self.threshold is None:
            raise RuleError("threshold", "expected a number")
        return AlertSpec(
            self.name,
            self.source,
            self.value_path,
            make_condition(self.condition, self.threshold, self.clear, **self.learning),
            filters=self.filters,
            group_by=paths or None,
            severity=self.severity,
            for_seconds=self.for_seconds,
            resolve_after=self.resolve_after,
            time=self.time_path or None,
            since=self.active_since.timestamp() if self.active_since else 0.0,
            targets=self.targets,
        )


class Alert(models.Model):
    """An alert that has been published: one row for firing and resolved."""

    alert_id = models.CharField(max_length=64, unique=True)
    rule = models.CharField(max_length=100, db_index=True)
    source = models.CharField(max_length=32)
    severity = models.CharField(max_length=16)
    group = models.JSONField()
    value = models.FloatField()
    message = models.TextField()
    started_at = models.CharField(max_length=32)
    # Empty while it is firing.
    resolved_at = models.CharField(max_length=32, blank=True, db_index=True)
    # By this site's clock: started_at and resolved_at are by that of the messages.
    changed_at = models.DateTimeField(db_index=True)

    class Meta:
        ordering = ("-changed_at", "-pk")

    def __str__(self) -> str:
        return self.message

    @property
    def is_firing(self) -> bool:
        """Whether it has not been resolved."""
        return not self.resolved_at


class Notification(models.Model):
    """A message to somebody that an alert fires or is resolved, until it has been delivered."""

    rule = models.CharField(max_length=100)
    alert_id = models.CharField(max_length=64)
    state = models.CharField(max_length=16)
    channel = models.CharField(max_length=16, choices=_choices((EMAIL, WEBHOOK)))
    # The alert, as it was published.
    body = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0)
    # None: it has been delivered, or given up.
    next_attempt_at = models.DateTimeField(null=True, db_index=True)
    delivered_at = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("-created_at", "-pk")
        constraints: ClassVar[list[Any]] = [
            models.UniqueConstraint(
                fields=("alert_id", "state", "channel"), name="realtime_notification_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.channel}: {self.rule} {self.state}"

    @property
    def status(self) -> str:
        """``waiting``, ``delivered`` or ``failed``."""
        if self.delivered_at is not None:
            return "delivered"
        return "failed" if self.next_attempt_at is None else "waiting"


class AlertsRead(models.Model):
    """How far alerts have been read for notifications, in one row."""

    epoch = models.CharField(max_length=32)
    offset = models.PositiveBigIntegerField()

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"
