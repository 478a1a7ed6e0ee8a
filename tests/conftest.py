"""Fixtures: one server with default settings for all tests that need no other."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
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

# What starts processes: whole folders, and whatever uses one of these fixtures.
FOLDERS_WITH_PROCESSES = {"end_to_end", "security", "system"}
FIXTURES_WITH_PROCESSES = {"server", "valkey", "realtime_server", "postgresql", "pytester"}
EVENTS_OF_PROCESSES = {"subprocess.Popen", "os.fork", "os.posix_spawn"}
# Files that take longest begin first, so that no worker is left with one of them at the end. A
# cluster, which makes network interfaces, is over before a browser runs, which that disturbs.
SLOW_FILES = (
    *("test_cases", "test_cluster", "test_consume_nats", "test_whole", "test_conformance"),
    *("test_postgresql", "test_dashboard", "test_relay", "test_faults", "test_javascript"),
    *("test_aggregations", "test_shards", "test_ingest", "test_tracing", "test_alerts"),
    *("test_metrics", "test_database_away", "test_workers", "test_stream_stats"),
    *("test_monitoring", "test_history", "test_streaming", "test_drain", "test_operators"),
)
# What the test that runs has started: the arguments of each call.
_started: list[tuple[Any, ...]] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that start processes, and begin with slow files."""
    places = {name: place for place, name in enumerate(SLOW_FILES)}
    for item in items:
        if starts_processes(item):
            item.add_marker(pytest.mark.processes)
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def starts_processes(item: pytest.Item) -> bool:
    """Tell whether a test is known to start processes, by its folder or its fixtures."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    fixtures = {*getattr(item, "fixturenames", ())}
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return (
        folder in FOLDERS_WITH_PROCESSES
        or bool(fixtures & FIXTURES_WITH_PROCESSES)
        or "valkey" in parameters.values()
    )


def note_process(event: str, arguments: tuple[Any, ...]) -> None:
    """Remember that this process has started another one."""
    if event in EVENTS_OF_PROCESSES:
        _started.append(arguments)


sys.addaudithook(note_process)


@pytest.fixture(autouse=True)
def only_marked_tests_start_processes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a process and is not marked, so that the fast tests stay fast."""
    _started.clear()
    yield
    if _started and not request.node.get_closest_marker("processes"):
        pytest.fail(f"mark this test with pytest.mark.processes: it started {_started}")


# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with default settings, but for a rate limit that tests do not meet."""
    with Server(tmp_path_factory.mktemp("server"), rate_limit_per_minute="100000") as running:
        yield running


@pytest.fixture(scope="session")
def token(server: Server) -> str:
    """A token of that server with all rights."""
    return server.new_token(can_publish=True)


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
