"""``/readyz``: whether clients may be sent to a server, and why not; ``/healthz`` beside it."""

from __future__ import annotations

import asyncio
import http.client
import json
import sqlite3
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support import TIMEOUT, Server, client, free_port, locked_database, running, wait_until

READY = (200, {"status": "ready"})
DATABASE = "the database does not answer"
LAYER = "the channel layer does not answer"


def ask(server: Server, path: str = "/readyz") -> tuple[int, Any]:
    """Return the status and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "application/json"
        assert "no-store" in answer.headers["Cache-Control"]
        return answer.status, json.load(answer)
    finally:
        connection.close()


def unavailable(*causes: str) -> tuple[int, Any]:
    """Return the answer of a server that lacks something."""
    return 503, {"status": "unavailable", "causes": list(causes)}


def test_a_server_that_has_all_it_needs(server: Server) -> None:
    assert ask(server) == READY
    assert ask(server, "/healthz") == (200, {"status": "ok"})


def test_probes_ask_by_address_and_without_tls(data_dir: Path) -> None:
    site = {"DJANGO_ALLOWED_HOSTS": "stream.example.com", "DJANGO_TLS": "true"}
    with running(data_dir, **site) as server:
        assert ask(server) == READY
        assert ask(server, "/healthz")[0] == 200
        assert ask(server, "/metrics")[0] == 401
        # Everything else is served under the site's name alone: Django logs a traceback.
        server.may_fail = True
        for path in ("/healthz/", "/api/stats"):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=TIMEOUT)


def test_the_database_away_and_back(data_dir: Path) -> None:
    with running(data_dir) as server:
        assert ask(server) == READY
        with locked_database(server):
            assert ask(server) == unavailable(DATABASE)
            assert ask(server, "/healthz")[0] == 200
        assert ask(server) == READY
        database = sqlite3.connect(data_dir / "db.sqlite3", isolation_level=None)
        database.execute("ALTER TABLE realtime_configurationrevision RENAME TO elsewhere")
        assert ask(server) == unavailable(DATABASE)
        database.execute("ALTER TABLE elsewhere RENAME TO realtime_configurationrevision")
        database.close()
        assert ask(server) == READY


def test_the_channel_layer_away_and_back(data_dir: Path) -> None:
    with running(data_dir) as server:
        (valkey,) = server.valkey()
        assert ask(server) == READY
        valkey.suspend()
        assert ask(server) == unavailable(LAYER)
        with locked_database(server):
            assert ask(server) == unavailable(DATABASE, LAYER)
        valkey.resume()
        wait_until(lambda: ask(server) == READY)
        valkey.kill()
        wait_until(lambda: ask(server) == READY)  # the server has started another
        assert server.valkey() != [valkey]


def test_a_channel_layer_that_was_never_there(data_dir: Path) -> None:
    nobody = f"redis://127.0.0.1:{free_port()}"
    with running(data_dir, REDIS_URL=nobody) as server:
        assert ask(server) == unavailable(LAYER)


def test_a_channel_layer_of_which_a_part_is_away(server: Server, data_dir: Path) -> None:
    there = f"unix://{server.data_dir / 'valkey.sock'}"
    nobody = f"redis://127.0.0.1:{free_port()}"
    with running(data_dir, REDIS_URL=f"{there},{nobody}") as second:
        assert ask(second) == READY  # the types that are there are there nowhere else
    assert ask(server) == READY


async def test_many_probes_cost_clients_nothing(data_dir: Path) -> None:
    with running(data_dir, require_auth="false", enable_rate_limiting="false") as server:
        async with client(server) as page:
            with locked_database(server):
                started = time.monotonic()
                probes = [asyncio.to_thread(ask, server) for _ in range(8)]
                asking = asyncio.gather(*probes)
                while not asking.done():
                    await page.assert_silent()
                assert set(map(repr, await asking)) == {repr(unavailable(DATABASE))}
                assert time.monotonic() - started < TIMEOUT
            assert await asyncio.to_thread(ask, server) == READY
