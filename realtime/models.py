"""All tables of the app, in the module in which Django looks for them.

Migrations refer to the validators here.
"""

from realtime.analytics.aggregation.models import AggregationRule as AggregationRule
from realtime.analytics.alerting.models import Alert as Alert
from realtime.analytics.alerting.models import AlertRule as AlertRule
from realtime.analytics.alerting.models import AlertsRead as AlertsRead
from realtime.analytics.alerting.models import Notification as Notification
from realtime.auth.models import AccessToken as AccessToken
from realtime.auth.models import AllowedOrigin as AllowedOrigin
from realtime.auth.models import ConfigurationRevision as ConfigurationRevision
from realtime.auth.models import Connection as Connection
from realtime.auth.models import GroupFilters as GroupFilters
from realtime.auth.models import Limits as Limits
from realtime.auth.models import all_types as all_types
from realtime.auth.models import raise_revision as raise_revision
from realtime.auth.models import validate_filters as validate_filters
from realtime.auth.models import validate_origin as validate_origin
from realtime.auth.models import validate_types as validate_types
from realtime.publishing.outbox import OutboxBatch as OutboxBatch
from realtime.publishing.outbox import OutboxMessage as OutboxMessage
