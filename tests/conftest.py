"""Fixtures: one server with default settings for all tests that need no other."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before Django reads its settings: tests have a data directory of their own.
_data_dir = tempfile.TemporaryDirectory(prefix="realtime-tests-")
os.environ["STREAMING_DATA_DIR"] = _data_dir.name
for _name in [name for name in os.environ if name.startswith("STREAMING_WEBSOCKET__")]:
    del os.environ[_name]
for _name in ("REDIS_URL", "DATABASE_URL", "DJANGO_DEBUG", "DJANGO_TLS", "DJANGO_ALLOWED_HOSTS"):
    os.environ.pop(_name, None)

from tests.support import Server


def pytest_unconfigure() -> None:
    """Remove the data directory."""
    _data_dir.cleanup()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with default settings, but for a rate limit that tests do not meet."""
    with Server(tmp_path_factory.mktemp("server"), rate_limit_per_minute="100000") as running:
        yield running


@pytest.fixture(scope="session")
def token(server: Server) -> str:
    """A token of that server with all rights."""
    return server.token("--publish")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """An empty data directory."""
    return tmp_path
