"""Whether the Redis or Valkey servers are fit for what they are to keep.

Knows what such a server says of itself; nothing of what is kept there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from realtime.cluster.clients import Unavailable, ask, ask_blocking
from realtime.cluster.layer import layer_servers
from realtime.cluster.servers import Server
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
    infos: list[Mapping[str, Any]] = []
    for server in layer_servers():
        try:
            infos.append(ask_blocking(server, lambda client: client.info()))
        except Unavailable:
            infos.append({})
    return name_faults(infos)


async def read_infos(timeout: float) -> list[Mapping[str, Any]]:
    """Return what each server says of itself, empty if it says nothing in so many seconds."""

    async def read(server: Server) -> Mapping[str, Any]:
        try:
            async with asyncio.timeout(timeout):
                return await ask(server, Redis.info)
        except (Unavailable, TimeoutError):
            return {}

    return await asyncio.gather(*map(read, layer_servers()))


def name_faults(infos: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with which server, from what each of them says of itself."""
    faults = zip(layer_servers(), map(find_fault, infos), strict=True)
    return [f"{server!r}: {fault}" for server, fault in faults if fault]


class Evictions:
    """How many keys servers have removed since the first look at each, as they were full."""

    def __init__(self) -> None:
        # Server -> its number at the last look; it begins at 0 when the server starts again.
        self._seen: dict[Server, int] = {}

    def count(self, infos: Sequence[Mapping[str, Any]]) -> dict[Server, int]:
        """Return which servers have removed keys since the last look, and how many."""
        removed: dict[Server, int] = {}
        for server, info in zip(layer_servers(), infos, strict=True):
            if (number := info.get("evicted_keys")) is None:
                continue
            before = self._seen.get(server, number)
            self._seen[server] = number
            if count := number - before if number >= before else number:
                removed[server] = count
        return removed
