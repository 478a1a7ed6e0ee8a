"""The admin's pages: tokens, groups' filters, origins, limits, connections, rules, alerts.

No rule of its own: what a token, an origin or a limit may be is in :mod:`realtime.models`, which
value is in force in :mod:`realtime.auth.policy`, how a secret is made in
:mod:`realtime.auth.tokens`, what a rule may say in :mod:`realtime.analytics.aggregation.rule`.
"""

from django.contrib import admin

from realtime.admin import (  # noqa: F401 - registration
    aggregations,
    alerts,
    connections,
    groups,
    limits,
    origins,
    outbox,
    tokens,
)

admin.site.site_header = admin.site.site_title = "Real-time streaming"
admin.site.index_title = "Administration"
