"""Servers that are not fit: a start says so, a check says so, and a probe."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from realtime.cluster.stores import CLUSTER, find_fault
from tests.support import Server, free_port, manage, running, wait_until
from tests.support.redis_servers import RedisServer, installed_redis

pytestmark = pytest.mark.processes

FULL = {"maxmemory": 10_000_000, "maxmemory_policy": "volatile-lru"}


@pytest.mark.parametrize(
    ("info", "word"),
    [
        ({}, ""),
        ({"cluster_enabled": 0, "maxmemory": 0, "maxmemory_policy": "allkeys-lru"}, ""),
        ({"cluster_enabled": 0, "maxmemory": 1000, "maxmemory_policy": "noeviction"}, ""),
        ({"cluster_enabled": 1}, "Redis Cluster"),
        (FULL, "volatile-lru"),
        (FULL | {"maxmemory_policy": "allkeys-random"}, "allkeys-random"),
    ],
)
def test_what_a_server_says_of_itself(info: dict[str, Any], word: str) -> None:
    fault = find_fault(info)
    assert word in fault and bool(fault) == bool(word)


def test_eviction_may_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMING_ALLOW_EVICTION", "true")
    assert find_fault(FULL) == ""
    assert find_fault(FULL | {"cluster_enabled": 1}) == CLUSTER


@pytest.fixture(params=["cluster", "eviction"])
def unfit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[RedisServer, str]]:
    """A server, and what is wrong with it."""
    options = {"maxmemory": "50mb", "maxmemory_policy": "volatile-lru"}
    binary, word = "", "volatile-lru"
    if request.param == "cluster":
        options = {"cluster_enabled": "yes", "cluster_port": str(free_port())}
        binary, word = installed_redis(), "Redis Cluster"
    with RedisServer(tmp_path / "unfit", binary, **options) as server:
        yield server, word


def test_a_start_refuses_it(unfit: tuple[RedisServer, str], data_dir: Path) -> None:
    server, word = unfit
    for command in (["serve", "--port", "0"], ["run_alerts"], ["relay_outbox"]):
        done = manage(*command, data_dir=data_dir, REDIS_URL=server.url)
        assert done.returncode == 1, command
        assert done.stderr.startswith("CommandError: REDIS_URL: Server(redis://127.0.0.1:")
        assert word in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = manage("check", "--deploy", data_dir=data_dir, REDIS_URL=server.url)
    assert "realtime.E002" in done.stderr and word in done.stderr


def probe(server: Server) -> tuple[int, Any]:
    """Ask whether clients may come."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with closing(connection):
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_a_probe_tells_of_one_that_becomes_unfit(tmp_path: Path, data_dir: Path) -> None:
    with (
        RedisServer(tmp_path / "server", maxmemory="50mb") as store,
        running(data_dir, REDIS_URL=store.url) as server,
    ):
        assert probe(server)[0] == 200
        store.client().config_set("maxmemory-policy", "allkeys-lru")
        wait_until(lambda: probe(server)[0] == 503, 20)
        assert probe(server)[1]["causes"] == ["a server in REDIS_URL is not fit"]
        assert "with its maxmemory-policy allkeys-lru it removes messages" in server.log()
        store.client().config_set("maxmemory-policy", "noeviction")
        wait_until(lambda: probe(server)[0] == 200, 20)
