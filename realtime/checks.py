"""System checks of the app, each with an id of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
from channels.layers import get_channel_layer
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from realtime.cluster.clients import Unavailable
from realtime.cluster.layer import uses_redis
from realtime.cluster.servers import uses_embedded
from realtime.cluster.stores import check_stores
from realtime.config import WEBSOCKET_PREFIX, get_streaming_config, read_site_config
from realtime.log import get_log
from realtime.protocol import SUBSCRIPTION_TYPES

MESSAGE_BYTES = 1024  # of one in the log, roughly


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


@register(Tags.security, deploy=True)
def check_servers(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Refuse Redis Cluster, and servers that remove what they are to keep (realtime.E002)."""
    if check_channel_layer() or not uses_redis(get_channel_layer()) or uses_embedded():
        return []
    return [Error(f"REDIS_URL: {fault}.", id="realtime.E002") for fault in check_stores()]


def _has_secret_of_this_machine() -> bool:
    """Tell whether hosts that share a database each have a secret key of their own."""
    site = read_site_config()
    return bool(site.database_url.get_secret_value()) and not (
        site.django_secret_key.get_secret_value()
    )


def _logs_need_too_much_memory() -> bool:
    bytes_of_logs = (
        len(SUBSCRIPTION_TYPES) * MESSAGE_BYTES * get_streaming_config().websocket.history_size
    )
    return bytes_of_logs > psutil.virtual_memory().total / 2


# Of each risk for a site in production: whether it is there, what it is, and what to do about it.
RISKS: dict[str, tuple[Callable[[], bool], str, str]] = {
    "realtime.W002": (
        lambda: "*" in settings.ALLOWED_HOSTS,
        "Requests with any Host header are answered.",
        "Set DJANGO_ALLOWED_HOSTS to the names of this site.",
    ),
    "realtime.W003": (
        lambda: settings.DEBUG,
        "Debug mode is on: whoever causes an error sees settings and source code.",
        "Unset DJANGO_DEBUG.",
    ),
    "realtime.W004": (
        lambda: "*" in get_streaming_config().websocket.allowed_origins,
        "Pages of any origin may connect, with the connection tokens of the users who visit them.",
        f"Set {WEBSOCKET_PREFIX}ALLOWED_ORIGINS to the origins of your pages.",
    ),
    "realtime.W005": (
        lambda: not settings.SECURE_SSL_REDIRECT,
        "TLS is not required: tokens can be read on their way through the network.",
        "End TLS at a proxy and set DJANGO_TLS=true.",
    ),
    "realtime.W006": (
        _has_secret_of_this_machine,
        "The secret key was generated on this machine: other hosts do not accept what it signs.",
        "Set DJANGO_SECRET_KEY, the same on every host.",
    ),
    "realtime.W007": (
        lambda: not get_streaming_config().websocket.require_auth,
        "Clients need not authenticate: anyone receives everything.",
        f"Unset {WEBSOCKET_PREFIX}REQUIRE_AUTH.",
    ),
    "realtime.W008": (
        _logs_need_too_much_memory,
        "With messages of 1 KiB the logs take more than half of this machine's memory.",
        f"Lower {WEBSOCKET_PREFIX}HISTORY_SIZE.",
    ),
}


@register(Tags.security, deploy=True)
def check_deployment(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Warn of what makes a site in production less safe (realtime.W002 to W008)."""
    return [
        Warning(text, hint=hint, id=check_id)
        for check_id, (is_there, text, hint) in RISKS.items()
        if is_there()
    ]
