"""Real-time streaming over WebSockets for Django.

The map::

    backend code: publish(), group_send, manage.py publish
          |  append to the log of the type, send to the group realtime.<type>
          v
    log          the newest messages of each type, with epoch and offset
    broker       one channel per subscription type, member of that type's group
    feed         a type's messages in order: from the group, and from the log what it misses
    node         wires broker, hub, authority, statistics; one per event loop
    hub          subscription type -> fan-out groups (equal type and filters) -> connections
    replay       what a subscription receives before it is live: resume and rewind
    connection   one write per fan-out and connection; a bounded buffer
          ^
    session      one client: its rights, its subscriptions, how it ends
    consumers    a WebSocket's conversation: auth, subscribe, unsubscribe, ping
    event_stream the same over plain HTTP, as server-sent events
    authority    who may do what: the policy in force and what tokens grant
    servers      which Redis or Valkey has what; redis: connections to them
    figures      what each process reports of itself, and the whole
    supervisor   serve --workers: one listening socket, and worker processes behind it
    processing   what reads a type's log and publishes to another, shared between processes
    alerting     alert rules: read metrics and aggregations, publish alerts, notify

For those who use it: ``client`` (Python), ``static/realtime`` (JavaScript, and the dashboard),
``testing`` and ``conformance``.

Core, without Django, asyncio or a clock: ``addresses``, ``protocol``, ``draining``, ``filters``,
``frames``, ``hub``, ``limits``, ``origins``, ``sequence``, ``stats``. Everything else is edge.

What this package exports is imported when it is first used, since most of it needs Django's apps.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.alerting.declared import alert_rule
    from realtime.config import StreamingConfig, WebSocketConfig, get_streaming_config
    from realtime.protocol import Position
    from realtime.publishing import (
        PublishError,
        apublish,
        broadcast_aggregation,
        broadcast_alert,
        broadcast_event,
        broadcast_metrics,
        broadcast_prediction,
        broadcast_system_status,
        publish,
        publish_many,
    )
    from realtime.websocket_server import WebSocketServer, get_stats, get_websocket_server

_MODULES = {
    "StreamingConfig": "config",
    "WebSocketConfig": "config",
    "get_streaming_config": "config",
    "Position": "protocol",
    "PublishError": "publishing",
    "apublish": "publishing",
    "broadcast_aggregation": "publishing",
    "broadcast_alert": "publishing",
    "broadcast_event": "publishing",
    "broadcast_metrics": "publishing",
    "broadcast_prediction": "publishing",
    "broadcast_system_status": "publishing",
    "publish": "publishing",
    "publish_many": "publishing",
    "WebSocketServer": "websocket_server",
    "alert_rule": "alerting.declared",
    "get_stats": "websocket_server",
    "get_websocket_server": "websocket_server",
}

__all__ = [
    "Position",
    "PublishError",
    "StreamingConfig",
    "WebSocketConfig",
    "WebSocketServer",
    "alert_rule",
    "apublish",
    "broadcast_aggregation",
    "broadcast_alert",
    "broadcast_event",
    "broadcast_metrics",
    "broadcast_prediction",
    "broadcast_system_status",
    "get_stats",
    "get_streaming_config",
    "get_websocket_server",
    "publish",
    "publish_many",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
