"""System checks of the app, each with an id of its own."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from realtime.log import LogUnavailable, get_log
from realtime.redis import layer_servers


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
    """Refuse a channel layer that no log of messages belongs to (realtime.E001)."""
    try:
        get_log()
        problem = ""
        if any("sentinels" in dict(server.options) for server in layer_servers()):
            problem = "hosts with sentinels are not supported"
    except LogUnavailable as error:
        problem = str(error)
    if not problem:
        return []
    return [
        Error(
            f"CHANNEL_LAYERS['default']: {problem}.",
            hint="Use channels_redis.pubsub.RedisPubSubChannelLayer, with addresses as hosts.",
            id="realtime.E001",
        )
    ]


@register(Tags.security, deploy=True)
def check_allowed_hosts(app_configs: Any = None, **kwargs: Any) -> list[CheckMessage]:
    """Warn when any Host header is served (realtime.W002)."""
    if "*" not in settings.ALLOWED_HOSTS:
        return []
    return [
        Warning(
            "Any Host header is served.",
            hint="Set DJANGO_ALLOWED_HOSTS to the names of this site.",
            id="realtime.W002",
        )
    ]
