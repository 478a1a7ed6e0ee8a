"""What Prometheus reads of a server is what has happened to it: every metric, number by number."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from realtime.protocol import SUBSCRIPTION_TYPES
from tests.support import Server, locked_database, running, wait_until

# Seconds: figures are reported every two, the lengths of logs every five.
REPORTED = 12.0
RATE_LIMIT = 20

# As if a log's newest messages had been trimmed before anyone read them.
TRIM = """
from realtime.log.redis import log_keys
from realtime.cluster.layer import group_address
from realtime.cluster.clients import sync_client
sync_client(group_address(kind)[0]).hincrby(log_keys(kind)[0], "offset", count)
"""
# As if the channel layer had lost what was published.
APPEND = """
import json, time
from realtime.log import get_log
from realtime.log.contract import Append, Batch, pack
bodies = [json.dumps(payload).encode() for payload in payloads]
get_log().append(Append(kind, [Batch(bodies, pack(bodies))]))
"""


class Figures:
    """What ``/metrics`` says of one server of one process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._bearer = {"Authorization": f"Bearer {server.token('--stats')}"}

    def read(self) -> dict[str, float]:
        """Scrape: ``name{label}`` -> value; the label is the one besides the process."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=10)
        try:
            connection.request("GET", "/metrics", headers=self._bearer)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        assert response.status == 200, text
        found: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = [value for name, value in sample.labels.items() if name != "process"]
                key = sample.name + "".join(f"{{{label}}}" for label in labels)
                assert key not in found, key
                found[key.removeprefix("realtime_")] = sample.value
        return found

    def expect(self, **wanted: float) -> None:
        """Wait until figures are as wanted; ``name__label`` stands for ``name{label}``."""
        named = {_name(name): value for name, value in wanted.items()}
        seen: dict[str, float] = {}

        def are_there() -> bool:
            seen.update(self.read())
            return named.items() <= seen.items()

        try:
            wait_until(are_there, REPORTED)
        except AssertionError:
            raise AssertionError({name: (seen.get(name), named[name]) for name in named}) from None


def _name(name: str) -> str:
    name, _, label = name.partition("__")
    return f"{name}{{{label}}}" if label else name


@pytest.fixture
def server(data_dir: Path) -> Iterator[Server]:
    """A server of its own, whose figures are this test's alone."""
    with running(data_dir, rate_limit_per_minute=str(RATE_LIMIT), history_size="15") as started:
        yield started


@pytest.fixture
def figures(server: Server) -> Figures:
    """What it says of itself."""
    return Figures(server)


async def test_messages_and_bytes_in_and_out(server: Server, figures: Figures) -> None:
    secret = server.new_token()
    payloads = [{"n": n, "text": "é" * n} for n in range(10)]
    payload_bytes = sum(
        len(json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode()) for one in payloads
    )
    async with server.connect(secret) as page, server.connect(secret) as other:
        await page.subscribe("events")
        await other.subscribe("alerts")
        ping = json.dumps({"type": "ping", "metadata": {"who": "é"}}, ensure_ascii=False)
        await page.call(ping)
        server.publish("events", *payloads)
        live = 0
        for _ in payloads:
            message = await page.socket.recv(decode=False)
            live += 2 + (2 if len(message) > 125 else 0) + len(message)  # with the frame's header
        auth = {"type": "auth", "data": {"token": secret}}
        said = [
            auth,
            auth,
            *({"type": "subscribe", "data": {"type": k}} for k in ("events", "alerts")),
        ]
        sent = sum(len(json.dumps(message)) for message in said) + len(ping.encode())
        figures.expect(
            connections=2,
            handshakes_total=2,
            messages_received_total=5,
            received_bytes_total=sent,
            messages_sent_total=5 + 10,
            published_total__events=10,
            published_bytes_total__events=payload_bytes,
            published_total__alerts=0,
            delivered_total__events=10,
            delivered_bytes_total__events=live,
            subscriptions__events=1,
            subscriptions__alerts=1,
            subscriptions__metrics=0,
            log_messages__events=10,
            log_messages__metrics=0,
            publish_to_write_seconds_count=10,
            fan_out_connections_count=10,
            **{"fan_out_connections_bucket__1.0": 10, "fan_out_connections_sum": 10},
        )
        # Who resumes gets what it missed, and that counts too, but for the latency.
        await other.subscribed("events", rewind=4)
        replayed = [await other.assert_data("events") for _ in range(4)]
        assert replayed == payloads[-4:]
        figures.expect(
            replays_total=1,
            replayed_total__events=4,
            delivered_total__events=14,
            publish_to_write_seconds_count=10,
        )
        assert figures.read()["delivered_bytes_total{events}"] > live


async def test_what_goes_wrong(server: Server, figures: Figures) -> None:
    secret = server.new_token()
    async with server.connect(secret) as page:
        await page.subscribe("events")
        [first] = server.publish("events", {"n": 1})
        await page.assert_positions([first])
        figures.expect(repaired_total__events=0, lost_total__events=0, delivered_total__events=1)
        server.administer(APPEND, kind="events", payloads=[{"n": 2}, {"n": 3}])
        for number in (2, 3):
            await page.assert_data("events", {"n": number})
        server.administer(TRIM, kind="events", count=3)
        lost = await page.assert_error("data_lost")
        assert (lost["details"]["from"], lost["details"]["to"]) == (4, 6)
        figures.expect(
            repaired_total__events=2,
            lost_total__events=3,
            delivered_total__events=3,
            lost_total__alerts=0,
        )
        for _ in range(RATE_LIMIT):
            await page.send({"type": "ping"})
        replies = [await page.receive() for _ in range(RATE_LIMIT)]
        limited = sum(reply["type"] == "error" for reply in replies)
        assert limited
        figures.expect(rate_limited_total=limited)


async def test_who_comes_and_goes(server: Server, figures: Figures) -> None:
    secret = server.new_token()
    async with server.connect() as page:
        for _ in range(3):
            await page.send({"type": "auth", "data": {"token": "rt_wrong"}})
        await page.assert_closed(1008)
    async with server.connect(secret) as page:
        await page.socket.close(1000)
    async with server.connect(secret) as page:
        page.socket.transport.abort()
    async with server.connect() as page:
        with locked_database(server):
            reply = await page.call({"type": "auth", "data": {"token": secret + "x"}})
        assert reply["data"]["code"] == "unavailable", reply
    figures.expect(
        connections=0,
        handshakes_total=4,
        closes_total__1008=1,
        closes_total__1000=2,
        closes_total__1006=1,
        authentications_total__accepted=2,
        authentications_total__refused=3,
        authentications_total__unavailable=1,
        refused_connections_total=0,
        slow_consumers_total=0,
    )


async def test_what_is_so_at_once(server: Server, figures: Figures) -> None:
    figures.expect(
        **{f"log_messages__{kind}": 0 for kind in SUBSCRIPTION_TYPES}, draining=0, buffered_bytes=0
    )
    found = figures.read()
    assert 0 < found["layer_round_trip_seconds"] < 60
    assert 0 <= found["loop_lag_seconds"] < 60
    assert found["resident_bytes"] > 1_000_000
    assert 0 < time.time() - found["start_time_seconds"] < 600
    # More was published than a log keeps.
    server.publish("metrics", *({"n": n} for n in range(40)))
    figures.expect(log_messages__metrics=15)
