"""A process's counters, and the document's statistics made of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from realtime.protocol import SUBSCRIPTION_TYPES

if TYPE_CHECKING:
    from realtime.config import WebSocketConfig


@dataclass(slots=True)
class Stats:
    """Counters since the process started; ``active_clients`` and subscriptions are current."""

    is_running: bool = False
    active_clients: int = 0
    total_connections: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    authenticated: int = 0
    auth_failures: int = 0
    rate_limited: int = 0
    slow_consumers: int = 0
    refused_connections: int = 0
    subscriptions: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(SUBSCRIPTION_TYPES, 0)
    )
    published: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUBSCRIPTION_TYPES, 0))

    def report(self, config: WebSocketConfig) -> dict[str, Any]:
        """Return the figures under the documented keys, and more.

        ``messages_sent`` counts data messages and replies to clients; ``messages_published``
        counts, by type, messages that reached this process through the channel layer.
        """
        return {
            "is_running": self.is_running,
            "active_clients": self.active_clients,
            "total_connections": self.total_connections,
            "total_subscriptions": sum(self.subscriptions.values()),
            "messages_sent": self.messages_sent,
            "messages_received": self.messages_received,
            "config": {
                "host": config.host,
                "port": config.port,
                "max_connections": config.max_connections,
                "require_auth": config.require_auth,
            },
            "authenticated": self.authenticated,
            "auth_failures": self.auth_failures,
            "rate_limited": self.rate_limited,
            "slow_consumers": self.slow_consumers,
            "refused_connections": self.refused_connections,
            "subscriptions_by_type": dict(self.subscriptions),
            "messages_published": dict(self.published),
        }
