"""WebSocket paths: ``/`` and ``/ws/`` lead to the consumer, all others to HTTP 404."""

from __future__ import annotations

from typing import Any

from realtime.consumers import StreamConsumer

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
