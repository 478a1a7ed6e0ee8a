"""The admin's pages: tokens, groups' filters, origins, limits, connections. No rule of its own.

What a token, an origin or a limit may be is in :mod:`realtime.models`, which value is in force
in :mod:`realtime.policy`, how a secret is made in :mod:`realtime.auth`.
"""

from django.contrib import admin

from realtime.admin import (  # noqa: F401 - registration
    connections,
    groups,
    limits,
    origins,
    outbox,
    tokens,
)

admin.site.site_header = admin.site.site_title = "Real-time streaming"
admin.site.index_title = "Administration"
