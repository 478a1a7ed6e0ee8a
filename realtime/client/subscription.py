"""One subscription of a client: the messages that wait for the application, and its position.

Knows messages and positions; nothing of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, Self

from realtime.client.contract import Finished, Gap, Message, Position, StreamingError

logger = logging.getLogger(__name__)

# Messages that may wait for the application; then no more are read of the connection.
ROOM = 1000


def unpack(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the messages of a ``data_batch`` as ``data`` messages."""
    kind = batch["data"]["subscription_type"]
    for message in batch["data"]["messages"]:
        payload = {k: v for k, v in message.items() if k not in ("timestamp", "metadata")}
        yield dict(message) | {"data": payload | {"subscription_type": kind}}


class Subscription:
    """What :meth:`StreamingClient.subscribe` returns: iterate over it, asynchronously."""

    def __init__(
        self,
        type: str,
        filters: Mapping[str, Any],
        id: str,
        *,
        on_gap: Callable[[Gap], None] | None = None,
        resume: Position | None = None,
        rewind: int | None = None,
        explain: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.type = type
        self.filters = filters
        self.options = {k: v for k, v in (options or {}).items() if v is not None}
        self.id = id
        # The id under which the server sends: equal subscriptions of one client share one.
        self.wire_id = id
        # The server's explanation of what matched when it began, if it was asked for.
        self.explanation: Mapping[str, Any] | None = None
        self._on_gap = on_gap
        self._rewind = rewind
        self._explain = explain
        # The positions up to which messages have been received, and handed to the application.
        self._received = resume
        self._handed_out = resume
        self._waiting: asyncio.Queue[Message | StreamingError] = asyncio.Queue(ROOM)
        self._ended: StreamingError | None = None

    @property
    def position(self) -> Position | None:
        """The position up to which every matching message has been handed out, if any."""
        return self._received if self._waiting.empty() else self._handed_out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message. Raises what has ended the subscription, if not its user."""
        if self._waiting.empty() and self._ended is not None:
            self._raise(self._ended)
        message = await self._waiting.get()
        if isinstance(message, StreamingError):
            self._raise(message)
        self._handed_out = message.position or self._handed_out
        return message

    @staticmethod
    def _raise(error: StreamingError) -> NoReturn:
        if isinstance(error, Finished):
            raise StopAsyncIteration
        raise error

    # For the client

    @property
    def received(self) -> Position | None:
        """The position up to which every matching message has been received, if any."""
        return self._received

    def request(self) -> dict[str, Any]:
        """Return the ``subscribe`` message that begins it, or goes on where it was."""
        data: dict[str, Any] = {"type": self.type, "filters": dict(self.filters)} | self.options
        if self._received is not None:
            data["resume"] = self._received._asdict()
        elif self._rewind:
            data["rewind"] = self._rewind
        if self._explain and self.explanation is None:
            data["explain"] = True
        return {
            "type": "subscribe",
            "data": data,
            "subscription_id": self.wire_id,
            "metadata": {"request": self.wire_id},
        }

    def begin(self, answer: Mapping[str, Any]) -> None:
        """Take the data of ``subscribed``, after which messages follow."""
        self._note_explanation(answer)
        if self._received is not None and not answer.get("recovered"):
            self.lose(Gap("not recovered"))
        # Else messages of before that position are still to come.
        if not answer.get("replayed") and "offset" in answer:
            self.reach(answer)

    def join(self, wire_id: str, answer: Mapping[str, Any]) -> None:
        """Share the messages of an equal one from now on."""
        self._note_explanation(answer)
        self.wire_id = wire_id
        if self._received is None and "offset" in answer:
            self.reach(answer)

    def _note_explanation(self, answer: Mapping[str, Any]) -> None:
        if self._explain and self.explanation is None:
            self.explanation = answer.get("explain")

    def reach(self, place: Mapping[str, Any]) -> None:
        """Note that everything that matches up to a position has been received."""
        self._received = Position(place["epoch"], place["offset"])

    def advance(self, place: Mapping[str, Any]) -> None:
        """Take a position of the server, which may be behind what has been received since."""
        received = self._received
        if (
            received is None
            or received.epoch != place["epoch"]
            or received.offset < place["offset"]
        ):
            self.reach(place)

    def is_full(self) -> bool:
        """Tell whether :meth:`take` would wait for the application."""
        return self._waiting.full()

    async def take(self, message: Mapping[str, Any]) -> None:
        """Take a ``data`` message; wait while there is no room. Drop one that came before."""
        place = message.get("metadata") or {}
        position = Position(place["epoch"], place["offset"]) if "offset" in place else None
        if position is not None and self._received is not None:
            epoch, offset = self._received
            if epoch == position.epoch and position.offset <= offset:
                return
        data = message["data"]
        [payload] = [value for name, value in data.items() if name != "subscription_type"]
        timestamp = message.get("timestamp", "")
        await self._waiting.put(Message(self.type, payload, timestamp, position, self.id))
        # Only now: a caller that is cancelled while it waits has not taken the message.
        self._received = position or self._received

    def lose(self, gap: Gap) -> None:
        """Report messages that are lost for good."""
        if self._on_gap is not None:
            self._on_gap(gap)
        else:
            logger.warning("%s: messages are lost: %s", self.type, gap)

    def end(self, error: StreamingError) -> None:
        """End it; the messages that wait can still be taken. Of several ends the first counts."""
        if self._ended is None:
            self._ended = error
            with contextlib.suppress(asyncio.QueueFull):
                self._waiting.put_nowait(error)  # wakes a waiting application

    def check(self) -> None:
        """Raise what has ended it, if anything has."""
        if self._ended is not None:
            raise self._ended
