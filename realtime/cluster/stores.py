"""Whether the Redis or Valkey servers are fit for what they are to keep.

Knows what such a server says of itself; nothing of what is kept there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from realtime.cluster.clients import Unavailable, ask, ask_blocking
from realtime.cluster.layer import layer_servers
from realtime.config import read_site_config

CLUSTER = "it is a node of a Redis Cluster: name servers that stand alone, or their Sentinels"
EVICTS = (
    "with its maxmemory-policy {} it removes messages, idempotency keys and the state of rules "
    "without a word when it is full: set noeviction, or STREAMING_ALLOW_EVICTION=true"
)


def find_fault(info: Mapping[str, Any]) -> str:
    """Return why a server is not fit, from what ``INFO`` says; "" if it is fit."""
    if info.get("cluster_enabled"):
        return CLUSTER
    policy = info.get("maxmemory_policy", "noeviction")
    evicts = bool(info.get("maxmemory")) and policy != "noeviction"
    if evicts and not read_site_config().streaming_allow_eviction:
        return EVICTS.format(policy)
    return ""


def check_stores() -> list[str]:
    """Return what is wrong with which server, of those that answer; from any thread."""
    infos = []
    for server in layer_servers():
        try:
            infos.append(ask_blocking(server, lambda client: client.info()))
        except Unavailable:
            infos.append({})
    return _name_faults(infos)


async def acheck_stores() -> list[str]:
    """The coroutine form of :func:`check_stores`, which asks all at the same time."""
    questions = (ask(server, Redis.info) for server in layer_servers())
    answers = await asyncio.gather(*questions, return_exceptions=True)
    return _name_faults([{} if isinstance(answer, Unavailable) else answer for answer in answers])


def _name_faults(infos: list[Any]) -> list[str]:
    faults = [
        (server, find_fault(info)) for server, info in zip(layer_servers(), infos, strict=True)
    ]
    return [f"{server!r}: {fault}" for server, fault in faults if fault]
