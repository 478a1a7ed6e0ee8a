"""The pages of the admin: tokens, groups' filters, origins, limits, connections, rules, alerts.

They decide nothing. What a token, an origin or a limit may be is in :mod:`realtime.auth.models`,
the value in force in :mod:`realtime.auth.policy`, secrets in :mod:`realtime.auth.tokens`, and what
a rule may say in :mod:`realtime.analytics`. The pages share :mod:`realtime.admin.common`.
"""

from django.contrib import admin

from realtime.admin import aggregations, alerts, connections, policy, tokens  # noqa: F401 - registers

admin.site.site_header = admin.site.site_title = "Real-time streaming"
admin.site.index_title = "Administration"
