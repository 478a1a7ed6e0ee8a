"""What the processes that share a channel layer know of each other.

:func:`get_cluster` decides whether they meet in Redis or whether this process is alone: nothing
else asks that.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer

from realtime.cluster.layer import uses_redis
from realtime.cluster.local import LocalCluster
from realtime.cluster.redis import RedisCluster

_redis_cluster = RedisCluster()
_local_clusters: WeakKeyDictionary[Any, LocalCluster] = WeakKeyDictionary()
# Without a channel layer a process is alone too.
_without_layer = LocalCluster()


def get_cluster() -> LocalCluster | RedisCluster:
    """Return the cluster that belongs to the configured channel layer."""
    layer = get_channel_layer()
    if layer is None:
        return _without_layer
    if uses_redis(layer):
        return _redis_cluster
    return _local_clusters.setdefault(layer, LocalCluster())
