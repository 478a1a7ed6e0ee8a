"""``manage.py relay_outbox``: from a commit to a client, through kills of everything on the way."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import ROOT, Server, client, environment, manage, newest, running, wait_until
from tests.support.postgresql import PostgreSQL, running_postgresql

WRITE = """
from django.db import transaction
from realtime import publish
for start in range(0, count, 10):
    with transaction.atomic():
        for n in range(start, start + 10):
            publish(kind, {"n": n}, durable=True)
"""


class Site(NamedTuple):
    """A server, and the database it and the relays use."""

    server: Server
    postgresql: PostgreSQL | None
    variables: dict[str, str]


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[Site]:
    """A server on either database."""
    with ExitStack() as stack:
        postgresql, variables = None, {"history_size": "100000"}
        if request.param == "postgresql":
            postgresql = stack.enter_context(running_postgresql())
            variables["DATABASE_URL"] = postgresql.url
        server = stack.enter_context(running(data_dir, **variables))
        yield Site(server, postgresql, variables)


class Relaying:
    """A relay's process."""

    def __init__(self, site: Site, *arguments: str) -> None:
        self._log = site.server.data_dir / f"relay-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "manage.py"), "relay_outbox", *arguments],
                env=environment(site.server.data_dir, **site.variables),
                cwd=ROOT,
                stderr=log,
            )

    def said(self) -> str:
        """Return what it has said."""
        return self._log.read_text()

    def is_working(self) -> bool:
        """Tell whether its turn has come."""
        return "relay_outbox: publishing\n" in self.said()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@contextmanager
def relaying(site: Site, *arguments: str) -> Iterator[Relaying]:
    """Run a relay."""
    relay = Relaying(site, *arguments)
    try:
        yield relay
    finally:
        relay.kill()


def waiting(site: Site) -> int:
    """Return how many messages are in the outbox."""
    count: int = site.server.administer(
        "from realtime.publishing.outbox import OutboxMessage\n"
        "result = OutboxMessage.objects.count()"
    )
    return count


def outbox_figures(site: Site, token: str) -> dict[str, float]:
    """Return what Prometheus is told of the outbox."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{site.server.port}/metrics", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request) as response:
        text = response.read().decode()
    return {
        sample.labels.get("state", sample.name): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "outbox" in sample.name
    }


def test_prometheus_sees_what_waits(site: Site) -> None:
    token = site.server.token("--stats")
    nothing = {"waiting": 0, "parked": 0, "realtime_outbox_oldest_seconds": 0}
    assert outbox_figures(site, token) == nothing
    site.server.administer(WRITE, kind="events", count=10)
    found = outbox_figures(site, token)
    assert (found["waiting"], found["parked"]) == (10, 0)
    assert 0 < found["realtime_outbox_oldest_seconds"] < 60
    with relaying(site, "--once") as relay:
        assert relay.process.wait(30) == 0
    assert outbox_figures(site, token) == nothing


def test_a_relay_ends_in_order(site: Site) -> None:
    site.server.administer(WRITE, kind="events", count=10)
    with relaying(site) as relay:
        wait_until(lambda: waiting(site) == 0)
        relay.process.send_signal(signal.SIGTERM)
        assert relay.process.wait(10) == 0
        assert relay.said() == "relay_outbox: publishing\nrelay_outbox: stopped; published 10\n"
    site.server.administer(WRITE, kind="events", count=10)
    with relaying(site, "--once") as relay:
        assert relay.process.wait(20) == 0
    assert waiting(site) == 0


async def test_nothing_is_lost_or_doubled_when_relays_are_killed(site: Site) -> None:
    """Two relays, of which one works; it is killed again and again while messages are written."""
    token = site.server.token()
    count = 2000
    kinds = ("events", "alerts")
    before = {kind: await newest(site.server, token, kind) for kind in kinds}

    def write() -> None:
        for kind in kinds:
            site.server.administer(WRITE, kind=kind, count=count)

    writing = threading.Thread(target=write)
    writing.start()
    relays = [Relaying(site), Relaying(site)]
    try:
        kills = 0
        while writing.is_alive() or kills < 6:
            # Whichever was the first to take its turn.
            wait_until(lambda: any(relay.is_working() for relay in relays), 30)
            working = next(relay for relay in relays if relay.is_working())
            working.kill()
            relays.remove(working)
            kills += 1
            relays.append(Relaying(site))
        writing.join()
        wait_until(lambda: waiting(site) == 0, 30)
    finally:
        for relay in relays:
            relay.kill()
    for kind in kinds:
        assert (await newest(site.server, token, kind))["offset"] == before[kind]["offset"] + count
        async with client(site.server, token) as page:
            await page.subscribed(kind, resume=before[kind])
            assert [(await page.assert_data(kind))["n"] for _ in range(count)] == [*range(count)]


async def test_another_relay_takes_over(site: Site) -> None:
    token = site.server.token()
    with relaying(site) as first:
        wait_until(first.is_working, 30)
        with relaying(site) as second:
            wait_until(lambda: "waiting for it to end" in second.said(), 30)
            assert not second.is_working()
            first.kill()
            async with client(site.server, token) as page:
                await page.subscribe("events")
                site.server.administer(WRITE, kind="events", count=10)
                assert [(await page.assert_data("events"))["n"] for _ in range(10)] == [*range(10)]


async def test_a_log_that_is_away(site: Site) -> None:
    token = site.server.token()
    site.server.may_fail = True
    async with client(site.server, token) as page:
        await page.subscribe("events")
        with relaying(site) as relay:
            wait_until(relay.is_working, 30)
            (valkey,) = site.server.valkey()
            valkey.suspend()
            site.server.administer(WRITE, kind="events", count=20)
            wait_until(
                lambda: "WARNING realtime.publishing.relay: events: the channel" in relay.said(), 30
            )
            assert "Traceback" not in relay.said()
            valkey.resume()
            assert [(await page.assert_data("events"))["n"] for _ in range(20)] == [*range(20)]
            wait_until(lambda: waiting(site) == 0)


@contextmanager
def _outage(postgresql: PostgreSQL) -> Iterator[None]:
    postgresql.kill()
    yield
    postgresql.start()


async def test_a_database_that_is_away(data_dir: Path) -> None:
    with running_postgresql() as postgresql:
        variables = {"DATABASE_URL": postgresql.url}
        with running(data_dir, **variables) as server:
            site = Site(server, postgresql, variables)
            token = server.token()
            async with client(server, token) as page:
                await page.subscribe("events")
                with relaying(site) as relay, relaying(site) as other:
                    # Whichever was the first to take its turn; both say what is wrong.
                    wait_until(lambda: relay.is_working() or other.is_working(), 30)
                    with _outage(postgresql):
                        wait_until(lambda: relay.said().count("does not answer") >= 2, 30)
                    server.administer(WRITE, kind="events", count=10)
                    found = [(await page.assert_data("events"))["n"] for _ in range(10)]
                    assert found == [*range(10)]
                    assert "Traceback" not in relay.said()
                    assert other.process.poll() is None


def test_without_tables_it_says_what_to_do(data_dir: Path) -> None:
    with running_postgresql(empty=True) as postgresql:
        done = manage("relay_outbox", data_dir=data_dir, DATABASE_URL=postgresql.url)
        assert done.returncode == 1
        assert done.stderr == "CommandError: the database lacks tables: run manage.py migrate\n"
