"""Paths outside Django's: WebSockets at ``/`` and ``/ws/``, event streams at ``/api/stream/``."""

from __future__ import annotations

from typing import Any

from realtime.consumers import StreamConsumer
from realtime.event_stream import PREFIX, event_stream

PATHS = frozenset({"/", "/ws", "/ws/"})


async def websocket_application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one WebSocket connection."""
    if scope["path"] in PATHS:
        await StreamConsumer()(scope, receive, send)
        return
    await receive()
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        await send({"type": "websocket.close"})


class HttpApplication:
    """Serves event streams; leaves all other requests to another application, Django's."""

    def __init__(self, others: Any) -> None:
        self._others = others

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        is_stream = scope["path"].startswith(PREFIX)
        await (event_stream if is_stream else self._others)(scope, receive, send)
