"""All tables of the app, in the module in which Django looks for them.

Migrations refer to the validators here.
"""

from realtime.analytics.aggregation.models import AggregationRule
from realtime.analytics.alerting.models import Alert, AlertRule, AlertsRead, Notification
from realtime.auth.models import (
    AccessToken,
    AllowedOrigin,
    ConfigurationRevision,
    Connection,
    GroupFilters,
    Limits,
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
    "Notification",
    "OutboxBatch",
    "OutboxMessage",
    "all_types",
    "raise_revision",
    "validate_filters",
    "validate_origin",
    "validate_types",
]
