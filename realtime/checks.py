"""System checks of the app, each with an id of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from realtime.cluster.clients import Unavailable
from realtime.config import WEBSOCKET_PREFIX, WebSocketConfig, get_streaming_config
from realtime.log import get_log
from realtime.protocol import SUBSCRIPTION_TYPES

# A message in the log, as a rule of thumb.
MESSAGE_BYTES = 1024


@register(Tags.database)
def check_persistent_connections(
    app_configs: Any = None, databases: Any = None, **kwargs: Any
) -> list[CheckMessage]:
    """Warn of persistent database connections, which pile up under ASGI (realtime.W001)."""
    return [
        Warning(
            f"CONN_MAX_AGE of the database {alias!r} is not 0: under ASGI each thread that "
            "answers a request keeps a connection open.",
            hint="Leave CONN_MAX_AGE at 0, or pool connections outside Django.",
            id="realtime.W001",
        )
        for alias, database in settings.DATABASES.items()
        if database.get("CONN_MAX_AGE", 0) != 0
    ]


@register
def check_channel_layer(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Refuse a channel layer other than the two that are supported (realtime.E001)."""
    try:
        get_log()
    except Unavailable as error:
        return [
            Error(
                f"CHANNEL_LAYERS['default']: {error}.",
                hint="Use channels_redis.pubsub.RedisPubSubChannelLayer.",
                id="realtime.E001",
            )
        ]
    return []


class _Risk(NamedTuple):
    """What a site in production should not have, and how to be rid of it."""

    id: str
    is_there: Callable[[], bool]
    text: str
    hint: str


def _websocket() -> WebSocketConfig:
    return get_streaming_config().websocket


def _history_bytes() -> int:
    return len(SUBSCRIPTION_TYPES) * _websocket().history_size * MESSAGE_BYTES


_RISKS = (
    _Risk(
        "realtime.W002",
        lambda: "*" in settings.ALLOWED_HOSTS,
        "Any Host header is served.",
        "Set DJANGO_ALLOWED_HOSTS to the names of this site.",
    ),
    _Risk(
        "realtime.W003",
        lambda: settings.DEBUG,
        "Debug mode is on: errors show settings and source to whoever causes one.",
        "Unset DJANGO_DEBUG.",
    ),
    _Risk(
        "realtime.W004",
        lambda: "*" in _websocket().allowed_origins,
        "Pages of any origin may connect, with the connection tokens of whoever looks at them.",
        f"Set {WEBSOCKET_PREFIX}ALLOWED_ORIGINS to the origins of your pages.",
    ),
    _Risk(
        "realtime.W005",
        lambda: not settings.SECURE_SSL_REDIRECT,
        "Nothing says that TLS is used: tokens can be read on the way.",
        "End TLS at a proxy and set DJANGO_TLS=true.",
    ),
    _Risk(
        "realtime.W006",
        lambda: not os.environ.get("DJANGO_SECRET_KEY") and bool(os.environ.get("DATABASE_URL")),
        "The secret key was generated on this machine: other hosts do not accept what it signed.",
        "Set DJANGO_SECRET_KEY, the same on every host.",
    ),
    _Risk(
        "realtime.W007",
        lambda: not _websocket().require_auth,
        "Clients need not authenticate: anyone receives everything.",
        f"Unset {WEBSOCKET_PREFIX}REQUIRE_AUTH.",
    ),
    _Risk(
        "realtime.W008",
        lambda: _history_bytes() > psutil.virtual_memory().total / 2,
        "With messages of 1 KiB the logs take more than half of this machine's memory.",
        f"Lower {WEBSOCKET_PREFIX}HISTORY_SIZE.",
    ),
)


@register(Tags.security, deploy=True)
def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Warn of what makes a site in production less safe (realtime.W002 to W008)."""
    return [Warning(risk.text, hint=risk.hint, id=risk.id) for risk in _RISKS if risk.is_there()]
