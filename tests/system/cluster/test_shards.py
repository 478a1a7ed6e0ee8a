"""Several servers in ``REDIS_URL``: types are spread over them, and one that is away takes its own.

With real servers: also with TLS and a password, and behind a Sentinel.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from realtime.client import StreamingClient
from realtime.protocol import SUBSCRIPTION_TYPES
from tests.support import Server, client, lacks, manage, running, wait_until
from tests.support.certificates import make_certificate
from tests.support.redis_servers import RedisServer, SentinelServer, installed_redis

# Which of two servers has which type: channels_redis chooses by the group's name.
FIRST, SECOND = ("metrics", "predictions", "aggregations"), ("events", "alerts", "system_status")
SETTINGS = {"rate_limit_per_minute": "100000"}


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Two servers that keep what they have when they are killed."""
    options = {"appendonly": "yes", "appendfsync": "no"}
    with (
        RedisServer(tmp_path / "first", **options) as first,
        RedisServer(tmp_path / "second", **options) as second,
    ):
        yield [first, second]


def urls(shards: list[RedisServer]) -> dict[str, str]:
    """Return the variable that names the servers."""
    return {"REDIS_URL": ",".join(shard.url for shard in shards)}


async def await_publishable(server: Server, kind: str, payload: dict[str, Any]) -> None:
    """Publish as soon as it can be."""
    while await asyncio.to_thread(server.try_to_publish, kind, payload) != "published":  # noqa: ASYNC110
        await asyncio.sleep(0.1)


def count_processes(data_dir: Path, shards: list[RedisServer]) -> int:
    """Return how many processes ``stream_stats`` knows."""
    done = manage("stream_stats", "--json", data_dir=data_dir, **urls(shards))
    count: int = json.loads(done.stdout)["processes"]
    return count


def get(server: Server, path: str, token: str = "") -> tuple[int, Any]:
    """Ask for JSON; return the status and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def test_each_type_is_on_one_of_them(data_dir: Path, shards: list[RedisServer]) -> None:
    with running(data_dir, **SETTINGS, **urls(shards)) as server:
        for kind in SUBSCRIPTION_TYPES:
            server.publish(kind, {"n": 1})
        for shard, kinds in zip(shards, (FIRST, SECOND), strict=True):
            logs: Any = shard.client().keys("*:log")
            assert set(logs) == {f"realtime:{{{kind}}}:log".encode() for kind in kinds}


@pytest.mark.parametrize("which", [0, 1])
async def test_one_that_is_away_takes_only_its_types(
    data_dir: Path, shards: list[RedisServer], which: int
) -> None:
    lost, kept = (FIRST, SECOND) if which == 0 else (SECOND, FIRST)
    with running(data_dir, "--workers", "2", **SETTINGS, **urls(shards)) as server:
        server.may_fail = True  # channels_redis logs its receiver's failures
        token = server.new_token(can_view_stats=True)
        async with StreamingClient(server.url, token) as page:
            streams = {kind: await page.subscribe(kind) for kind in SUBSCRIPTION_TYPES}
            for kind in SUBSCRIPTION_TYPES:
                server.publish(kind, {"n": 0})
            shards[which].kill()
            for kind in kept:
                for n in (1, 2):
                    server.publish(kind, {"n": n})
            for kind in lost:
                assert server.try_to_publish(kind, {"n": 1}).startswith("error: ")
            # Clients that come now have the types that are there, new ones of a process too.
            for _ in range(2):
                async with client(server, token) as other:
                    for kind in kept:
                        answer = await other.subscribed(kind)
                        assert answer["offset"] == 3
                    request = {"type": "subscribe", "data": {"type": lost[0]}}
                    reply = await other.call(request)
                    if reply["type"] != "subscribed":  # this process has no subscriber of it yet
                        assert reply["data"]["code"] == "unavailable", reply
            # Processes find each other where they can.
            assert get(server, "/readyz") == (200, {"status": "ready"})
            await asyncio.to_thread(wait_until, lambda: count_processes(data_dir, shards) == 2)
            await asyncio.to_thread(
                wait_until, lambda: get(server, "/api/stats", token)[1]["cluster"]["processes"] == 2
            )
            # How long a log is that does not answer, nobody says.
            await asyncio.to_thread(
                wait_until,
                lambda: set(get(server, "/api/stats", token)[1]["cluster"]["log"]) == set(kept),
            )
            shards[which].start()
            for kind in lost:
                await asyncio.wait_for(await_publishable(server, kind, {"n": 1}), 30)
                server.publish(kind, {"n": 2})
            for kind, stream in streams.items():
                async with asyncio.timeout(20):
                    numbers = [(await anext(stream)).payload["n"] for _ in range(3)]
                assert numbers == [0, 1, 2], kind
            await asyncio.to_thread(
                wait_until, lambda: get(server, "/api/stats", token)[1]["cluster"]["processes"] == 2
            )


@pytest.mark.parametrize("which", [0, 1])
async def test_one_that_hangs_does_not_make_a_server_unready(
    data_dir: Path, shards: list[RedisServer], which: int
) -> None:
    with running(data_dir, **SETTINGS, **urls(shards)) as server:
        server.may_fail = True  # channels_redis logs its receiver's failures
        async with client(server, server.new_token()) as page:
            for kind in ("events", "metrics"):
                await page.subscribe(kind)
            shards[which].pause()
            for _ in range(20):
                assert get(server, "/readyz") == (200, {"status": "ready"})
                await asyncio.sleep(0.2)  # so that some meet connections that are being made
            shards[which].resume()
        assert "not ready" not in server.log()


def test_all_away_is_not_ready(data_dir: Path, shards: list[RedisServer]) -> None:
    with running(data_dir, **SETTINGS, **urls(shards)) as server:
        server.may_fail = True
        for shard in shards:
            shard.kill()
        causes = ["the channel layer does not answer"]
        assert get(server, "/readyz") == (503, {"status": "unavailable", "causes": causes})
        done = manage("stream_stats", data_dir=data_dir, **urls(shards))
        assert done.returncode == 1 and "does not answer" in done.stderr
        assert done.stderr.count("\n") == 1


# TLS and passwords


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[tuple[RedisServer, Path]]:
    """A Redis that speaks only TLS and wants a password, and the certificate to trust."""
    binary = installed_redis()
    if not binary:
        lacks("no redis-server on PATH: the embedded server does not speak TLS")
    certificate, key = make_certificate(tmp_path)
    options = {
        "port": "0",
        "requirepass": "open sesame".replace(" ", "-"),
        "tls_cert_file": str(certificate),
        "tls_key_file": str(key),
        "tls_auth_clients": "no",
    }
    server = RedisServer(tmp_path / "redis", binary, **options)
    server._options["tls-port"] = str(server.port)
    server.url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={certificate}"
    with server:
        yield server, certificate


async def test_tls_and_a_password(data_dir: Path, encrypted: tuple[RedisServer, Path]) -> None:
    redis, certificate = encrypted
    host = f"127.0.0.1:{redis.port}"
    url = f"rediss://:open-sesame@{host}/1?ssl_ca_certs={certificate}"
    with running(data_dir, REDIS_URL=url, **SETTINGS) as server:
        token = server.new_token()
        async with client(server, token) as page:
            await page.subscribe("events")
            server.publish("events", {"n": 1})
            assert await page.assert_data("events") == {"n": 1}
        done = manage("publish", "events", '{"n": 2}', data_dir=data_dir, REDIS_URL=url)
        assert done.returncode == 0, done
    for wrong in (
        f"rediss://:wrong@{host}?ssl_ca_certs={certificate}",
        f"rediss://:open-sesame@{host}",  # whose certificate nobody knows
        f"redis://:open-sesame@{host}",
    ):
        done = manage("publish", "events", "{}", data_dir=data_dir, REDIS_URL=wrong)
        assert done.returncode != 0
        assert done.stderr.count("\n") == 1, done.stderr
        assert "sesame" not in done.stderr


# Two sites


@pytest.mark.parametrize("databases", [("0", "1"), ("01", "10"), ("11", "22")])
async def test_two_sites_on_two_databases_hear_nothing_of_each_other(
    data_dir: Path, tmp_path: Path, databases: tuple[str, str]
) -> None:
    send = (
        "from asgiref.sync import async_to_sync\n"
        "message = {'type': 'stream.message', 'payload': payload}\n"
        "async_to_sync(get_channel_layer().group_send)('realtime.events', message)"
    )
    other_dir = tmp_path / "other"
    other_dir.mkdir()
    with (
        RedisServer(tmp_path / "a") as a,
        RedisServer(tmp_path / "b") as b,
        contextlib.ExitStack() as sites,
    ):
        first, second = (
            sites.enter_context(
                running(
                    directory,
                    REDIS_URL=",".join(
                        f"{store.url}/{n}" for store, n in zip((a, b), numbers, strict=False)
                    ),
                    **SETTINGS,
                )
            )
            for directory, numbers in zip((data_dir, other_dir), databases, strict=True)
        )
        async with (
            client(first, first.new_token()) as page,
            client(second, second.new_token()) as other,
        ):
            await page.subscribe("events")
            await other.subscribe("events")
            second.administer(send, payload={"n": 2})
            second.publish("events", {"n": 22})
            first.administer(send, payload={"n": 1})
            first.publish("events", {"n": 11})
            assert [await other.assert_data("events") for _ in range(2)] == [{"n": 2}, {"n": 22}]
            assert [await page.assert_data("events") for _ in range(2)] == [{"n": 1}, {"n": 11}]


# Sentinels


async def test_a_sentinel_replaces_the_server(data_dir: Path, tmp_path: Path) -> None:
    service = "streaming"
    first = RedisServer(tmp_path / "first", repl_diskless_sync_delay="0")
    with first, RedisServer(tmp_path / "second", replicaof=f"127.0.0.1 {first.port}") as second:
        wait_until(lambda: _is_linked(second))
        with SentinelServer(tmp_path / "sentinel", service, first) as sentinel:
            wait_until(lambda: len(sentinel.client().sentinel_slaves(service)) == 1)
            url = f"redis+sentinel://127.0.0.1:{sentinel.port},127.0.0.1:1/{service}"
            with running(data_dir, REDIS_URL=url, **SETTINGS) as server:
                server.may_fail = True
                token = server.new_token()
                async with StreamingClient(server.url, token) as page:
                    events = await page.subscribe("events")
                    for n in range(5):
                        server.publish("events", {"n": n})
                    wait_until(lambda: _newest(second) == b"5")
                    first.kill()
                    async with asyncio.timeout(30):
                        await await_publishable(server, "events", {"n": 5})
                        server.publish("events", {"n": 6})
                        assert [(await anext(events)).payload["n"] for _ in range(7)] == [*range(7)]
                assert second.client().role()[0] == b"master"
                # The old one comes back as a replica; nobody writes to it.
                first.start()
                wait_until(lambda: _is_replica(first), 30)
                server.publish("events", {"n": 7})
                wait_until(lambda: get(server, "/readyz")[0] == 200)


def _newest(server: RedisServer) -> Any:
    return server.client().hget("realtime:{events}:head", "offset")


def _is_replica(server: RedisServer) -> bool:
    try:
        return server.client().role()[0] in (b"slave", b"replica")
    except redis.ConnectionError:  # a Sentinel that gives a server its role ends its connections
        return False


def _is_linked(replica: RedisServer) -> bool:
    return bool(replica.client().info("replication")["master_link_status"] == "up")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("127.0.0.1:6379", "no URL"),
        ("http://127.0.0.1", "unknown scheme 'http'"),
        ("redis://:hush@one,two", "each server needs a scheme of its own"),
        ("redis://:hush@one:port", "Port could not be cast"),
        ("redis://one,redis+sentinel://:hush@two", "the service's name is missing"),
        ("redis+sentinel:///service", "a Sentinel's address is missing"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(data_dir: Path, url: str, said: str) -> None:
    done = manage("check", data_dir=data_dir, REDIS_URL=url)
    assert done.returncode == 1
    assert done.stderr.startswith("error: REDIS_URL=") and said in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "hush" not in done.stderr
