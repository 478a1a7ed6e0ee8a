"""Bodies of requests, handed to the application as they arrive.

Daphne reads all of a body before it calls the application, and Twisted keeps it in a file. For the
requests that :func:`arrives_in_parts` selects, the application is called when the headers are
there, and a client waits while the application has not taken its bytes. Knows nothing of what
bodies hold.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from realtime.server import patches

# The paths, as they are on the request line.
PATHS = b"/api/publish/"
# Bytes that may wait for the application before no more are read.
MOST_WAITING = 256 * 1024
# Seconds for which a body that was answered early is still read, and thrown away: a connection
# that is closed while bytes are under way is reset, and the answer is lost (RFC 9112, section 9.6).
LINGER = 5.0


def arrives_in_parts(channel: Any, request: Any) -> bool:
    """Tell whether the request whose headers have come is served before its body has."""
    command, path, _ = patches.request_line(channel)
    return bool(
        command == b"POST"
        and path.startswith(PATHS)
        and channel.length != 0
        and not request.requestHeaders.hasHeader(b"Upgrade")
    )


class Body:
    """A body under way. Daphne uses it in place of the queue that an application reads."""

    def __init__(self, source: Any) -> None:
        # The connection, which can be told to pause.
        self._source = source
        self._waiting = bytearray()
        # How many bytes may wait. Nothing more than came with the headers until the application
        # asks for it, since it may not want a stranger's body at all.
        self._most = 0
        self._has_news = asyncio.Event()
        self._is_gone = False
        self._is_unwanted = False
        self._is_paused = False
        self.is_complete = False

    def feed(self, part: bytes) -> None:
        """Take what has arrived."""
        if self._is_unwanted:
            return
        self._waiting += part
        if len(self._waiting) > self._most and not self._is_paused:
            self._is_paused = True
            self._source.pauseProducing()
        self._has_news.set()

    def complete(self) -> None:
        """Note that all has arrived."""
        self.is_complete = True
        self._has_news.set()

    def drop(self) -> None:
        """Throw away all that has come and all that will."""
        self._is_unwanted = True
        self._take()

    def put_nowait(self, message: dict[str, Any]) -> None:
        """Take a message of Daphne's: only that the client is gone, the body is known here."""
        if message["type"] == "http.disconnect":
            self._is_gone = True
            self._has_news.set()

    async def receive(self) -> dict[str, Any]:
        """Wait for more of the body and return it: ASGI's ``receive``."""
        self._most = MOST_WAITING
        while not (self._waiting or self.is_complete or self._is_gone):
            self._has_news.clear()
            await self._has_news.wait()
        if not self._waiting and self._is_gone:
            return {"type": "http.disconnect"}
        more = not self.is_complete
        return {"type": "http.request", "body": self._take(), "more_body": more}

    def _take(self) -> bytes:
        taken = bytes(self._waiting)
        self._waiting.clear()
        if self._is_paused:
            self._is_paused = False
            self._source.resumeProducing()
        return taken


def make_application(server: Any, protocol: Any, scope: dict[str, Any]) -> Any:
    """Call the application for a request; return what Daphne puts its messages into."""
    body = getattr(protocol, "body", None)
    if body is None:
        return patches.create_application(server, protocol, scope)
    scope.setdefault("asgi", {"version": "3.0"})
    application = server.application(
        scope=scope, receive=body.receive, send=partial(server.handle_reply, protocol)
    )
    patches.note_application(server, protocol, asyncio.ensure_future(application))
    return body
