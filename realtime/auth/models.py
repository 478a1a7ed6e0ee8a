"""The tables that administrators manage: access tokens, filters of groups, origins, limits.

Every change of them raises the configuration's revision, by which running servers notice it (see
:mod:`realtime.auth.policy`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction
from django.db.models import Q
from django.utils import timezone

from realtime.filters.compiler import FilterError, compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.protocol.origins import check_pattern


def validate_types(value: Any) -> None:
    """Raise ``ValidationError`` unless *value* is a list of different subscription types."""
    if not isinstance(value, list) or not value:
        raise ValidationError("Choose at least one subscription type.")
    if any(item not in SUBSCRIPTION_TYPES for item in value) or len(set(value)) != len(value):
        raise ValidationError(f"Subscription types are {', '.join(SUBSCRIPTION_TYPES)}, each once.")


def validate_filters(value: Any) -> None:
    """Raise ``ValidationError`` unless *value* are filters."""
    try:
        compile_filters(value)
    except FilterError as error:
        raise ValidationError(str(error)) from error


def validate_origin(value: str) -> None:
    """Raise ``ValidationError`` unless *value* is an origin pattern."""
    try:
        check_pattern(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def all_types() -> list[str]:
    """Return the six subscription types, a new token's default."""
    return list(SUBSCRIPTION_TYPES)


class RevisedQuerySet(models.QuerySet[Any]):
    """A query set whose bulk writes raise the configuration's revision too."""

    def update(self, **kwargs: Any) -> int:
        """Update rows, then let running servers know."""
        with transaction.atomic():
            changed = super().update(**kwargs)
            raise_revision()
        return changed

    def bulk_create(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Insert rows, then let running servers know."""
        with transaction.atomic():
            created = super().bulk_create(*args, **kwargs)
            raise_revision()
        return created

    def touch(self, **kwargs: Any) -> int:
        """Update rows that no server needs to hear of, such as the last use of a token."""
        return super().update(**kwargs)


class _FilteredRow(models.Model):
    """A row with a column ``filters``."""

    filters: Any

    class Meta:
        abstract = True

    def clean(self) -> None:
        """Check what field validation skips as blank: ``[]`` is wrong, ``None`` means ``{}``."""
        if self.filters is None:
            self.filters = {}
        elif self.filters in ([], ""):
            raise ValidationError({"filters": "filters: expected an object"})


class AccessToken(_FilteredRow):
    """A client's credential. Only the SHA-256 digest of its 256-bit secret is stored."""

    name = models.CharField(max_length=100)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="access_tokens",
    )
    prefix = models.CharField(max_length=16, unique=True, editable=False)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    # The secret before the last rotation, and until when it works.
    previous_digest = models.BinaryField(max_length=32, unique=True, null=True, editable=False)
    previous_until = models.DateTimeField(null=True, blank=True, editable=False)
    types = models.JSONField(default=all_types, validators=[validate_types])
    filters = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_filters],
        verbose_name="enforced filters",
        help_text='Only matching messages reach this token, e.g. {"tenant_id": "acme"}.',
    )
    can_publish = models.BooleanField("may publish", default=False)
    can_view_stats = models.BooleanField("may view statistics", default=False)
    rate_limit_per_minute = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Empty: the server's."
    )
    max_connections = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1)], help_text="Empty: no limit."
    )
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    objects: ClassVar[Any] = RevisedQuerySet.as_manager()

    class Meta:
        ordering = ("-created_at", "-pk")

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"

    @property
    def state(self) -> str:
        """``active``, ``expired`` or ``revoked``; a token whose owner is deactivated is revoked."""
        if self.revoked_at is not None or (self.owner is not None and not self.owner.is_active):
            return "revoked"
        if self.expires_at is not None and self.expires_at <= timezone.now():
            return "expired"
        return "active"


class AllowedOrigin(models.Model):
    """An origin pattern that may connect; while there is any row, it overrides the environment."""

    pattern = models.CharField(
        max_length=255,
        unique=True,
        validators=[validate_origin],
        help_text="https://app.example.com, https://*.example.com, null or *",
    )
    note = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects: ClassVar[Any] = RevisedQuerySet.as_manager()

    class Meta:
        ordering = ("pattern",)

    def __str__(self) -> str:
        return self.pattern


class GroupFilters(_FilteredRow):
    """The filters that users of a group cannot leave, on connections of their own."""

    group = models.OneToOneField(Group, on_delete=models.CASCADE, related_name="realtime_filters")
    filters = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_filters],
        verbose_name="enforced filters",
        help_text='Only matching messages reach users of the group, e.g. {"tenant_id": "acme"}. '
        "Who is in several groups gets what matches the filters of all of them.",
    )

    objects: ClassVar[Any] = RevisedQuerySet.as_manager()

    class Meta:
        verbose_name = verbose_name_plural = "group filters"
        permissions: ClassVar[Any] = [
            (f"view_{kind}", f"Can receive {kind.replace('_', ' ')}") for kind in SUBSCRIPTION_TYPES
        ]

    def __str__(self) -> str:
        return f"filters of {self.group}"


def _limit(text: str, low: int = 1, high: int | None = None) -> Any:
    highest = [] if high is None else [MaxValueValidator(high)]
    return models.PositiveBigIntegerField(
        null=True, blank=True, validators=[MinValueValidator(low), *highest], help_text=text
    )


class Limits(models.Model):
    """The one row of limits. An empty field leaves the environment's value in force."""

    max_connections = _limit("Connections of one server process.")
    max_connections_per_address = _limit("Connections of one address; 0: no limit.", 0)
    auth_timeout_seconds = _limit("Seconds in which a client must authenticate.", 1, 86_400)
    auth_failures_per_minute = _limit(
        "Failed authentications of one address in 60 seconds before answers are slowed."
    )
    enable_rate_limiting = models.BooleanField(null=True, blank=True)
    rate_limit_per_minute = _limit("Messages that one client may send in 60 seconds.")
    max_subscriptions_per_client = _limit("Subscriptions of one connection.")
    max_message_size = _limit("Bytes of the largest message, both ways.", 1024, 256 * 1024 * 1024)
    max_buffered_bytes = _limit("Bytes that may wait for one slow client.", 4096)

    objects: ClassVar[Any] = RevisedQuerySet.as_manager()

    class Meta:
        verbose_name = verbose_name_plural = "limits"
        constraints: ClassVar[list[Any]] = [
            models.CheckConstraint(condition=Q(pk=1), name="realtime_limits_one_row")
        ]

    def __str__(self) -> str:
        return "Limits"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save as the one row."""
        self.pk = 1
        super().save(*args, **kwargs)


class NoRows(models.Manager["Connection"]):
    """Finds nothing, since there is no table: ``dumpdata`` asks."""

    def get_queryset(self) -> models.QuerySet[Connection]:
        return super().get_queryset().none()


class Connection(models.Model):
    """A live connection, for its permissions and its place in the admin. Not stored."""

    client_id = models.CharField(max_length=36, primary_key=True)

    objects = NoRows()

    class Meta:
        managed = False
        base_manager_name = "objects"
        verbose_name = "live connection"
        default_permissions = ("view",)
        permissions: ClassVar[Any] = [("disconnect_connection", "Can disconnect live connection")]

    def __str__(self) -> str:
        return self.client_id


class ConfigurationRevision(models.Model):
    """A counter in one row, raised by every change that running servers must notice."""

    number = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return str(self.number)


def raise_revision() -> None:
    """Let running servers know, once the current transaction is committed, of a change."""
    with transaction.atomic():
        ConfigurationRevision.objects.get_or_create(pk=1)
        ConfigurationRevision.objects.filter(pk=1).update(number=models.F("number") + 1)
