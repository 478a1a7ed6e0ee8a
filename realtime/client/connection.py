"""One connection after another: connecting, authenticating, staying alive, coming back.

Knows when to come back and when not; nothing of what subscriptions do with messages.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from realtime.client.contract import AuthenticationError, Closed, LostError, State, Token
from realtime.client.dialogue import Dialogue
from realtime.client.shared import SharedSubscriptions

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
# Close codes that say not to come back.
_FINAL = {1002, 1007, 1008, 1009}
_EXPIRED = "token expired"


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
        *,
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
        """Connect again and again.

        Raises:
            AuthenticationError, Closed: there is no point in coming back.
        """
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
