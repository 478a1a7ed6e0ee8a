"""What operators read: ``/api/stats``, ``/metrics``, ``stream_stats``, the log of a process."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from realtime.testing.server import manage
from tests.support import ROOT, Server, running, wait_until

# Of the figures of each process, two seconds old at most.
REPORTED = 6.0


def get(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """Two servers of one data directory: a host with two processes."""
    data_dir = tmp_path_factory.mktemp("pair")
    with running(data_dir) as first, running(data_dir) as second:
        yield first, second


@pytest.fixture(scope="module")
def bearer(pair: tuple[Server, Server]) -> dict[str, str]:
    """The header of a token that may see the statistics."""
    return {"Authorization": f"Bearer {pair[0].token('--stats')}"}


def stats(server: Server, bearer: dict[str, str]) -> Any:
    """Return what ``/api/stats`` answers."""
    status, _, body = get(server, "/api/stats", **bearer)
    assert status == 200, body
    return json.loads(body)


def cluster_of(server: Server, bearer: dict[str, str]) -> Any:
    """Return the figures of the whole."""
    return stats(server, bearer)["cluster"]


def metrics(server: Server, bearer: dict[str, str]) -> dict[str, float]:
    """Return the sums over all processes of what ``/metrics`` answers, by name."""
    status, headers, body = get(server, "/metrics", **bearer)
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


async def test_the_figures_of_both_from_either(
    pair: tuple[Server, Server], bearer: dict[str, str]
) -> None:
    first, second = pair
    secret = first.new_token()
    async with AsyncExitStack() as stack:
        pages = []
        for server in (first, first, second):
            page = await stack.enter_async_context(server.connect(secret))
            await page.subscribe("events")
            pages.append(page)
        positions = first.publish("events", *({"n": n} for n in range(10)))
        for page in pages:
            await page.assert_positions(positions)
        for server in pair:
            reached(partial(cluster_of, server, bearer), connections=3)
            wait_until(lambda: metrics(server, bearer)["realtime_delivered_total"] == 30)  # noqa: B023
            cluster = cluster_of(server, bearer)
            assert (cluster["processes"], cluster["hosts"]) == (2, 1)
            assert cluster["subscriptions"]["events"] == 3
            by_process = {one["connections"]: one for one in cluster["by_process"]}
            assert by_process[2]["by_type"]["delivered"]["events"] == 20
            assert by_process[1]["by_type"]["delivered"]["events"] == 10
        assert stats(first, bearer)["process"]["active_clients"] == 2
        assert stats(second, bearer)["process"]["active_clients"] == 1
        sums = metrics(second, bearer)
        assert sums["realtime_connections"] == 3
        assert sums["realtime_delivered_total"] == 30
        assert sums["realtime_publish_to_write_seconds_count"] == 30
        # A connection's own bytes: what is counted is what was sent.
        assert sums["realtime_delivered_bytes_total"] > 30 * 100
        shown = first.manage("stream_stats", "--json")
        assert json.loads(shown.stdout)["connections"] == 3
        # A process that does not serve knows of those that do.
        found = first.administer("from realtime import get_stats; result = get_stats()")
        assert not found["is_running"] and found["cluster"]["connections"] == 3
        table = first.manage("stream_stats")
        assert "2 processes, hosts: 1" in table.stdout and table.stderr == ""
    reached(lambda: metrics(first, bearer), realtime_connections=0, realtime_closes_total=3)


def reached(ask: Callable[[], dict[str, Any]], **wanted: float) -> None:
    """Wait until figures are as wanted."""
    wait_until(lambda: wanted.items() <= ask().items(), REPORTED)


def test_a_process_that_has_gone_is_left_out(data_dir: Path) -> None:
    with running(data_dir) as first:
        bearer = {"Authorization": f"Bearer {first.token('--stats')}"}
        with running(data_dir) as second:
            reached(partial(cluster_of, first, bearer), processes=2)
        reached(partial(cluster_of, first, bearer), processes=1)  # it said goodbye
        with running(data_dir) as second:
            second.may_fail = True
            reached(partial(cluster_of, first, bearer), processes=2)
            second.process.send_signal(signal.SIGKILL)
            wait_until(lambda: stats(first, bearer)["cluster"]["processes"] == 1, 10)


@pytest.mark.parametrize("path", ["/api/stats", "/metrics"])
def test_who_may_see_them(pair: tuple[Server, Server], path: str) -> None:
    server = pair[0]
    secret = server.new_token()
    for headers, wanted, code in (
        ({}, 401, "auth_required"),
        ({"Authorization": "Bearer rt_wrong"}, 401, "auth_required"),
        ({"Authorization": "Basic eDp4"}, 401, "auth_required"),
        ({"Authorization": f"Bearer {secret}"}, 403, "forbidden"),
    ):
        status, answered, body = get(server, path, **headers)
        assert (status, json.loads(body)["code"]) == (wanted, code)
        assert ("WWW-Authenticate" in answered) == (wanted == 401)
    assert "Traceback" not in server.log()


def test_staff_sees_them(pair: tuple[Server, Server]) -> None:
    server = pair[0]
    statements = (
        "from django.test import Client\n"
        "user = User.objects.create_user(name, is_staff=staff)\n"
        "client = Client(); client.force_login(user)\n"
        "result = client.cookies.output()"
    )
    for name, staff, wanted in (("operator", True, 200), ("visitor", False, 403)):
        cookie = SimpleCookie(
            server.administer(statements, name=name, staff=staff).replace("Set-Cookie: ", "")
        )
        header = f"sessionid={cookie['sessionid'].value}"
        assert get(server, "/api/stats", Cookie=header)[0] == wanted


def test_a_log_in_json(data_dir: Path) -> None:
    with running(data_dir, STREAMING_LOG_FORMAT="json") as server:
        server.may_fail = True
        for process in server.valkey():
            process.kill()
        wait_until(lambda: "starting it again" in server.log(), 20)
        lines = [json.loads(line) for line in server.log().splitlines()]
    [line] = [line for line in lines if "starting it again" in line["message"]]
    assert line["level"] == "WARNING" and line["logger"].startswith("realtime.")
    assert line["process"] == server.process.pid and line["time"]


def test_a_log_format_that_there_is_not(data_dir: Path) -> None:
    done = manage("check", data_dir=data_dir, root=ROOT, STREAMING_LOG_FORMAT="xml")
    assert done.returncode == 1
    assert done.stderr.startswith("error: STREAMING_LOG_FORMAT='xml': input should be 'line' or")


def test_figures_without_a_layer(data_dir: Path) -> None:
    done = manage("stream_stats", data_dir=data_dir, root=ROOT, REDIS_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: the channel layer does not answer: ")
    assert len(done.stderr.splitlines()) == 1
