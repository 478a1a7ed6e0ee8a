"""The log of each subscription type: its newest messages, with an epoch and dense offsets.

A message that is appended here is published; the channel layer only makes it fast. Knows storage
and retention, nothing of subscriptions. :class:`RedisLog` serves the pub/sub layer of
channels_redis, :class:`MemoryLog` Channels' in-memory layer.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import InMemoryChannelLayer, get_channel_layer

from realtime.cluster.clients import Unavailable
from realtime.cluster.layer import uses_redis
from realtime.log.contract import MemoryLog
from realtime.log.redis import RedisLog

Log = MemoryLog | RedisLog

_redis_log = RedisLog()
_memory_logs: WeakKeyDictionary[Any, MemoryLog] = WeakKeyDictionary()


def get_log() -> Log:
    """Return the configured channel layer's log.

    Raises ``Unavailable`` if none belongs to it; the system check realtime.E001 says so too.
    """
    layer = get_channel_layer()
    if layer is None:
        raise Unavailable("no channel layer is configured")
    if uses_redis(layer):
        return _redis_log
    if isinstance(layer, InMemoryChannelLayer):
        return _memory_logs.setdefault(layer, MemoryLog())
    raise Unavailable(
        "the layer is neither the pub/sub layer of channels_redis nor Channels' in-memory layer"
    )
