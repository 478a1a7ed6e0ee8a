"""The client that applications use: it connects, subscribes, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from realtime.client.connection import LastingConnection, LostError, State, Token
from realtime.client.subscription import (
    Closed,
    Finished,
    Gap,
    Position,
    Refused,
    SharedSubscriptions,
    StreamingError,
    Subscription,
)

logger = logging.getLogger(__name__)

# Seconds of the first pause before connecting again, at most, and of the longest.
BACKOFF = (0.5, 30.0)


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
        self._shared = SharedSubscriptions()
        self.subscriptions = self._shared.by_id
        self._on_state = on_state
        self._connection = LastingConnection(
            url, token, self._shared, self._set_state, heartbeat, backoff, options
        )
        self._runner: asyncio.Task[None] | None = None
        self._error: StreamingError | None = None
        # How many subscriptions there have been.
        self._count = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Return when connected and authenticated, however long that takes.

        Raises AuthenticationError or Closed if the server does not want this client.
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
        self._count += 1
        subscription = Subscription(
            type,
            dict(filters or {}),
            f"{type}-{self._count}",
            on_gap=on_gap,
            resume=None if resume is None else Position(*resume),
            rewind=rewind,
            explain=explain,
            max_rate=max_rate,
            conflate=conflate,
            batch_ms=batch_ms,
            fields=None if fields is None else list(fields),
            on_overflow=on_overflow,
        )
        # Before the answer, after which messages follow at once.
        self.subscriptions[subscription.id] = subscription
        try:
            await self._shared.request(subscription.wire_id, self._connection.ask)
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
        ended = self.subscriptions.pop(key, None)
        if ended is not None:
            ended.end(Finished("unsubscribed"))
            if not self._shared.members(ended.wire_id):
                with contextlib.suppress(LostError, Refused):
                    await self._shared.drop(ended.wire_id, self._connection.ask)

    async def _run(self) -> None:
        """Stay connected; end everything when that is not possible any more."""
        try:
            await self._connection.run()
        except StreamingError as error:
            self._finish(error)
        except Exception as error:
            logger.exception("the client has failed")
            self._finish(Closed(f"the client has failed: {error!r}"))

    async def _until_open(self) -> None:
        """Wait until the connection is open. Raises what has ended the client."""
        while not self._connection.open.is_set():
            if self._error is not None:
                raise self._error
            if self._runner is None:
                raise Closed("the client is not connected")
            waiting = asyncio.ensure_future(self._connection.open.wait())
            try:
                await asyncio.wait({waiting, self._runner}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()

    def _finish(self, error: StreamingError) -> None:
        self._error = self._error or error
        self._shared.end(error)
        self._set_state(State.CLOSED)

    def _set_state(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            if self._on_state is not None:
                self._on_state(state)
