"""Who is at the other end, with which rights; and what it receives: subscriptions and answers."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from realtime.auth.grants import Grant
from realtime.auth.tokens import public_prefix
from realtime.cluster.clients import Unavailable
from realtime.delivery.replay import Replay
from realtime.delivery.transport import Transport
from realtime.filters import Filter
from realtime.hub.groups import Subscription
from realtime.monitoring.logs import Event, record
from realtime.protocol import ErrorCode, Position, ProtocolError, encode, encode_error, text_frame
from realtime.protocol.origins import address_key
from realtime.protocol.subscribe import SubscribeRequest

if TYPE_CHECKING:
    from realtime.sessions.node import Node

logger = logging.getLogger(__name__)

# Seconds after which to try again if the database or the channel layer does not answer.
RETRY_AFTER_UNAVAILABLE = 1


class Peer:
    """One client of the server, for as long as one connection or request lasts."""

    __slots__ = ("_limits_reached", "address", "address_key", "client_id", "grant", "node")

    def __init__(self, node: Node, address: str) -> None:
        self.node = node
        # What the audit log and operators know it by; new for each connection or request.
        self.client_id = str(uuid.uuid4())
        self.address = address
        # What limits count the address as; see :mod:`realtime.protocol.origins`.
        self.address_key = address_key(address)
        # The rights in force, None before authentication. A session's are indexed: they are set by
        # the roster alone.
        self.grant: Grant | None = None
        # Each is audited once.
        self._limits_reached: tuple[str, ...] = ()

    async def authenticate(self, secret: str | None) -> Grant | None:
        """Return what a credential grants, for ``grant``. Raises ``Unavailable``."""
        grant = await self.node.authority.authenticate(secret) if secret else None
        if grant is None:
            await self.count_failure(secret)
        return grant

    async def count_failure(self, secret: str | None) -> None:
        """Count and audit a wrong credential; return late, the later the more there were."""
        self.node.stats.auth_failures += 1
        self.audit(Event.AUTH_FAILED, token=public_prefix(secret or ""))
        free = self.node.policy.config.auth_failures_per_minute
        delay = await self.node.failures.record(self.address_key, time.monotonic(), free)
        await asyncio.sleep(delay)

    def count_rate_limited(self) -> None:
        """Count a message or request beyond the rate limit."""
        self.node.stats.rate_limited += 1
        self.audit_limit("rate limit")

    def identity(self) -> dict[str, Any]:
        """Return by what logs know it: client_id, address, holder and token."""
        return {
            "client_id": self.client_id,
            "address": self.address or None,
            "holder": self.grant.holder if self.grant else None,
            "token": self.grant.prefix if self.grant else None,
        }

    def audit(self, event: Event, **fields: Any) -> None:
        """Write an event of this client into the audit log."""
        record(event, **self.identity() | fields)

    def audit_limit(self, limit: str) -> None:
        """Record that the client has reached a limit, the first time."""
        if limit not in self._limits_reached:
            self._limits_reached += (limit,)
            self.audit(Event.LIMIT_REACHED, limit=limit)


class Subscriber(Peer):
    """A peer that has a transport, and subscriptions whose messages are written to it."""

    __slots__ = ("has_ended", "subscriptions", "transport")

    def __init__(self, node: Node, address: str) -> None:
        super().__init__(node, address)
        self.transport: Transport | None = None
        # Subscription id -> the subscription and the client's own filters.
        self.subscriptions: dict[str, tuple[Subscription, Filter]] = {}
        # Whether it has been told to go or is gone: it can have no subscriptions any more.
        self.has_ended = False

    async def subscribe(
        self, request: SubscribeRequest, chosen_id: str | None = None, metadata: Raw | None = None
    ) -> None:
        """Subscribe, confirm it to the client, and begin to send; what it has is only confirmed.

        If it raises :class:`ProtocolError`, nothing has been sent.
        """
        # First: between the subscription and its confirmation nothing may wait.
        explanation = await self._explain(request) if request.wants_explanation else None
        grant = self._grant_for(request.type)
        subscription_id = self._find_id(request, chosen_id)
        replay = None  # if the subscription is not new
        if subscription_id not in self.subscriptions:
            replay = await self._add(subscription_id, request, grant)
        position = replay.live_from if replay else self.position(subscription_id)
        data = {
            "type": request.type,
            "filters": request.raw_filters,
            **position._asdict(),
            "recovered": replay is not None and replay.recovered,
            "replayed": replay.replayed if replay else 0,
        }
        if request.options is not None:
            data["options"] = request.options.describe()
        if explanation is not None:
            data["explain"] = explanation
        self.reply("subscribed", data, subscription_id, metadata)
        if replay is not None:
            self.node.subscriptions.go_live(replay)

    def _grant_for(self, kind: str) -> Grant:
        """Return the client's rights, if they allow a type. Raises :class:`ProtocolError`."""
        assert self.grant is not None
        if kind not in self.grant.types:
            self.audit(Event.DENIED, type=kind)
            raise ProtocolError(ErrorCode.FORBIDDEN)
        return self.grant

    async def _explain(self, request: SubscribeRequest) -> dict[str, Any]:
        """Return how many of the newest messages match, of those that the client may see."""
        while True:
            grant = self._grant_for(request.type)
            try:
                explanation = await self.node.subscriptions.explain(request, grant.filters)
            except Unavailable as error:
                raise _unavailable("explaining", request, error) from None
            if self.grant is grant:  # else its rights have changed meanwhile
                return explanation

    async def _add(self, subscription_id: str, request: SubscribeRequest, grant: Grant) -> Replay:
        """Subscribe with the rights that the client has in the end; they may change meanwhile."""
        assert self.transport is not None
        while True:
            try:
                replay = await self.node.subscriptions.subscribe(
                    self.transport, request, grant.filters, subscription_id
                )
            except Unavailable as error:
                raise _unavailable("subscribing to", request, error) from None
            if self.grant is grant and not self.has_ended:
                self.subscriptions[subscription_id] = replay.subscription, request.filters
                return replay
            self.node.subscriptions.unsubscribe(replay.subscription)
            if self.has_ended:
                raise ProtocolError(ErrorCode.FORBIDDEN)
            grant = self._grant_for(request.type)

    def _find_id(self, request: SubscribeRequest, chosen_id: str | None) -> str:
        """Return the id under which the client has this subscription, or will have it."""
        content = request.type, request.filters, request.options
        equal_ids = [
            key
            for key, (each, filters) in self.subscriptions.items()
            if (each.type, filters, each.options) == content
        ]
        if chosen_id in self.subscriptions and chosen_id not in equal_ids:
            raise ProtocolError(ErrorCode.DUPLICATE_SUBSCRIPTION)
        if equal_ids:
            return chosen_id if chosen_id in equal_ids else equal_ids[0]
        if len(self.subscriptions) >= self.node.policy.config.max_subscriptions_per_client:
            self.audit_limit("subscriptions")
            raise ProtocolError(ErrorCode.TOO_MANY_SUBSCRIPTIONS)
        subscription_id = chosen_id or request.derive_id()
        if subscription_id in self.subscriptions:
            raise ProtocolError(ErrorCode.DUPLICATE_SUBSCRIPTION)
        return subscription_id

    def position(self, subscription_id: str) -> Position:
        """Return the position up to which a subscription has been sent all that matches."""
        return self.node.subscriptions.position(self.subscriptions[subscription_id][0])

    def unsubscribe(self, subscription_id: str) -> None:
        """End a subscription. Raises ``KeyError``."""
        subscription, _ = self.subscriptions.pop(subscription_id)
        self.node.subscriptions.unsubscribe(subscription)

    def reply(
        self,
        kind: str,
        data: dict[str, Any] | None = None,
        subscription_id: str | None = None,
        metadata: Raw | None = None,
    ) -> None:
        """Send a message to the client."""
        self._send(encode(kind, time.time(), data, subscription_id, metadata))

    def send_error(self, error: ProtocolError) -> None:
        """Send an ``error`` message to the client."""
        self._send(encode_error(error, time.time()))

    def _send(self, text: bytes) -> None:
        if self.transport is not None:
            self.node.stats.messages_sent += 1
            self.transport.write(text_frame(text))


def _unavailable(action: str, request: SubscribeRequest, error: Unavailable) -> ProtocolError:
    logger.warning("%s %s: %s", action, request.type, error)
    return ProtocolError(ErrorCode.UNAVAILABLE, details={"retry_after": RETRY_AFTER_UNAVAILABLE})
