"""One connection after another: connecting, authenticating, asking, staying alive, coming back.

Knows when to come back and when not; nothing of what subscriptions do with messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from realtime.client.subscription import Closed, Refused, SharedSubscriptions, StreamingError

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
# Errors after which the same request may be tried again.
_TRY_AGAIN = ("rate_limited", "unavailable")
# Close codes that say not to come back.
_FINAL = {1002, 1007, 1008, 1009}
_EXPIRED = "token expired"

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]


class State(enum.StrEnum):
    """What a client is doing. ``RECOVERING`` is connecting again after a connection was lost."""

    CONNECTING = "connecting"
    OPEN = "open"
    RECOVERING = "recovering"
    CLOSED = "closed"


class AuthenticationError(StreamingError):
    """The server does not accept the token."""


class LostError(Exception):
    """The connection has gone while an answer was awaited."""


class Dialogue:
    """One connection: messages go to *take*, and those that are answers also to :meth:`ask`."""

    def __init__(
        self, socket: ClientConnection, take: Callable[[dict[str, Any]], Awaitable[bool]]
    ) -> None:
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
        """Send a request and return its answer. Raises Refused by an error, or LostError."""
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


class LastingConnection:
    """A connection that is made again whenever it is lost.

    *backoff* are seconds: the first pause before connecting again is up to the first of them, then
    twice as long each time, up to the second.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        subscriptions: SharedSubscriptions,
        set_state: Callable[[State], None],
        heartbeat: float,
        backoff: tuple[float, float],
        options: Mapping[str, Any],
    ) -> None:
        self._url = url
        self._token = token
        self._subscriptions = subscriptions
        self._set_state = set_state
        self._heartbeat = heartbeat
        self._backoff = backoff
        self._options: dict[str, Any] = {"max_size": None, "ping_interval": None} | dict(options)
        self._dialogue: Dialogue | None = None
        # Set while connected, authenticated and subscribed to everything.
        self.open = asyncio.Event()
        self._was_open = False
        self._is_token_refused = False
        # Seconds that the server wants the next connection to wait.
        self._retry_after = 0.0

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer. Raises Refused or LostError."""
        if self._dialogue is None:
            raise LostError
        return await self._dialogue.ask(message)

    async def run(self) -> None:
        """Connect again and again, until AuthenticationError or Closed: it is pointless."""
        pause = 0.0
        while True:
            if await self._use_a_connection():
                pause = 0.0
            self._set_state(State.RECOVERING if self._was_open else State.CONNECTING)
            pause = min(self._backoff[1], max(self._backoff[0], pause * 2))
            wait, self._retry_after = self._retry_after, 0.0
            await asyncio.sleep(wait or random.uniform(0, pause))  # noqa: S311 - no secret

    async def _use_a_connection(self) -> bool:
        """Connect and stay until the connection ends; tell whether it was of any use."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                socket = await connect(self._url, **self._options)
        except InvalidURI as error:
            raise Closed(str(error)) from error
        except (OSError, InvalidHandshake, ConnectionClosed) as error:
            logger.debug("connecting: %s", error)
            return False
        dialogue = self._dialogue = Dialogue(socket, self._take)
        is_used = await self._converse(dialogue)
        self._dialogue = None
        code, reason = dialogue.closed
        if code in _FINAL and not (callable(self._token) and reason == _EXPIRED):
            raise Closed(f"{reason or 'closed by the server'} ({code})", code)
        return is_used

    async def _converse(self, dialogue: Dialogue) -> bool:
        """Authenticate and stay until the connection ends; tell whether that was possible."""
        tasks = [asyncio.create_task(dialogue.read())]
        is_used = False
        try:
            if await self._authenticate(dialogue):
                is_used = True
                tasks.append(asyncio.create_task(self._stay(dialogue)))
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except LostError:
            dialogue.abort()
        finally:
            self.open.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await dialogue.close()
        return is_used

    async def _authenticate(self, dialogue: Dialogue) -> bool:
        """Authenticate; tell whether the server has accepted the token."""
        token = await self._get_token()
        reply = await dialogue.ask({"type": "auth", "data": {"token": token}})
        if reply["type"] == "auth_success":
            self._is_token_refused = False
            return True
        data = reply["data"]
        if data.get("code") == "unavailable":
            self._note_retry_after(data)
        elif self._is_token_refused or not callable(self._token):
            raise AuthenticationError(str(data.get("error")))
        else:
            self._is_token_refused = True  # it may have expired on the way: try once more
        return False

    async def _get_token(self) -> str:
        """Return the token, from the user's function if there is one."""
        if isinstance(self._token, str):
            return self._token
        try:
            token: Any = self._token()
            return str(await token if inspect.isawaitable(token) else token)
        except Exception as error:
            logger.warning("the function for the token failed: %s", error)
            raise LostError from error

    async def _stay(self, dialogue: Dialogue) -> None:
        """Subscribe again to everything, say that the connection is open, keep it alive."""
        await self._subscriptions.request_all(self.ask)
        self._was_open = True
        self.open.set()
        self._set_state(State.OPEN)
        while True:
            await asyncio.sleep(self._heartbeat)
            # However much has come: the answer has the positions of what matches rarely.
            await dialogue.ask({"type": "ping"})

    async def _take(self, message: dict[str, Any]) -> bool:
        """Take a message of the server; tell whether it answers a request."""
        data = message.get("data") or {}
        if message["type"] == "error" and data.get("code") == "restarting":
            self._note_retry_after(data)
            return False
        return await self._subscriptions.take(message)

    def _note_retry_after(self, data: Mapping[str, Any]) -> None:
        self._retry_after = float((data.get("details") or {}).get("retry_after", 0))
