"""The log of each subscription type: dense offsets from 1 and an epoch, kept for a while.

What is appended here is published; the channel layer only makes it fast. Knows storage and
retention, nothing of subscriptions. :class:`RedisLog` serves the layers of channels_redis,
:class:`MemoryLog` Channels' in-memory layer.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import InMemoryChannelLayer, get_channel_layer

from realtime.cluster.servers import has_servers
from realtime.log.contract import (
    NO_POSITION,
    READ_BYTES,
    READ_ENTRIES,
    Append,
    Batch,
    Chunk,
    Entry,
    Log,
    LogUnavailable,
    pack,
    position_text,
    read_position,
    unpack,
)
from realtime.log.memory import MemoryLog
from realtime.log.redis import RedisLog

__all__ = [
    "NO_POSITION",
    "READ_BYTES",
    "READ_ENTRIES",
    "Append",
    "Batch",
    "Chunk",
    "Entry",
    "Log",
    "LogUnavailable",
    "MemoryLog",
    "RedisLog",
    "get_log",
    "pack",
    "position_text",
    "read_position",
    "unpack",
]

_memory_logs: WeakKeyDictionary[Any, MemoryLog] = WeakKeyDictionary()


def get_log() -> Log:
    """Return the log that belongs to the configured channel layer.

    Raises:
        LogUnavailable: no log belongs to the layer; the system checks say so too.
    """
    layer = get_channel_layer()
    if layer is None:
        raise LogUnavailable("no channel layer is configured")
    if has_servers(layer):
        return RedisLog()
    if isinstance(layer, InMemoryChannelLayer):
        return _memory_logs.setdefault(layer, MemoryLog())
    raise LogUnavailable("the channel layer is neither one of channels_redis nor Channels' own")
