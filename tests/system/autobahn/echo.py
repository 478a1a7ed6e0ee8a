"""An application that sends back what it receives, over this project's connections."""

from __future__ import annotations

import os
import zlib
from typing import Any

import streaming_site.asgi  # noqa: F401 - under Daphne it makes connections this project's
from realtime.server.incoming import Incoming

# The cases check the protocol, not how small messages become, which would take most of the time.
zlib.Z_DEFAULT_COMPRESSION = zlib.Z_BEST_SPEED  # type: ignore[misc] # a constant
# Other tests come first where cores are few.
os.nice(10)
# Some cases cut 4 MiB into frames of 64 bytes, which here counts as a flood.
Incoming.small_parts_per_minute = 10**9


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echo until the client closes."""
    assert scope["type"] == "websocket"
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send(message | {"type": "websocket.send"})
