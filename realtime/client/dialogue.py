"""Requests and answers on one connection of a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from realtime.client.contract import LostError, Refused

ANSWER_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
# Errors after which the same request may be tried again.
_TRY_AGAIN = ("rate_limited", "unavailable")

# Takes a message of the server; returns whether it answers a request.
Take = Callable[[dict[str, Any]], Awaitable[bool]]


class Dialogue:
    """One connection: messages go to *take*, and those that are answers also to :meth:`ask`."""

    def __init__(self, socket: ClientConnection, take: Take) -> None:
        self._socket = socket
        self._take = take
        # One request at a time, since an error does not say which it answers.
        self._asking = asyncio.Lock()
        # Becomes None if the connection is lost: asyncio would log an exception that nobody reads.
        self._answer: asyncio.Future[dict[str, Any] | None] | None = None
        # Whether a message has come since the last look, and whether one is being taken.
        self._has_heard = False
        self._is_taking = False

    @property
    def closed(self) -> tuple[int | None, str]:
        """The close code, if there was one, and the reason."""
        return self._socket.close_code, self._socket.close_reason or ""

    async def read(self) -> None:
        """Take what comes until the connection ends."""
        try:
            async for text in self._socket:
                self._has_heard = True
                message = json.loads(text)
                self._is_taking = True
                is_answer = await self._take(message)
                self._is_taking = False
                if is_answer and self._answer is not None and not self._answer.done():
                    self._answer.set_result(message)
        except ConnectionClosed:
            pass
        finally:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(None)

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            Refused: the answer is an error.
            LostError: the connection was lost before.
        """
        async with self._asking:
            while True:
                reply = await self._exchange(message)
                if reply["type"] != "error":
                    return reply
                data = reply["data"]
                details = data.get("details") or {}
                if data["code"] not in _TRY_AGAIN:
                    raise Refused(data["code"], data["error"], details)
                await asyncio.sleep(float(details.get("retry_after", 1)))

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return what answers it. Raises LostError without a sign of life."""
        answer: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._answer = answer
        try:
            await self._socket.send(json.dumps(message))
            while not (await asyncio.wait([answer], timeout=ANSWER_TIMEOUT))[0]:
                if not self._has_heard and not self._is_taking:
                    raise LostError
                self._has_heard = False  # the answer comes after much else
        except ConnectionClosed:
            raise LostError from None
        finally:
            self._answer = None
        reply = answer.result()
        if reply is None:
            raise LostError
        return reply

    def abort(self) -> None:
        """Cut the connection."""
        self._socket.transport.abort()

    async def close(self) -> None:
        """Close the connection, if need be by cutting it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._socket.close()
