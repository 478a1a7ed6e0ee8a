"""All subscriptions of a client, and which of them receive what the server sends.

Equal subscriptions of one client are one subscription to the server: they share a wire id, and with
it one request and its messages, of which each takes those that it does not have yet. Knows
messages; nothing of connections.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from realtime.client.contract import Gap, Refused, StreamingError
from realtime.client.subscription import Subscription, unpack

# Sends a request and returns its answer. Raises Refused or LostError.
Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def _received_offset(subscription: Subscription) -> float:
    return subscription.received.offset if subscription.received else math.inf


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
        """Subscribe, from where the furthest behind of those that share the wire id is.

        Raises:
            Refused, LostError
        """
        members = self.members(wire_id)
        if not members:
            return
        first = min(members, key=_received_offset)
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
        for each in [message] if message["type"] == "data" else unpack(message):
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
