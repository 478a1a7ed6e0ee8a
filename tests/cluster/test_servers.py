"""Where the channel layer's servers are, in all the ways channels_redis lets one say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from channels.layers import get_channel_layer
from django.test import override_settings

from realtime.cluster.layer import group_address, group_name, key, layer_servers
from realtime.cluster.servers import Server, layer_hosts, layer_prefix
from realtime.config import ConfigurationError
from realtime.protocol import SUBSCRIPTION_TYPES

LOCAL = "redis://localhost:6379"


def layers(**config: Any) -> Any:
    """Use the site's channel layer with this configuration."""
    layer = {"BACKEND": "realtime.cluster.layer.StreamLayer", "CONFIG": config}
    return override_settings(CHANNEL_LAYERS={"default": layer})


@pytest.mark.parametrize(
    ("host", "server"),
    [
        ("rediss://example.com:6380/1", Server("rediss://example.com:6380/1")),
        (("example.com", 6380), Server("redis://example.com:6380")),
        ({"host": "example.com"}, Server("redis://example.com:6379")),
        (
            {"host": "example.com", "port": 6380, "password": "x", "db": 2},
            Server("redis://example.com:6380", (("db", 2), ("password", "x"))),
        ),
        (
            {"address": LOCAL, "username": "u", "socket_timeout": 99, "retry": None},
            Server(LOCAL, (("username", "u"),)),
        ),
    ],
)
def test_a_server_is_read_as_channels_redis_reads_it(host: Any, server: Server) -> None:
    with layers(hosts=[host]):
        assert layer_servers() == (server,)


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("redis://example.com", "realtime"),
        ("redis://example.com/0", "realtime"),
        ("redis://example.com/1", "realtime@1"),
        ("unix:///run/valkey.sock?db=4", "realtime@4"),
        ("redis+sentinel://example.com/service/2", "realtime@2"),
        ("redis://one.example.com/1,redis://two.example.com/1", "realtime@1"),
        ("redis://one.example.com/0,redis://two.example.com/1", "realtime@0-1"),
        ("redis://one.example.com/1,redis://two.example.com/0", "realtime@1-0"),
    ],
)
def test_a_database_has_groups_of_its_own_and_the_same_keys(
    url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert layer_prefix(tmp_path) == prefix
    with layers(hosts=layer_hosts(tmp_path), prefix=prefix):
        assert group_address("events")[1] == f"{prefix}__group__realtime.events"
        assert key("name") == "realtime:name"
    monkeypatch.setenv("REDIS_PREFIX", "staging")
    assert layer_prefix(tmp_path) == prefix.replace("realtime", "staging")


@pytest.mark.parametrize("prefix", ["", "a b", "a@1", "x" * 65, "é"])
def test_a_prefix_is_a_word(prefix: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_PREFIX", prefix)
    if not prefix:  # as if it were not set
        assert layer_prefix(tmp_path) == "realtime"
        return
    with pytest.raises(ConfigurationError, match="REDIS_PREFIX"):
        layer_prefix(tmp_path)


@pytest.mark.parametrize("config", [{}, {"hosts": []}, {"hosts": None}])
def test_without_any_it_is_the_local_one(config: dict[str, Any]) -> None:
    with layers(**config):
        assert layer_servers() == (Server(LOCAL),)


def test_our_time_limits_are_the_layers_too(tmp_path: Path) -> None:
    with layers(hosts=layer_hosts(tmp_path)):
        assert layer_servers() == (Server(f"unix://{tmp_path}/valkey.sock"),)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("prefix", ["p", "realtime@1", "realtime@0-1"])
async def test_a_types_server_is_the_one_that_carries_its_group(count: int, prefix: str) -> None:
    hosts = [f"redis://example.com:{port}" for port in range(6379, 6379 + count)]
    with layers(hosts=hosts, prefix=prefix):
        layer: Any = get_channel_layer()
        used = set()
        for kind in SUBSCRIPTION_TYPES:
            server, channel = group_address(kind)
            of_this_loop = layer._get_layer()
            assert channel == of_this_loop._get_group_channel_name(group_name(kind))
            assert server.url == of_this_loop._get_shard(channel).host["address"]
            used.add(server)
        assert count == 1 or len(used) > 1
