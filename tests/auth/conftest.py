"""Fixtures for the tests of JSON Web Tokens."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from realtime.auth.jwt import Verifier
from tests.auth.issuer import (
    NOW,
    Refusal,
)


@pytest.fixture
def jwks_file(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


@pytest.fixture
def refusal(caplog: pytest.LogCaptureFixture) -> Refusal:
    """Have a token refused; return the kind of failure, as logged."""
    caplog.set_level(logging.DEBUG, logger="realtime.auth.jwt")

    def refuse(verifier: Verifier, text: str) -> str:
        caplog.clear()
        assert verifier.verify(text, NOW) is None
        [record] = caplog.records
        assert record.levelno == logging.DEBUG
        return record.getMessage().removeprefix("a JWT was refused: ")

    return refuse
