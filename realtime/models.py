"""All tables of the app, where Django looks for them. Nothing here but names."""

from realtime.analytics.aggregation.models import AggregationRule
from realtime.analytics.alerting.models import Alert, AlertRule, AlertsRead, Notification
from realtime.auth.models import (
    AccessToken,
    AllowedOrigin,
    ConfigurationRevision,
    Connection,
    GroupFilters,
    Limits,
    NoRows,
    RevisedQuerySet,
    all_types,
    raise_revision,
    validate_filters,
    validate_origin,
    validate_types,
)
from realtime.publishing.outbox import OutboxBatch, OutboxMessage

__all__ = [
    "AccessToken",
    "AggregationRule",
    "Alert",
    "AlertRule",
    "AlertsRead",
    "AllowedOrigin",
    "ConfigurationRevision",
    "Connection",
    "GroupFilters",
    "Limits",
    "NoRows",
    "Notification",
    "OutboxBatch",
    "OutboxMessage",
    "RevisedQuerySet",
    "all_types",
    "raise_revision",
    "validate_filters",
    "validate_origin",
    "validate_types",
]
