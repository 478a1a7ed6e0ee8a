"""Real-time streaming over WebSockets for Django.

The map::

    backend code: publish(), group_send, manage.py publish
          |  append to the log of the type, send to the group realtime.<type>
          v
    log          the newest messages of each type, with epoch and offset
    broker       one channel per subscription type, member of that type's group
    feed         a type's messages in order: from the group, and from the log what it misses
    node         one per event loop: owns the rest, and what it runs besides
    subscriptions how they begin, change and end; join and leave the types' groups
    hub          subscription type -> fan-out groups (equal type and filters) -> connections
    dispatcher   hands messages to whom the hub tells, a few milliseconds at a time; writer: sends
    shaping      what subscriptions want less of; pacing: when they get what was held for them
    replay       what a subscription receives before it is live: resume and rewind
    connection   a WebSocket under Daphne: one write per fan-out; a bounded buffer
          ^
    explain      what of the newest messages a subscription would match, and where not
    session      one client: its rights, its subscriptions, how it ends
    consumers    a WebSocket's conversation: auth, subscribe, unsubscribe, ping
    event_stream the same over plain HTTP, as server-sent events
    http_connection  a request under Daphne, until it is a WebSocket
    ingest       POST /api/publish: payloads in, as they arrive (uploads: under Daphne)
    outbox       rows of a transaction that are to be published; relay: does it
    intake       messages that another system has numbered (consumers of NATS and Kafka)
    authority    who may do what: the policy in force and what tokens grant
    servers      which Redis or Valkey has what; redis: connections to them
    figures      what each process reports of itself, and the whole
    tables       the figures in a terminal; exposition: for Prometheus
    access       the access log: a line for each connection
    tracing      spans from publishing to delivery, for OpenTelemetry
    supervisor   serve --workers: one listening socket, and worker processes behind it
    restarts     when processes that ended are started again
    processing   what reads a log, keeps state and publishes, each message once: runs and shares it
    aggregation  rules that turn messages into figures per window and group, as such processors
    alerting     rules that say when figures are alarming, and who is told
    predictions  what applications declare with @realtime.predictor, as such processors
    discovery    finds what applications declare
    host         figures and health of a host and its serving processes

For those who use it: ``client`` (Python), ``static/realtime`` (JavaScript, and the dashboard),
``testing`` and ``conformance``.

What this package exports is imported when it is first used, since most of it needs Django's apps.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realtime.analytics.aggregation.definitions import aggregation_rule
    from realtime.analytics.alerting.declared import alert_rule
    from realtime.analytics.predictions.definition import predictor
    from realtime.config import StreamingConfig, WebSocketConfig, get_streaming_config
    from realtime.protocol import Position
    from realtime.publishing import (
        PublishError,
        apublish,
        apublish_many,
        broadcast_aggregation,
        broadcast_alert,
        broadcast_event,
        broadcast_metrics,
        broadcast_prediction,
        broadcast_system_status,
        publish,
        publish_many,
    )
    from realtime.server.handle import WebSocketServer, get_stats, get_websocket_server

_MODULES = {
    "StreamingConfig": "config",
    "WebSocketConfig": "config",
    "get_streaming_config": "config",
    "predictor": "analytics.predictions.definition",
    "Position": "protocol",
    "PublishError": "publishing",
    "aggregation_rule": "analytics.aggregation.definitions",
    "apublish": "publishing",
    "apublish_many": "publishing",
    "broadcast_aggregation": "publishing",
    "broadcast_alert": "publishing",
    "broadcast_event": "publishing",
    "broadcast_metrics": "publishing",
    "broadcast_prediction": "publishing",
    "broadcast_system_status": "publishing",
    "publish": "publishing",
    "publish_many": "publishing",
    "WebSocketServer": "server.handle",
    "alert_rule": "analytics.alerting.declared",
    "get_stats": "server.handle",
    "get_websocket_server": "server.handle",
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
    "publish_many",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
