"""The paths that Django does not serve: WebSockets, and what streams over HTTP."""

from __future__ import annotations

from typing import Any

from realtime.consumers import StreamConsumer
from realtime.http.event_stream import PREFIX as STREAM_PREFIX
from realtime.http.event_stream import event_stream
from realtime.http.publish import PREFIX as PUBLISH_PREFIX
from realtime.http.publish import ingest

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
    """Serves event streams and publishing; hands other requests to Django's application."""

    def __init__(self, others: Any) -> None:
        self._others = others

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"].startswith(STREAM_PREFIX):
            await event_stream(scope, receive, send)
        elif scope["path"].startswith(PUBLISH_PREFIX):
            await ingest(scope, receive, send)
        else:
            await self._others(scope, receive, send)
