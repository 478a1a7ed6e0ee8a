"""Gives the tests' own process an environment of its own, before Django reads its settings.

A plugin named in pyproject.toml, because a conftest.py is read too late for that.
"""

from __future__ import annotations

import os
import tempfile

_data_dir = tempfile.TemporaryDirectory(prefix="realtime-tests-")

for _name in [name for name in os.environ if name.startswith(("STREAMING_", "DJANGO_"))]:
    del os.environ[_name]
for _name in ("REDIS_URL", "DATABASE_URL"):
    os.environ.pop(_name, None)
os.environ["STREAMING_DATA_DIR"] = _data_dir.name
os.environ["DJANGO_SETTINGS_MODULE"] = "streaming_site.settings"


def pytest_unconfigure() -> None:
    """Remove the data directory."""
    _data_dir.cleanup()
