"""The description of what is served over HTTP, in OpenAPI 3.1: ``openapi.yaml`` beside this module.

It lies here, and not in docs/, so that it is there wherever a server runs: in a checkout, in a
container, and as an installed package. ``docs/asyncapi.yaml`` describes the WebSocket API.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import msgspec


@cache
def _read() -> dict[str, Any]:
    text = files(__package__).joinpath("openapi.yaml").read_bytes()
    return msgspec.yaml.decode(text, type=dict[str, Any])


def describe(server_url: str = "/") -> dict[str, Any]:
    """Return the description of the site at *server_url*, as an object for JSON."""
    return _read() | {"servers": [{"url": server_url}]}
