"""Servers that are not fit: a start says so, a check says so, and a probe."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from realtime.cluster.layer import layer_servers
from realtime.cluster.stores import CLUSTER, Evictions, find_fault
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
    for command in (
        ["serve", "--port", "0"],
        ["run_alerts"],
        ["relay_outbox"],
        ["publish", "events", "{}"],
        ["runserver", "--noreload", str(free_port())],
    ):
        done = manage(*command, data_dir=data_dir, REDIS_URL=server.url)
        assert done.returncode == 1, command
        assert done.stderr.startswith("CommandError: REDIS_URL: Server(redis://127.0.0.1:")
        assert word in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = manage("check", "--deploy", data_dir=data_dir, REDIS_URL=server.url)
    assert "realtime.E002" in done.stderr and word in done.stderr


def test_figures_name_a_cluster(unfit: tuple[RedisServer, str], data_dir: Path) -> None:
    server, word = unfit
    done = manage("stream_stats", data_dir=data_dir, REDIS_URL=server.url)
    # Of a server that only evicts, figures can be read, and are needed.
    is_cluster = "Cluster" in word
    assert (done.returncode, word in done.stderr) == (int(is_cluster), is_cluster)


def test_what_servers_remove_is_counted_from_the_first_look_on() -> None:
    [server] = layer_servers()
    evictions = Evictions()
    looks: list[dict[str, int]] = [{"evicted_keys": number} for number in (7, 7, 9, 1, 0, 0)]
    looks.insert(3, {})  # it does not answer
    counts = [evictions.count([look]) for look in looks]
    assert counts == [{}, {}, {server: 2}, {}, {server: 1}, {}, {}]


def test_eviction_is_counted_and_logged(tmp_path: Path, data_dir: Path) -> None:
    options = {"maxmemory": "20mb", "maxmemory_policy": "volatile-lru"}
    with (
        RedisServer(tmp_path / "server", **options) as store,
        running(data_dir, REDIS_URL=store.url, STREAMING_ALLOW_EVICTION="true") as server,
    ):

        def evicted() -> int:
            done = manage("stream_stats", "--json", data_dir=data_dir, REDIS_URL=store.url)
            return int(json.loads(done.stdout)["evicted_keys"])

        assert probe(server)[0] == 200  # it has looked once
        with closing(store.client()) as client:
            for number in range(400):
                client.set(f"other:{number}", b"x" * 100_000, ex=3600)
            removed = client.info()["evicted_keys"]
        assert removed > 0
        wait_until(lambda: evicted() > 0, 30)
        assert "is full and has removed" in server.log()
        assert probe(server)[0] == 200


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
