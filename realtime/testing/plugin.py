"""The pytest plugin: ``-p realtime.testing.plugin`` in pytest's ``addopts``.

Gives the tests' process an environment of its own, before Django reads its settings: an empty data
directory, and none of the variables that configure a server. A ``conftest.py`` would be too late.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from realtime.testing.administrator import end_fork_servers
from realtime.testing.server import TEMPLATES

if TYPE_CHECKING:
    from realtime.testing import Client, FakeClock, LiveServer

_folders = ExitStack()
_data_dir = _folders.enter_context(TemporaryDirectory(prefix="realtime-tests-"))

for _name in [name for name in os.environ if name.startswith("STREAMING_")]:
    del os.environ[_name]
for _name in ("REDIS_URL", "DATABASE_URL"):
    os.environ.pop(_name, None)
# The tests' own process may use another database; its servers have their own.
if "TEST_DATABASE_URL" in os.environ:
    os.environ["DATABASE_URL"] = os.environ["TEST_DATABASE_URL"]
os.environ["STREAMING_DATA_DIR"] = _data_dir
# With pytest-xdist the workers use the folder of the process that starts them.
if TEMPLATES not in os.environ:
    _templates = TemporaryDirectory(prefix="realtime-templates-")
    os.environ[TEMPLATES] = _folders.enter_context(_templates)


def pytest_unconfigure() -> None:
    """End the processes that were kept, and remove the folders."""
    end_fork_servers()
    _folders.close()


@pytest.fixture(scope="session")
def realtime_server(pytestconfig: pytest.Config) -> Iterator[LiveServer]:
    """A server that clients can connect to; what the tests' process publishes reaches it.

    Tokens are in its own database, not in that of ``pytest.mark.django_db``: make them with
    ``realtime_server.new_token()``.
    """
    from realtime.testing import LiveServer

    settings = {"rate_limit_per_minute": "1000000"}
    with LiveServer(Path(_data_dir), root=pytestconfig.rootpath, **settings) as server:
        yield server


@pytest.fixture(scope="session")
def realtime_token(realtime_server: LiveServer) -> str:
    """A token of that server that may subscribe to everything, and publish."""
    return realtime_server.new_token(can_publish=True)


@pytest.fixture
async def realtime_client(
    realtime_server: LiveServer, realtime_token: str
) -> AsyncIterator[Client]:
    """A client that is connected to that server and authenticated."""
    async with realtime_server.connect(realtime_token) as client:
        yield client


@pytest.fixture
def fake_clock() -> Iterator[FakeClock]:
    """A clock that nobody waits for, in place of this process's: starts at 2024-01-01 12:00 UTC.

    It stands for ``time.time``, ``time.monotonic`` and ``django.utils.timezone.now``.
    """
    from realtime.testing import FakeClock

    clock = FakeClock()
    with (
        mock.patch("time.time", clock.time),
        mock.patch("time.monotonic", clock.monotonic),
        mock.patch("django.utils.timezone.now", clock.datetime),
    ):
        yield clock
