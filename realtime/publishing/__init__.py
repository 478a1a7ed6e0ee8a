"""How messages get in: publish(), the outbox and its relay, lines of JSON, NATS and Kafka."""

from realtime.publishing.api import (
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
from realtime.publishing.publication import (
    MAX_APPEND_BYTES,
    MAX_APPEND_MESSAGES,
    MAX_BATCH_BYTES,
    MAX_BATCH_MESSAGES,
    NO_TRACE,
    Publication,
    PublishError,
    apublish_checked,
    check_payload,
    publish_checked,
)

__all__ = [
    "MAX_APPEND_BYTES",
    "MAX_APPEND_MESSAGES",
    "MAX_BATCH_BYTES",
    "MAX_BATCH_MESSAGES",
    "NO_TRACE",
    "Publication",
    "PublishError",
    "apublish",
    "apublish_checked",
    "apublish_many",
    "broadcast_aggregation",
    "broadcast_alert",
    "broadcast_event",
    "broadcast_metrics",
    "broadcast_prediction",
    "broadcast_system_status",
    "check_payload",
    "publish",
    "publish_checked",
    "publish_many",
]
