"""Fixtures: one server with default settings for all tests that need no other."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connections
from django.test import override_settings

from realtime.cluster.embedded import EmbeddedServer
from realtime.config import WEBSOCKET_PREFIX, get_streaming_config
from tests.support import Server
from tests.support.layers import IN_MEMORY, Configure, running_valkey

# A shell that runs the tests in the background has interrupts ignored, and with them every process
# that the tests start: they would never see the interrupt that a test sends.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with default settings, but for a rate limit that tests do not meet."""
    with Server(tmp_path_factory.mktemp("server"), rate_limit_per_minute="100000") as running:
        yield running


@pytest.fixture(scope="session")
def token(server: Server) -> str:
    """A token of that server with all rights."""
    return server.token("--publish")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests' database in a file, as in use.

    Django never closes connections to one in memory, so those of other threads would stay open.
    """
    if connections["default"].vendor == "sqlite":
        path = tmp_path_factory.mktemp("database") / "test.sqlite3"
        connections["default"].settings_dict["TEST"]["NAME"] = str(path)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    return tmp_path


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """The server of this process's channel layer."""
    with running_valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(params=["valkey", "in-memory"])
def layer(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of the channel layers in turn."""
    if request.param == "valkey":
        request.getfixturevalue("valkey")
        yield request.param
    else:
        with override_settings(CHANNEL_LAYERS=IN_MEMORY):
            yield request.param


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Set variables as if the process had started with them."""

    def set_variables(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(WEBSOCKET_PREFIX + name.upper(), value)
        get_streaming_config.cache_clear()

    yield set_variables
    get_streaming_config.cache_clear()
