"""Two hosts with two workers each, two Valkeys, PostgreSQL and nginx in front; and what breaks.

Clients follow numbered streams through nginx: half of them a type of the one Valkey, half a type of
the other. Nothing may be lost or repeated, whatever is killed. ``CLUSTER_CLIENTS=1000 pytest
tests/system/cluster/test_cluster.py`` has more of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import signal
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support import Server, manage, wait_until
from tests.support.certificates import make_certificate
from tests.support.postgresql import running_postgresql
from tests.support.redis_servers import RedisServer
from tests.system.cluster.crowd import CLIENTS, Crowd, Stream
from tests.system.cluster.network import Host, two_hosts
from tests.system.cluster.nginx import Nginx
from tests.system.cluster.test_workers import workers

WORKERS = 2
PORT = 8765
# Seconds for which something is away, and in which everything must be as before: long, since all
# that takes part shares a machine that may have two cores and other tests to run.
AWAY = 3.0
RECOVERY = 120.0
FIRST_HOST, SECOND_HOST = 0, 1


class HostServer(Server):
    """``manage.py serve`` on a host."""

    command = ("serve", "--host", "0.0.0.0", "--port", str(PORT), "--workers", str(WORKERS))

    def __init__(self, host: Host, data_dir: Path, **variables: str) -> None:
        super().__init__(data_dir, **variables)
        self._host = host
        self.may_fail = True  # channels_redis logs tracebacks while a Valkey is away

    def program(self) -> list[str]:
        """Return the command that serves there."""
        return [*self._host.prefix, *super().program()]


class Cluster:
    """Everything that runs."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.hosts = stack.enter_context(two_hosts())
        database = stack.enter_context(running_postgresql("198.18.1.254"))
        self.shards = [
            stack.enter_context(
                RedisServer(
                    folder / f"valkey-{number}",
                    host=host.address,
                    prefix=host.prefix,
                    bind="0.0.0.0",
                    protected_mode="no",
                    appendonly="yes",
                    appendfsync="no",
                )
            )
            for number, host in enumerate(self.hosts)
        ]
        inner = [
            f"redis://{host.inner_address}:{shard.port}"
            for host, shard in zip(self.hosts, self.shards, strict=True)
        ]
        self._folder = folder
        certificate = make_certificate(folder)
        self.variables = {
            "DATABASE_URL": database.url,
            "DJANGO_SECRET_KEY": "the same on all hosts " * 3,
            "DJANGO_TLS": "true",
            "trusted_proxies": "198.18.0.0/16",
            "drain_timeout": "5",
        }
        self.outer = self.variables | {"REDIS_URL": ",".join(shard.url for shard in self.shards)}
        self._inner = self.variables | {"REDIS_URL": ",".join(inner)}
        done = manage("create_token", "all", "--stats", data_dir=folder, **self.outer)
        self.token = done.stdout.strip()
        assert self.token, done
        self.servers: list[HostServer] = []
        for host in self.hosts:
            self.servers.append(self._serve(host))
        addresses = [f"{host.address}:{PORT}" for host in self.hosts]
        self.nginx = stack.enter_context(Nginx(folder / "nginx", addresses, certificate))
        self.trust = ssl.create_default_context(cafile=str(certificate[0]))
        self.url = f"wss://127.0.0.1:{self.nginx.port}/ws/"

    def _serve(self, host: Host) -> HostServer:
        data_dir = self._folder / f"{host.name}-{time.monotonic_ns()}"
        data_dir.mkdir()
        return self._stack.enter_context(HostServer(host, data_dir, **self._inner))

    def serve_again(self, number: int) -> None:
        """Start what ran on a host that was killed."""
        self.shards[number].start()
        self.servers[number] = self._serve(self.hosts[number])

    def get(self, path: str) -> tuple[int, bytes]:
        """Ask through nginx."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.nginx.port, timeout=10, context=self.trust
        )
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
            response = connection.getresponse()
            return response.status, response.read()

    def figures(self) -> dict[str, Any]:
        """Return the figures of the whole."""
        status, body = self.get("/api/stats")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)["cluster"]
        return found

    def is_whole(self) -> bool:
        """Tell whether the figures know every process and every client."""
        found = self.figures()
        return (found["processes"], found["hosts"], found["connections"]) == (
            WORKERS * len(self.hosts),
            1,  # namespaces share the machine's name
            CLIENTS,
        )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster, in a folder that PostgreSQL may enter."""
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        with contextlib.ExitStack() as stack:
            yield Cluster(folder, stack)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print a line of a report, whatever is captured."""

    def print_line(text: str) -> None:
        with capsys.disabled():
            print(f"\n    {text}", end="", flush=True)

    return print_line


@contextlib.asynccontextmanager
async def crowd_of(cluster: Cluster, rate: int) -> AsyncIterator[tuple[Crowd, Stream]]:
    """Have all clients follow so many messages a second; check at the end that all got all."""
    crowd = Crowd(cluster.url, cluster.token, ssl=cluster.trust)
    async with crowd.following():
        stream = Stream(cluster._folder, rate, **cluster.outer)
        try:
            await until(lambda: min(stream.confirmed.values()) > 100)
            yield crowd, stream
        finally:
            await asyncio.to_thread(stream.stop)
        await crowd.until_all_have(stream.confirmed, RECOVERY)
    crowd.check()


async def until(condition: Callable[[], bool], seconds: float = RECOVERY) -> None:
    """Wait for a condition without stopping the loop."""
    await asyncio.to_thread(wait_until, condition, seconds)


async def kill_a_worker(cluster: Cluster) -> None:
    """Another one takes its place."""
    workers(cluster.servers[FIRST_HOST])[0].kill()


async def kill_a_host(cluster: Cluster) -> None:
    """Everything on it ends, its Valkey too; a while later it is started again."""
    await asyncio.to_thread(cluster.hosts[SECOND_HOST].kill)
    await asyncio.sleep(AWAY)
    await asyncio.to_thread(cluster.serve_again, SECOND_HOST)


async def kill_a_shard(cluster: Cluster) -> None:
    """Its types wait until it is back; the others do not."""
    await asyncio.to_thread(cluster.shards[FIRST_HOST].kill)
    await asyncio.sleep(AWAY)
    await asyncio.to_thread(cluster.shards[FIRST_HOST].start)


async def cut_the_link(cluster: Cluster) -> None:
    """Each host's workers lack the other's Valkey; nobody is told, packets are just gone."""
    await asyncio.to_thread(cluster.hosts[FIRST_HOST].disconnect)
    await asyncio.sleep(AWAY)
    await asyncio.to_thread(cluster.hosts[FIRST_HOST].connect)


async def test_what_is_killed_costs_nothing(cluster: Cluster, say: Callable[[str], None]) -> None:
    async with crowd_of(cluster, 100) as (crowd, stream):
        await until(cluster.is_whole)
        for fault in (kill_a_worker, kill_a_host, kill_a_shard, cut_the_link):
            refused = stream.refused
            crowd.take_longest_gaps()
            await fault(cluster)
            mended = time.monotonic()
            # Everything that was published until now, and something of each type that comes now.
            aim = {kind: number + 1 for kind, number in stream.confirmed.items()}
            await crowd.until_all_have(aim, RECOVERY)
            recovered = time.monotonic() - mended
            gap, median = crowd.take_longest_gaps()
            await until(cluster.is_whole)
            say(
                f"{fault.__name__}: all {CLIENTS} have everything {recovered:.1f} s after it was"
                f" mended; longest gap {gap:.1f} s, median {median:.1f} s;"
                f" {stream.refused - refused} attempts to publish refused;"
                f" figures whole after {time.monotonic() - mended:.1f} s"
            )


class Probe:
    """Asks nginx all the time whether clients may come."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self.answers: list[int] = []
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._stop.wait(0.02):
            try:
                self.answers.append(self._cluster.get("/readyz")[0])
            except OSError:
                self.answers.append(0)


async def test_a_rolling_restart_under_load(cluster: Cluster, say: Callable[[str], None]) -> None:
    before = {worker.pid for server in cluster.servers for worker in workers(server)}
    async with crowd_of(cluster, 500) as (crowd, stream):
        crowd.take_longest_gaps()
        started, published = time.monotonic(), sum(stream.confirmed.values())
        with Probe(cluster) as probe:
            for server in cluster.servers:
                done = server.log().count("rolling restart done")
                server.process.send_signal(signal.SIGHUP)
                await until(
                    lambda server=server, done=done: (  # type: ignore[misc]
                        server.log().count("rolling restart done") > done
                    ),
                    RECOVERY,
                )
            await crowd.until_all_have(dict(stream.confirmed), RECOVERY)
        took = time.monotonic() - started
        rate = (sum(stream.confirmed.values()) - published) / took
        gap, median = crowd.take_longest_gaps()
        say(
            f"rolling restart of {WORKERS * len(cluster.hosts)} workers in {took:.1f} s at"
            f" {rate:.0f} messages/s: longest gap of a client {gap:.2f} s, median {median:.2f} s;"
            f" {len(probe.answers)} times ready"
        )
        assert set(probe.answers) == {200}
        assert stream.refused == 0
        after = {worker.pid for server in cluster.servers for worker in workers(server)}
        assert len(after) == WORKERS * len(cluster.hosts) and not before & after
        await until(cluster.is_whole)
