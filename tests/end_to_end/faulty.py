"""An ASGI application that fails when a client asks it to: for ``python -m daphne``.

``{"type": "ping", "metadata": {"fault": "consumer"}}`` raises inside the consumer; the paths
``/raises`` and ``/returns`` lead to applications that accept, then fail or end without closing.
"""

from __future__ import annotations

from typing import Any

# First, since it sets Django up, which the rest needs.
from streaming_site.asgi import application as _site

# isort: split
from realtime.consumers import StreamConsumer
from realtime.protocol.commands import Command, Ping


class _FaultyConsumer(StreamConsumer):
    async def carry_out(self, command: Command) -> None:
        if isinstance(command, Ping) and command.metadata is not None:
            raise RuntimeError("a fault made for a test")
        await super().carry_out(command)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve a connection until it is asked to fail."""
    if scope["type"] != "websocket":
        await _site(scope, receive, send)
    elif scope["path"] == "/ws/":
        await _FaultyConsumer()(scope, receive, send)
    else:
        if scope["path"] == "/early":
            raise RuntimeError("a fault made for a test")
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        if scope["path"] == "/raises":
            raise RuntimeError("a fault made for a test")
