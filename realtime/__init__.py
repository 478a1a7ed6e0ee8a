"""Real-time streaming over WebSockets for Django.

docs/architecture.md has the map: which folder answers which question, and which may import which.

What this package exports is imported when it is first used, since most of it needs Django's apps.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.analytics.aggregation.definitions import aggregation_rule
    from realtime.analytics.alerting.definitions import alert_rule
    from realtime.analytics.predictions.definitions import predictor
    from realtime.config import StreamingConfig, WebSocketConfig, get_streaming_config
    from realtime.protocol import Position
    from realtime.publishing import (
        apublish,
        apublish_many,
        broadcast_aggregation,
        broadcast_alert,
        broadcast_event,
        broadcast_metrics,
        broadcast_prediction,
        broadcast_system_status,
        publish,
        publish_failed,
        publish_many,
    )
    from realtime.publishing.publication import PublishError
    from realtime.server.handle import WebSocketServer, get_stats, get_websocket_server

# Where a name is from; those that are not here are of ``publishing``.
_MODULES = {
    "Position": "protocol",
    "PublishError": "publishing.publication",
    "StreamingConfig": "config",
    "WebSocketConfig": "config",
    "WebSocketServer": "server.handle",
    "aggregation_rule": "analytics.aggregation.definitions",
    "alert_rule": "analytics.alerting.definitions",
    "get_stats": "server.handle",
    "get_streaming_config": "config",
    "get_websocket_server": "server.handle",
    "predictor": "analytics.predictions.definitions",
}

__all__ = [
    "Position",
    "PublishError",
    "StreamingConfig",
    "WebSocketConfig",
    "WebSocketServer",
    "aggregation_rule",
    "alert_rule",
    "apublish",
    "apublish_many",
    "broadcast_aggregation",
    "broadcast_alert",
    "broadcast_event",
    "broadcast_metrics",
    "broadcast_prediction",
    "broadcast_system_status",
    "get_stats",
    "get_streaming_config",
    "get_websocket_server",
    "predictor",
    "publish",
    "publish_failed",
    "publish_many",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'publishing')}"), name)
