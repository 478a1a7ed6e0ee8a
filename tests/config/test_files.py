"""The data directory, and the secrets that are generated into it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from realtime.config import ConfigurationError, data_directory, read_or_create_secret
from tests.support import ROOT


def test_the_data_directory_is_made_for_its_owner_alone(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = data_dir / "new" / "var"
    monkeypatch.setenv("STREAMING_DATA_DIR", str(wanted))
    assert data_directory(ROOT) == wanted
    assert stat.S_IMODE(wanted.stat().st_mode) == 0o700
    assert data_directory(ROOT) == wanted
    monkeypatch.setenv("STREAMING_DATA_DIR", "")
    assert data_directory(data_dir) == data_dir / "var"


def test_a_data_directory_that_cannot_be_made_is_an_error(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (data_dir / "file").touch()
    path = str(data_dir / "file" / "var")
    monkeypatch.setenv("STREAMING_DATA_DIR", path)
    with pytest.raises(ConfigurationError) as caught:
        data_directory(ROOT)
    assert str(caught.value) == f"STREAMING_DATA_DIR={path!r}: cannot be made (Not a directory)"


def test_a_secret_is_made_once(data_dir: Path) -> None:
    secret = read_or_create_secret(data_dir)
    assert len(secret) >= 50
    assert read_or_create_secret(data_dir) == secret
    assert read_or_create_secret(data_dir, "another") != secret
    assert stat.S_IMODE((data_dir / "secret_key").stat().st_mode) == 0o600
    assert {path.name for path in data_dir.iterdir()} == {"secret_key", "another"}


def test_a_secret_that_cannot_be_made_is_an_error(data_dir: Path) -> None:
    away = data_dir / "away"
    with pytest.raises(ConfigurationError) as caught:
        read_or_create_secret(away)
    assert str(caught.value) == (
        f"{away / 'secret_key'}: cannot be used (No such file or directory)"
    )
