"""Fixtures of more than one module here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import Server, running


@pytest.fixture(scope="module")
def twin(server: Server) -> Iterator[Server]:
    """Another server on the data directory of the first: the same log, the same tokens."""
    with running(server.data_dir, rate_limit_per_minute="100000") as twin:
        yield twin
