"""The client: one connection after another, and the subscriptions that outlive them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from realtime.client.contract import (
    AuthenticationError,
    Closed,
    Finished,
    Gap,
    LostError,
    Position,
    Refused,
    State,
    StreamingError,
    Token,
)
from realtime.client.dialogue import Dialogue
from realtime.client.subscription import Subscription, unpack

logger = logging.getLogger(__name__)

# Seconds: the first pause before connecting again is up to the first of these, then twice as long
# each time, up to the second.
BACKOFF = (0.5, 30.0)
CONNECT_TIMEOUT = 10.0
# Close codes that say not to come back.
_FINAL = {1002, 1007, 1008, 1009}
_EXPIRED = "token expired"


class StreamingClient:
    """A connection to a streaming server that comes back by itself.

    ``token`` is a secret, or a function, asynchronous or not, that returns one for each connection:
    for short-lived tokens. ``on_state`` is called with each new :class:`State`. ``heartbeat`` is in
    seconds: how often the server is asked for a sign of life.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        on_state: Callable[[State], None] | None = None,
        heartbeat: float = 20.0,
        backoff: tuple[float, float] = BACKOFF,
        **options: Any,
    ) -> None:
        """Other *options* are those of ``websockets.connect``, such as ``ssl`` or ``origin``."""
        self.url = url
        self.state = State.CLOSED
        self.subscriptions: dict[str, Subscription] = {}
        self._token = token
        self._on_state = on_state
        self._heartbeat = heartbeat
        self._backoff = backoff
        self._options: dict[str, Any] = {"max_size": None, "ping_interval": None} | options
        self._runner: asyncio.Task[None] | None = None
        self._dialogue: Dialogue | None = None
        # Set while connected, authenticated and subscribed to everything.
        self._open = asyncio.Event()
        self._was_open = False
        self._error: StreamingError | None = None
        self._token_refused = False
        self._numbers = 0
        # Seconds that the server wants the next connection to wait.
        self._retry_after = 0.0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Return when connected and authenticated, however long that takes.

        Raises:
            AuthenticationError, Closed: the server does not want this client.
        """
        if self._runner is None:
            self._set_state(State.CONNECTING)
            self._runner = asyncio.create_task(self._run())
        await self._until_open()

    async def close(self) -> None:
        """End the connection and all subscriptions."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.cancel()
            await asyncio.gather(runner, return_exceptions=True)
        self._finish(Finished("the client is closed"))

    async def subscribe(
        self,
        type: str,
        filters: Mapping[str, Any] | None = None,
        *,
        resume: Position | tuple[str, int] | None = None,
        rewind: int | None = None,
        explain: bool = False,
        on_gap: Callable[[Gap], None] | None = None,
        max_rate: float | None = None,
        conflate: str | None = None,
        batch_ms: int | None = None,
        fields: Sequence[str] | None = None,
        on_overflow: str | None = None,
    ) -> Subscription:
        """Subscribe to a type, from now on, after a position, or with the newest *rewind* messages.

        With *explain*, the subscription's ``explanation`` says what of the newest messages matches.
        *on_gap* is called when messages are lost for good; without it that is logged. The others
        are the protocol's: at most *max_rate* messages a second, the newest per value of the path
        *conflate*, several in one frame each *batch_ms* milliseconds, only the paths *fields*, and
        ``"drop"`` rather than ``"close"`` *on_overflow*.

        Raises:
            Refused: the type is not allowed, or the filters or options are wrong.
            AuthenticationError, Closed: the client has ended.
        """
        await self._until_open()
        self._numbers += 1
        subscription = Subscription(
            type,
            dict(filters or {}),
            f"{type}-{self._numbers}",
            on_gap=on_gap,
            resume=None if resume is None else Position(*resume),
            rewind=rewind,
            explain=explain,
            options={
                "max_rate": max_rate,
                "conflate": conflate,
                "batch_ms": batch_ms,
                "fields": None if fields is None else list(fields),
                "on_overflow": on_overflow,
            },
        )
        # Before the answer, after which messages follow at once.
        self.subscriptions[subscription.id] = subscription
        try:
            await self._ask_for(subscription.wire_id)
        except Refused:
            self.subscriptions.pop(subscription.id, None)
            raise
        except LostError:  # whoever connects again subscribes to everything
            await self._until_open()
        subscription.check()
        return subscription

    async def unsubscribe(self, subscription: Subscription | str) -> None:
        """End a subscription, given itself or its id; once or more."""
        key = subscription if isinstance(subscription, str) else subscription.id
        known = self.subscriptions.pop(key, None)
        if known is not None:
            known.end(Finished("unsubscribed"))
            if not self._members(known.wire_id):
                with contextlib.suppress(LostError, Refused):
                    await self._drop(known.wire_id)

    # Equal subscriptions of one client are one to the server: they share a wire id, and with it one
    # request and its messages, of which each takes those it does not have.

    def _members(self, wire_id: str | None) -> list[Subscription]:
        """Return the subscriptions that take the messages under a wire id."""
        return [one for one in self.subscriptions.values() if one.wire_id == wire_id]

    async def _ask_for(self, wire_id: str) -> None:
        """Subscribe, from where the furthest behind of those that share it is.

        Raises:
            Refused, LostError
        """
        members = self._members(wire_id)
        if not members:
            return
        first = min(members, key=lambda one: one.received.offset if one.received else math.inf)
        resumes = first.received is not None
        reply = await self._ask(first.request())
        shared = reply["subscription_id"]
        if shared != wire_id and resumes:
            # There is an equal one already, so the server has ignored from where to go on.
            await self._drop(shared)
            await self._ask_for(shared)

    async def _drop(self, wire_id: str) -> None:
        await self._ask({"type": "unsubscribe", "data": {"subscription_id": wire_id}})

    def _begin(self, message: Mapping[str, Any]) -> None:
        """Take a ``subscribed`` message."""
        asked, answered = message["metadata"]["request"], message["subscription_id"]
        for subscription in self._members(asked):
            if asked == answered:
                subscription.begin(message["data"])
            else:
                subscription.join(answered, message["data"])

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._dialogue is None:
            raise LostError
        return await self._dialogue.ask(message)

    # One connection after another

    async def _run(self) -> None:
        pause = 0.0
        try:
            while True:
                if await self._use_a_connection():
                    pause = 0.0
                self._set_state(State.RECOVERING if self._was_open else State.CONNECTING)
                pause = min(self._backoff[1], max(self._backoff[0], pause * 2))
                wait, self._retry_after = self._retry_after, 0.0
                await asyncio.sleep(wait or random.uniform(0, pause))  # noqa: S311
        except StreamingError as error:
            self._finish(error)
        except Exception as error:
            logger.exception("the client has failed")
            self._finish(Closed(f"the client has failed: {error!r}"))

    async def _use_a_connection(self) -> bool:
        """Connect and stay until the connection ends; tell whether it was of any use.

        Raises:
            AuthenticationError, Closed: there is no point in coming back.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                socket = await connect(self.url, **self._options)
        except InvalidURI as error:
            raise Closed(str(error)) from error
        except (OSError, InvalidHandshake, ConnectionClosed) as error:
            logger.debug("connecting: %s", error)
            return False
        was_used = await self._converse(socket)
        assert self._dialogue is not None
        code, reason = self._dialogue.closed
        self._dialogue = None
        if code in _FINAL and not (callable(self._token) and reason == _EXPIRED):
            raise Closed(f"{reason or 'closed by the server'} ({code})", code)
        return was_used

    async def _converse(self, socket: ClientConnection) -> bool:
        dialogue = self._dialogue = Dialogue(socket, self._take)
        tasks = [asyncio.create_task(dialogue.read())]
        was_used = False
        try:
            if await self._authenticate(dialogue):
                was_used = True
                tasks.append(asyncio.create_task(self._stay(dialogue)))
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except LostError:
            dialogue.abort()
        finally:
            self._open.clear()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await dialogue.close()
        return was_used

    async def _authenticate(self, dialogue: Dialogue) -> bool:
        token = await self._get_token()
        reply = await dialogue.ask({"type": "auth", "data": {"token": token}})
        if reply["type"] == "auth_success":
            self._token_refused = False
            return True
        data = reply["data"]
        if data.get("code") == "unavailable":
            self._note_retry_after(data)
        elif self._token_refused or not callable(self._token):
            raise AuthenticationError(str(data.get("error")))
        else:
            self._token_refused = True  # it may have expired on the way: one more
        return False

    async def _get_token(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            token: Any = self._token()
            return str(await token if inspect.isawaitable(token) else token)
        except Exception as error:
            logger.warning("no token: %s", error)
            raise LostError from error

    async def _stay(self, dialogue: Dialogue) -> None:
        """Subscribe again to everything, say that the connection is open, keep it alive."""
        for wire_id in {one.wire_id: None for one in self.subscriptions.values()}:
            try:
                await self._ask_for(wire_id)
            except Refused as error:
                self._refuse(wire_id, error)
        self._was_open = True
        self._open.set()
        self._set_state(State.OPEN)
        while True:
            await asyncio.sleep(self._heartbeat)
            # However much has come: the answer has the positions of what matches rarely.
            await dialogue.ask({"type": "ping"})

    # Messages

    async def _take(self, message: dict[str, Any]) -> bool:
        """Take a message of the server; tell whether it answers a request."""
        kind, data = message["type"], message.get("data") or {}
        code = data.get("code") if kind == "error" else None
        members = self._members(message.get("subscription_id"))
        if kind == "pong":
            for wire_id, place in (data.get("positions") or {}).items():
                for subscription in self._members(wire_id):
                    subscription.advance(place)
            return True
        if code == "restarting":
            self._note_retry_after(data)
            return False
        if kind in ("data", "data_batch"):
            for one in [message] if kind == "data" else unpack(message):
                for subscription in members:
                    await subscription.take(one)
            return False
        if code == "data_lost":
            details = data.get("details") or {}
            gap = Gap(details.get("reason", ""), details.get("from"), details.get("to"))
            for subscription in members:
                subscription.lose(gap)
            return False
        if kind == "unsubscribed" and data.get("reason"):
            error = Refused("forbidden", "Not permitted any more")
            self._refuse(message["subscription_id"], error)
            return False
        if kind == "subscribed":
            self._begin(message)
        return True

    def _refuse(self, wire_id: str, error: Refused) -> None:
        """End what is under a wire id."""
        for subscription in self._members(wire_id):
            del self.subscriptions[subscription.id]
            subscription.end(error)

    def _note_retry_after(self, data: Mapping[str, Any]) -> None:
        self._retry_after = float((data.get("details") or {}).get("retry_after", 0))

    # State

    async def _until_open(self) -> None:
        """Wait until the connection is open. Raises what has ended the client."""
        while not self._open.is_set():
            if self._error is not None:
                raise self._error
            if self._runner is None:
                raise Closed("the client is not connected")
            waiting = asyncio.ensure_future(self._open.wait())
            try:
                await asyncio.wait({waiting, self._runner}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()

    def _finish(self, error: StreamingError) -> None:
        self._error = self._error or error
        for subscription in list(self.subscriptions.values()):
            subscription.end(error)
        self.subscriptions.clear()
        self._set_state(State.CLOSED)

    def _set_state(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state)
