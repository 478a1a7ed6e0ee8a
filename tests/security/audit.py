"""Reads what a server has recorded."""

from __future__ import annotations

import json
from typing import Any

from tests.support import Server


def audit(server: Server) -> list[dict[str, Any]]:
    """Return the lines of a server's audit log."""
    path = server.data_dir / "audit.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
