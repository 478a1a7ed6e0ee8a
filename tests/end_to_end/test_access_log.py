"""The access log: each connection is one line at INFO, when it has ended, with nothing secret."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from realtime.monitoring.logs import Line
from tests.end_to_end.event_source import event_source, subscribed
from tests.support import TEXT, OtherServer, RawClient, Server, running, wait_until
from tests.test_docs import CONFIGURATION, rows

LOGGER = "realtime.access"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs in JSON."""
    data_dir = tmp_path_factory.mktemp("access")
    with running(data_dir, STREAMING_LOG_FORMAT="json") as started:
        yield started


class Lines:
    """What a server logs from now on."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = len(server.log())

    def text(self) -> str:
        """Return it as it was written."""
        return self._server.log()[self._before :]

    async def wait_for(self, count: int) -> list[dict[str, Any]]:
        """Return the lines when so many are whole; there may be no others."""
        await asyncio.to_thread(wait_until, lambda: self.text().count("\n") >= count)
        lines = [json.loads(line) for line in self.text().splitlines()]
        assert len(lines) == count, lines
        return lines


async def test_a_connection_is_one_line(server: Server) -> None:
    secret = server.new_token()
    lines = Lines(server)
    async with server.connect() as page:
        answer = await page.authenticate(secret)
        for kind in ("events", "alerts"):
            await page.subscribe(kind)
        positions = server.publish("events", {"n": 1}, {"n": 2})
        await page.assert_positions(positions)
        await page.send("no JSON")
        await page.assert_error("invalid_message")
        assert lines.text() == ""
        await page.socket.close(1000, "goodbye")
    [line] = await lines.wait_for(1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", line.pop("time"))
    assert 0 < line.pop("seconds") < 60
    assert line.pop("bytes_sent") > 300
    assert line == {
        "level": "INFO",
        "logger": LOGGER,
        "process": server.process.pid,
        "message": "connection closed",
        "transport": "websocket",
        "client_id": answer["data"]["client_id"],
        "token": answer["data"]["token"],
        "holder": line["holder"],
        "address": "127.0.0.1",
        "code": 1000,
        "messages_received": 4,
        "subscriptions": 2,
    }
    assert line["holder"].startswith("token:")
    cells = ",".join(row[0] for row in rows(CONFIGURATION, "## Logs"))
    of_logging = {"level", "logger", "process", "message"}
    assert set(re.findall(r"\w+", cells)) == line.keys() - of_logging | {
        "seconds",
        "bytes_sent",
        "reason",
    }
    assert secret[12:] not in server.log()


async def test_how_a_connection_can_end(server: Server) -> None:
    secret = server.new_token()
    lines = Lines(server)
    async with server.connect(secret) as page:
        page.socket.transport.abort()
    assert (await lines.wait_for(1))[0]["code"] == 1006
    async with server.connect() as page:
        for _ in range(3):
            await page.call({"type": "auth", "data": {"token": secret + "x"}})
        await page.assert_closed(1008)
    line = (await lines.wait_for(2))[1]
    assert (line["code"], line["reason"]) == (1008, "authentication failed")
    assert (line["messages_received"], line["subscriptions"]) == (3, 0)
    assert "token" not in line and "holder" not in line
    with RawClient(server).connect() as raw:
        raw.send(TEXT, b"\xff")
        raw.assert_closed(1007)
        raw.say_goodbye()
    assert (await lines.wait_for(3))[2]["code"] == 1007
    assert secret[12:] not in lines.text()


async def test_a_connection_that_was_refused(server: Server) -> None:
    with running(server.data_dir, max_connections="1", STREAMING_LOG_FORMAT="json") as full:
        lines = Lines(full)
        async with full.connect(full.new_token()), full.connect() as late:
            await late.assert_closed(1013)
            [line] = await lines.wait_for(1)
            assert (line["code"], line["reason"]) == (1013, "server at capacity")
        await lines.wait_for(2)


async def test_an_event_stream_is_one_line(server: Server) -> None:
    secret = server.new_token()
    lines = Lines(server)
    async with subscribed(server, "events", secret) as (source, _):
        server.publish("events", {"n": 1})
        assert await source.payloads(1) == [{"n": 1}]
    [line] = await lines.wait_for(1)
    assert (line["transport"], line["code"], line["subscriptions"]) == ("event-stream", 1005, 1)
    assert line["token"] == secret[:11] and line["bytes_sent"] > 0
    assert secret[12:] not in lines.text()


async def test_a_request_that_is_refused_is_none(server: Server) -> None:
    lines = Lines(server)
    async with event_source(server, "events", "rt_wrong") as source:
        assert source.status == 401
    async with server.connect():  # what came before would be in the log
        pass
    assert (await lines.wait_for(1))[0]["transport"] == "websocket"


async def test_a_connection_that_fails_is_a_line_too(data_dir: Path) -> None:
    program = ("-m", "daphne", "-p", "{port}", "tests.end_to_end.faulty:application")
    with running(data_dir) as server, OtherServer(data_dir, *program) as faulty:
        faulty.may_fail = True
        async with faulty.connect(server.new_token()) as page:
            await page.send({"type": "ping", "metadata": {"fault": "consumer"}})
            await page.assert_closed(1011)
        wait_until(lambda: "connection closed" in faulty.log())
        assert faulty.log().count("connection closed") == 1
        assert "code=1011" in faulty.log()


async def test_in_lines(data_dir: Path) -> None:
    with running(data_dir) as server:
        async with server.connect(server.new_token()) as page:
            await page.subscribe("events")
        wait_until(lambda: server.log().endswith("\n"))
        [line] = server.log().splitlines()
    assert re.fullmatch(
        r"\S+ \S+ INFO realtime\.access: connection closed transport=websocket client_id=[\w-]+ "
        r"code=1000 seconds=[\d.]+ address=127\.0\.0\.1 holder=token:\d+ token=rt_\w+ "
        r"messages_received=2 bytes_sent=\d+ subscriptions=1",
        line,
    )


async def test_without(data_dir: Path) -> None:
    with running(data_dir, STREAMING_ACCESS_LOG="false") as server:
        async with server.connect(server.new_token()) as page:
            await page.subscribe("events")
    assert server.log() == ""


def test_no_value_can_be_taken_for_another_line_or_field() -> None:
    line = Line(message="m", a="x\ny", b='" code=1', c="jwt:maria", d="", e="é", f=1.5, g="\x1b[2J")
    assert str(line) == ('m a="x\\ny" b="\\" code=1" c=jwt:maria d="" e="é" f=1.5 g="\\u001b[2J"')
