"""A client for Python: reconnects, resumes, and hands out every message once.

Needs ``websockets`` and nothing of Django::

    async with StreamingClient("wss://stream.example.com/ws/", token) as client:
        events = await client.subscribe("events", {"carrier": "UA"})
        async for message in events:
            print(message.payload)
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
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

__all__ = [
    "AuthenticationError",
    "Closed",
    "Gap",
    "Message",
    "Position",
    "Refused",
    "State",
    "StreamingClient",
    "StreamingError",
    "Subscription",
]

logger = logging.getLogger(__name__)

# Seconds: the first pause before connecting again is up to the first of these, then twice as long
# each time, up to the second.
BACKOFF = (0.5, 30.0)
CONNECT_TIMEOUT = 10.0
ANSWER_TIMEOUT = 10.0
CLOSE_TIMEOUT = 2.0
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


class StreamingError(Exception):
    """Anything that this module raises."""


class AuthenticationError(StreamingError):
    """The server does not accept the token."""


class Refused(StreamingError):
    """The server refused a request. ``code`` and ``details`` are the protocol's."""

    def __init__(self, code: str, text: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.details = details or {}


class Closed(StreamingError):
    """The connection has ended for good; ``code`` is the close code, if there was one."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class Position(NamedTuple):
    """A place in a type's log, to resume after."""

    epoch: str
    offset: int


class Gap(NamedTuple):
    """Messages that cannot be had any more: refetch what they would have changed.

    ``first`` and ``last`` are offsets, where they are known; ``reason`` is the server's, or
    ``not recovered`` after a resume from what is no longer retained.
    """

    reason: str
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """A published message. ``timestamp`` is when (ISO 8601); ``position`` is where, if logged."""

    type: str
    payload: Any
    timestamp: str
    position: Position | None
    subscription_id: str


@dataclass(eq=False)
class Subscription:
    """What :meth:`StreamingClient.subscribe` returns: iterate over it, asynchronously.

    ``position`` is where to resume so that nothing is missed that was not handed out yet.
    """

    type: str
    filters: Mapping[str, Any]
    id: str
    on_gap: Callable[[Gap], None] | None = None
    rewind: int | None = None
    # Up to where messages have been received and handed out.
    _received: Position | None = None
    _handed_out: Position | None = None
    _queue: asyncio.Queue[Message | StreamingError] = field(
        default_factory=lambda: asyncio.Queue(1000)
    )
    _ended: StreamingError | None = None

    @property
    def position(self) -> Position | None:
        """The position up to which every matching message has been handed out, if any."""
        return self._received if self._queue.empty() else self._handed_out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message. Raises what has ended the subscription, if not its user."""
        if self._queue.empty() and self._ended is not None:
            self._raise(self._ended)
        message = await self._queue.get()
        if isinstance(message, StreamingError):
            self._raise(message)
        self._handed_out = message.position or self._handed_out
        return message

    @staticmethod
    def _raise(error: StreamingError) -> NoReturn:
        if isinstance(error, _Finished):
            raise StopAsyncIteration
        raise error

    def _gap(self, gap: Gap) -> None:
        if self.on_gap is not None:
            self.on_gap(gap)
        else:
            logger.warning("%s: messages are lost: %s", self.type, gap)

    def _end(self, error: StreamingError) -> None:
        if self._ended is None:
            self._ended = error
            with contextlib.suppress(asyncio.QueueFull):
                self._queue.put_nowait(error)  # wakes who waits, if anyone does


class _Finished(StreamingError):
    """The user has ended it."""


class StreamingClient:
    """A connection to a streaming server that comes back by itself.

    ``token`` is a secret, or a function, asynchronous or not, that returns one for each connection:
    for short-lived tokens. ``on_state`` is called with each new :class:`State`. ``heartbeat`` is in
    seconds: how often the server is asked for a sign of life when it sends nothing.
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
        self._socket: ClientConnection | None = None
        self._runner: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._error: StreamingError | None = None
        # One request at a time, since an error does not say which it answers.
        self._asking = asyncio.Lock()
        self._answer: asyncio.Future[dict[str, Any]] | None = None
        # Whether anything has come lately; and whether what has come waits for the application.
        self._heard = False
        self._blocked = False
        self._opened_once = False
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
        self._finish(_Finished("closed"))

    async def subscribe(
        self,
        type: str,
        filters: Mapping[str, Any] | None = None,
        *,
        resume: Position | tuple[str, int] | None = None,
        rewind: int | None = None,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Subscription:
        """Subscribe to a type, from now on, after a position, or with the newest *rewind* messages.

        *on_gap* is called when messages are lost for good; without it that is logged.

        Raises:
            Refused: the type is not allowed, or the filters are wrong.
            AuthenticationError, Closed: the client has ended.
        """
        self._numbers += 1
        subscription = Subscription(
            type, dict(filters or {}), f"{type}-{self._numbers}", on_gap, rewind
        )
        if resume is not None:
            subscription._received = Position(*resume)
        await self._until_open()
        try:
            await self._subscribe(subscription)
        except _LostError:  # whoever connects again subscribes to everything
            await self._until_open()
        if subscription._ended is not None:
            raise subscription._ended
        return subscription

    async def unsubscribe(self, subscription: Subscription | str) -> None:
        """End a subscription, given itself or its id; once or more."""
        key = subscription if isinstance(subscription, str) else subscription.id
        known = self.subscriptions.pop(key, None)
        if known is None:
            return
        known._end(_Finished("unsubscribed"))
        with contextlib.suppress(_LostError, Refused):
            await self._ask({"type": "unsubscribe", "data": {"subscription_id": key}})

    # One connection after another

    async def _run(self) -> None:
        pause = 0.0
        try:
            while True:
                try:
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        socket = await connect(self.url, **self._options)
                    try:
                        pause = await self._converse(socket, pause)
                    finally:
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(CLOSE_TIMEOUT):
                                await socket.close()
                except InvalidURI as error:
                    raise Closed(str(error)) from error
                except (OSError, InvalidHandshake, ConnectionClosed) as error:
                    logger.debug("connecting: %s", error)
                self._set_state(State.RECOVERING if self._opened_once else State.CONNECTING)
                pause = min(self._backoff[1], max(self._backoff[0], pause * 2))
                wait, self._retry_after = self._retry_after, 0.0
                await asyncio.sleep(wait or random.uniform(0, pause))  # noqa: S311
        except StreamingError as error:
            self._finish(error)
        except Exception as error:
            logger.exception("the client has failed")
            self._finish(Closed(f"the client has failed: {error!r}"))

    async def _converse(self, socket: ClientConnection, pause: float) -> float:
        """Use a connection until it ends; return the last pause before it, 0 if it was of use.

        Raises:
            AuthenticationError, Closed: there is no point in coming back.
        """
        self._socket = socket
        self._blocked = False
        reader = asyncio.create_task(self._read(socket))
        tasks = [reader]
        try:
            if await self._authenticate():
                tasks.append(asyncio.create_task(self._recover()))
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except _LostError:
            pass
        finally:
            self._opened.clear()
            self._socket = None
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if (code := socket.close_code) in _FINAL:
            reason = socket.close_reason or ""
            if not (callable(self._token) and reason == _EXPIRED):
                raise Closed(f"{reason or 'closed by the server'} ({code})", code)
        return 0.0 if len(tasks) > 1 else pause

    async def _authenticate(self) -> bool:
        reply = await self._ask({"type": "auth", "data": {"token": await self._get_token()}})
        if reply["type"] == "auth_success":
            self._token_refused = False
            return True
        data = reply["data"]
        if data.get("code") == "unavailable":
            self._retry_after = float((data.get("details") or {}).get("retry_after", 0))
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
            raise _LostError from error

    async def _recover(self) -> None:
        """Subscribe again to everything, then say that the connection is open; keep it alive."""
        try:
            for subscription in list(self.subscriptions.values()):
                try:
                    await self._subscribe(subscription)
                except Refused as error:
                    self.subscriptions.pop(subscription.id, None)
                    subscription._end(error)
            self._opened_once = True
            self._opened.set()
            self._set_state(State.OPEN)
            while True:
                self._heard = False
                await asyncio.sleep(self._heartbeat)
                # However much has come: the answer has the positions of what matches rarely.
                await self._ask({"type": "ping"})
        except _LostError:
            if self._socket is not None:  # else it has been noticed
                self._socket.transport.abort()

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for text in socket:
                self._heard = True
                await self._take(json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(_LostError())

    # Messages

    async def _subscribe(self, subscription: Subscription) -> None:
        data: dict[str, Any] = {"type": subscription.type, "filters": dict(subscription.filters)}
        position = subscription._received
        if position is not None:
            data["resume"] = position._asdict()
        elif subscription.rewind:
            data["rewind"] = subscription.rewind
        # Before the answer, after which messages follow at once.
        self.subscriptions[subscription.id] = subscription
        try:
            answer = await self._ask(
                {"type": "subscribe", "data": data, "subscription_id": subscription.id}
            )
        except Refused:
            self.subscriptions.pop(subscription.id, None)
            raise
        reply = answer["data"]
        if position is not None and not reply.get("recovered"):
            subscription._gap(Gap("not recovered"))

    async def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            Refused: the answer is an error.
            _LostError: the connection was lost before.
        """
        async with self._asking:
            while True:
                reply = await self._exchange(message)
                if reply["type"] != "error":
                    return reply
                data = reply["data"]
                details = data.get("details") or {}
                if data["code"] not in ("rate_limited", "unavailable"):
                    raise Refused(data["code"], data["error"], details)
                await asyncio.sleep(float(details.get("retry_after", 1)))

    async def _exchange(self, message: dict[str, Any]) -> dict[str, Any]:
        socket = self._socket
        if socket is None:
            raise _LostError
        self._answer = asyncio.get_running_loop().create_future()
        try:
            await socket.send(json.dumps(message))
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ANSWER_TIMEOUT):
                        return await asyncio.shield(self._answer)
                if not self._heard and not self._blocked:
                    raise _LostError
                self._heard = False  # the answer is behind much else
        except ConnectionClosed:
            raise _LostError from None
        finally:
            self._answer = None

    async def _take(self, message: dict[str, Any]) -> None:
        kind, data = message["type"], message.get("data") or {}
        subscription = self.subscriptions.get(message.get("subscription_id") or "")
        if kind == "data":
            if subscription is not None:
                await self._hand_over(subscription, message)
        elif kind == "error" and data.get("code") == "data_lost":
            if subscription is not None:
                details = data.get("details") or {}
                gap = Gap(details.get("reason", ""), details.get("from"), details.get("to"))
                subscription._gap(gap)
        elif kind == "error" and data.get("code") == "restarting":
            self._retry_after = float((data.get("details") or {}).get("retry_after", 0))
        elif kind == "unsubscribed" and data.get("reason"):
            if subscription is not None:
                self.subscriptions.pop(subscription.id)
                subscription._end(Refused("forbidden", "Not permitted any more"))
        else:
            if kind == "subscribed" and subscription is not None:
                self._note_start(subscription, data)
            if kind == "pong":
                self._note_positions(data.get("positions") or {})
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(message)

    async def _hand_over(self, subscription: Subscription, message: dict[str, Any]) -> None:
        data, place = message["data"], message.get("metadata") or {}
        position = None
        if "offset" in place:
            position = Position(place["epoch"], place["offset"])
            before = subscription._received
            if before and before.epoch == position.epoch and position.offset <= before.offset:
                return
        [payload] = [value for name, value in data.items() if name != "subscription_type"]
        timestamp = message.get("timestamp", "")
        self._blocked = subscription._queue.full()
        await subscription._queue.put(
            Message(subscription.type, payload, timestamp, position, subscription.id)
        )
        self._blocked = False
        # What waits here already counts as received also if the connection is lost meanwhile.
        subscription._received = position or subscription._received

    @staticmethod
    def _note_start(subscription: Subscription, data: dict[str, Any]) -> None:
        """Note where a subscription begins, unless messages before that are still to come."""
        if not data.get("replayed") and "offset" in data:
            subscription._received = Position(data["epoch"], data["offset"])

    def _note_positions(self, positions: dict[str, Any]) -> None:
        for key, place in positions.items():
            subscription = self.subscriptions.get(key)
            if subscription is not None:
                subscription._received = Position(place["epoch"], place["offset"])

    # State

    async def _until_open(self) -> None:
        """Wait until the connection is open. Raises what has ended the client."""
        while not self._opened.is_set():
            if self._error is not None:
                raise self._error
            if self._runner is None:
                raise Closed("the client is not connected")
            waiting = asyncio.ensure_future(self._opened.wait())
            try:
                await asyncio.wait({waiting, self._runner}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()

    def _finish(self, error: StreamingError) -> None:
        self._error = self._error or error
        for subscription in list(self.subscriptions.values()):
            subscription._end(error)
        self.subscriptions.clear()
        self._set_state(State.CLOSED)

    def _set_state(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state)


class _LostError(Exception):
    """The connection has gone while an answer was awaited."""
