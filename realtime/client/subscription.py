"""The subscriptions of a client: their positions, and which of them receive what the server sends.

Equal subscriptions of one client are one subscription to the server: they share a wire id, and with
it one request and its messages, of which each takes those that it does not have yet. Knows
messages and positions; nothing of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

logger = logging.getLogger(__name__)

# Messages that may wait for the application; then no more are read of the connection.
ROOM = 1000

# Sends a request and returns its answer. Raises Refused or LostError.
Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class StreamingError(Exception):
    """Anything that the client raises."""


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


class Finished(Closed):
    """The user has ended it."""


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
        **options: Any,
    ) -> None:
        self.type = type
        self.filters = filters
        self.options = {k: v for k, v in options.items() if v is not None}
        self.id = id
        # The id under which the server sends: equal subscriptions of one client share one.
        self.wire_id = id
        # The server's explanation of what matched when it began, if it was asked for.
        self.explanation: Mapping[str, Any] | None = None
        self._on_gap = on_gap
        self._rewind = rewind
        self._explain = explain
        # The positions up to which matching messages have been received, and handed out, if any.
        self.received = resume
        self._handed_out = resume
        self._waiting: asyncio.Queue[Message | StreamingError] = asyncio.Queue(ROOM)
        self._ended: StreamingError | None = None

    @property
    def position(self) -> Position | None:
        """The position up to which every matching message has been handed out, if any."""
        return self.received if self._waiting.empty() else self._handed_out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message. Raises what has ended the subscription, if not its user."""
        message = (self._waiting.empty() and self._ended) or await self._waiting.get()
        if isinstance(message, Finished):
            raise StopAsyncIteration
        if isinstance(message, StreamingError):
            raise message
        self._handed_out = message.position or self._handed_out
        return message

    # For the client

    def request(self) -> dict[str, Any]:
        """Return the ``subscribe`` message that begins it, or goes on where it was."""
        data: dict[str, Any] = {"type": self.type, "filters": dict(self.filters)} | self.options
        if self.received is not None:
            data["resume"] = self.received._asdict()
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
        if self.received is not None and not answer.get("recovered"):
            self.lose(Gap("not recovered"))
        # Else messages of before that position are still to come.
        if not answer.get("replayed") and "offset" in answer:
            self.reach(answer)

    def join(self, wire_id: str, answer: Mapping[str, Any]) -> None:
        """Share the messages of an equal one from now on."""
        self._note_explanation(answer)
        self.wire_id = wire_id
        if self.received is None and "offset" in answer:
            self.reach(answer)

    def _note_explanation(self, answer: Mapping[str, Any]) -> None:
        if self._explain and self.explanation is None:
            self.explanation = answer.get("explain")

    def reach(self, place: Mapping[str, Any]) -> None:
        """Note that everything that matches up to a position has been received."""
        self.received = Position(place["epoch"], place["offset"])

    def advance(self, place: Mapping[str, Any]) -> None:
        """Take a position of the server, which may be behind what has been received since."""
        received = self.received
        if (
            received is None
            or received.epoch != place["epoch"]
            or received.offset < place["offset"]
        ):
            self.reach(place)

    async def take(self, message: Mapping[str, Any]) -> None:
        """Take a ``data`` message; wait while there is no room. Drop one that came before."""
        place = message.get("metadata") or {}
        position = Position(place["epoch"], place["offset"]) if "offset" in place else None
        if position is not None and self.received is not None:
            epoch, offset = self.received
            if epoch == position.epoch and position.offset <= offset:
                return
        data = message["data"]
        [payload] = [value for name, value in data.items() if name != "subscription_type"]
        timestamp = message.get("timestamp", "")
        await self._waiting.put(Message(self.type, payload, timestamp, position, self.id))
        # Only now: a caller that is cancelled while it waits has not taken the message.
        self.received = position or self.received

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


class SharedSubscriptions:
    """The subscriptions of a client, by their ids."""

    def __init__(self) -> None:
        self.by_id: dict[str, Subscription] = {}

    def members(self, wire_id: str | None) -> list[Subscription]:
        """Return the subscriptions that take the messages under a wire id."""
        return [member for member in self.by_id.values() if member.wire_id == wire_id]

    def end(self, error: StreamingError) -> None:
        """End all of them."""
        for subscription in list(self.by_id.values()):
            subscription.end(error)
        self.by_id.clear()

    # Requests

    async def request(self, wire_id: str, ask: Ask) -> None:
        """Subscribe, from where the last of those that share the id is. Raises as *ask* does."""
        members = self.members(wire_id)
        if not members:
            return
        first = min(members, key=lambda each: each.received.offset if each.received else math.inf)
        is_resumed = first.received is not None
        shared = (await ask(first.request()))["subscription_id"]
        if shared != wire_id and is_resumed:
            # There is an equal one already, so the server has ignored from where to go on.
            await self.drop(shared, ask)
            await self.request(shared, ask)

    async def request_all(self, ask: Ask) -> None:
        """Subscribe to everything on a new connection; end what is refused. Raises LostError."""
        for wire_id in {member.wire_id: None for member in self.by_id.values()}:
            try:
                await self.request(wire_id, ask)
            except Refused as error:
                self._refuse(wire_id, error)

    async def drop(self, wire_id: str, ask: Ask) -> None:
        """Unsubscribe. Raises Refused or LostError."""
        await ask({"type": "unsubscribe", "data": {"subscription_id": wire_id}})

    def _refuse(self, wire_id: str, error: Refused) -> None:
        """End the subscriptions under a wire id."""
        for subscription in self.members(wire_id):
            del self.by_id[subscription.id]
            subscription.end(error)

    # Messages of the server: a method for each type that concerns subscriptions

    async def take(self, message: dict[str, Any]) -> bool:
        """Take a message; tell whether it answers a request."""
        if message["type"] in ("data", "data_batch"):
            await self._take_data(message)
            return False
        take = getattr(self, f"_take_{message['type']}", None)
        return take is None or take(message, message.get("data") or {})

    async def _take_data(self, message: dict[str, Any]) -> None:
        """Hand out messages; wait while an application has enough."""
        members = self.members(message.get("subscription_id"))
        messages = [message]
        if message["type"] == "data_batch":
            kind = message["data"]["subscription_type"]
            # The payload's key is the one that is not of the envelope.
            messages = [
                {
                    **each,
                    "data": {k: v for k, v in each.items() if k not in ("timestamp", "metadata")}
                    | {"subscription_type": kind},
                }
                for each in message["data"]["messages"]
            ]
        for each in messages:
            for subscription in members:
                await subscription.take(each)

    def _take_pong(self, message: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        for wire_id, place in (data.get("positions") or {}).items():
            for subscription in self.members(wire_id):
                subscription.advance(place)
        return True

    def _take_error(self, message: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        """Tell of lost messages; any other error answers a request."""
        if data.get("code") != "data_lost":
            return True
        details = data.get("details") or {}
        gap = Gap(details.get("reason", ""), details.get("from"), details.get("to"))
        for subscription in self.members(message.get("subscription_id")):
            subscription.lose(gap)
        return False

    def _take_unsubscribed(self, message: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        """End what the server has ended, for which it gives a reason."""
        if not data.get("reason"):
            return True
        self._refuse(message["subscription_id"], Refused("forbidden", "Not permitted any more"))
        return False

    def _take_subscribed(self, message: Mapping[str, Any], data: Mapping[str, Any]) -> bool:
        requested, answered = message["metadata"]["request"], message["subscription_id"]
        for subscription in self.members(requested):
            if requested == answered:
                subscription.begin(data)
            else:
                subscription.join(answered, data)
        return True
