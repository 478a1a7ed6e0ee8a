"""One client, however it is connected: its rights, its subscriptions, how it ends.

Knows the contract's rules for them. What all clients share is the node's; how bytes leave is the
outlet's; how requests come in, and in which form they are answered, is the consumer's
(:mod:`realtime.consumers`) or the event stream's (:mod:`realtime.http.event_stream`).
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any

from msgspec import Raw

from realtime.auth.tokens import ANONYMOUS, Grant, public_prefix
from realtime.cluster.connections import Connection, Subscribed
from realtime.database import Unavailable
from realtime.delivery.broker import LayerUnavailable
from realtime.delivery.replay import Replay
from realtime.delivery.transport import ConnectionOutlet
from realtime.filters import Filter, conjunction
from realtime.hub.groups import Subscription
from realtime.monitoring.access_log import record_end
from realtime.monitoring.audit_log import Event, record
from realtime.protocol import (
    CloseCode,
    CloseReason,
    ErrorCode,
    Position,
    ProtocolError,
    encode,
    encode_error,
)
from realtime.protocol.addresses import address_key
from realtime.protocol.frames import text_frame
from realtime.protocol.origins import origin_allowed
from realtime.protocol.subscribe import SubscribeRequest
from realtime.sessions.node import Node

logger = logging.getLogger(__name__)

RETRY_AFTER_UNAVAILABLE = 1
RETRY = {"retry_after": RETRY_AFTER_UNAVAILABLE}


class Session:
    """One client's stay, from when it is counted in until it is forgotten."""

    __slots__ = (
        "__weakref__",
        "_limits_reached",
        "_reason",
        "_sent",
        "_subscribed",
        "address",
        "address_key",
        "client_id",
        "connected_at",
        "ended",
        "grant",
        "node",
        "outlet",
        "received",
        "subscriptions",
    )

    def __init__(self, node: Node, address: str) -> None:
        self.node = node
        self.outlet: ConnectionOutlet | None = None
        self.grant: Grant | None = None
        self.client_id = str(uuid.uuid4())
        self.address = address
        self.address_key = address_key(address)
        self.connected_at = time.time()
        # Subscription id -> the subscription and the client's own filters.
        self.subscriptions: dict[str, tuple[Subscription, Filter]] = {}
        # Set when the client is told to go, or is gone: what still comes in is not looked at.
        self.ended = False
        # Messages of the client.
        self.received = 0
        # Limits that this client has reached, as the audit log has them.
        self._limits_reached: tuple[str, ...] = ()
        # For the access log: why this server ended the session, if it did; the subscriptions and
        # the bytes sent at the end.
        self._reason: CloseReason | None = None
        self._subscribed = self._sent = 0

    def attach(self, outlet: ConnectionOutlet) -> None:
        """Take the way out to the client."""
        self.outlet = outlet
        outlet.on_lost = self.forget
        outlet.on_ended = self._ended_by_outlet

    # Coming and going

    def refuse(self, origin: str | None) -> tuple[CloseCode, CloseReason] | None:
        """Count the client in, or say why it may not stay."""
        config = self.node.policy.config
        if not origin_allowed(origin, config.allowed_origins):
            self.node.stats.refused_connections += 1
            self.audit(Event.DENIED, origin=origin)
            return CloseCode.POLICY_VIOLATION, CloseReason.ORIGIN
        if reason := self.node.admit(self):
            return CloseCode.TRY_AGAIN_LATER, reason
        if not config.require_auth:
            self.enter(ANONYMOUS)
        return None

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the connection after what is buffered; once or more."""
        if self.ended:
            return
        if code is CloseCode.TRY_AGAIN_LATER or reason is CloseReason.FLOODING:
            self.audit(Event.LIMIT_REACHED, limit=reason)
        elif code is CloseCode.POLICY_VIOLATION:
            self.audit(Event.ENDED, reason=reason)
        self._reason = reason
        self.forget()
        if self.outlet is not None:
            self.outlet.close(code, reason)

    def forget(self) -> None:
        """Let go of the client's subscriptions and rights; once or more."""
        if not self.ended:
            self.ended = True
            self._subscribed = len(self.subscriptions)
            self._sent = self.outlet.bytes_sent if self.outlet else 0
        for subscription, _ in self.subscriptions.values():
            self.node.subscriptions.unsubscribe(subscription)
        self.subscriptions.clear()
        self.node.forget(self)

    def _ended_by_outlet(self, reason: CloseReason) -> None:
        """Forget a client that the outlet closes."""
        if reason is CloseReason.SLOW_CONSUMER:
            self.node.stats.slow_consumers += 1
        self.audit(Event.LIMIT_REACHED, limit=reason)
        self._reason = reason
        self.forget()

    def closed(self, code: int, transport: str) -> None:
        """Count and log how the connection ended, once it has; 1006 without a close frame."""
        self.node.stats.count_close(code)
        grant = self.grant
        record_end(
            transport=transport,
            client_id=self.client_id,
            code=code,
            seconds=max(0.0, time.time() - self.connected_at),
            address=self.address or None,
            holder=grant.holder if grant else None,
            token=grant.prefix if grant else None,
            reason=self._reason,
            messages_received=self.received,
            bytes_sent=self._sent,
            subscriptions=self._subscribed,
        )

    def restart(self, retry_after: float) -> None:
        """Ask the client to come back after so many seconds, and close; unless it has ended."""
        if self.ended:
            return
        error = ProtocolError(ErrorCode.RESTARTING, details={"retry_after": retry_after})
        self.send_error(error)
        self.end(CloseCode.SERVICE_RESTART, CloseReason.RESTARTING)

    def describe(self) -> Connection:
        """Return what an operator may see of this client."""
        grant, outlet = self.grant, self.outlet
        return Connection(
            self.client_id,
            grant.holder if grant else None,
            grant.prefix if grant else None,
            self.address,
            self.connected_at,
            outlet.bytes_sent if outlet else 0,
            outlet.buffered_bytes() if outlet else 0,
            [Subscribed(known, found.type) for known, (found, _) in self.subscriptions.items()],
        )

    # Rights

    async def authenticate(self, secret: str | None) -> Grant | None:
        """Return what a secret grants, for :meth:`enter`; one that is wrong is answered late.

        One of the secret's connections is taken if those are limited; if there is none, the
        session ends. Raises ``Unavailable``.
        """
        try:
            grant = await self._find_grant(secret)
        except Unavailable:
            self.node.stats.auth_unavailable += 1
            raise
        if self.ended:
            self.node.leases.release(self.client_id)
        elif grant is None:
            await self.count_failure(secret)
        return grant

    async def _find_grant(self, secret: str | None) -> Grant | None:
        authority, leases = self.node.authority, self.node.leases
        grant = await authority.authenticate(secret) if secret else None
        if secret is None or grant is None or grant.max_connections is None:
            return grant
        if not await leases.acquire(self.client_id, grant):
            self.end(CloseCode.TRY_AGAIN_LATER, CloseReason.TOKEN_CONNECTIONS)
            return None
        # Meanwhile an administrator may have changed it.
        grant = await authority.authenticate(secret)
        if grant is None:
            leases.release(self.client_id)
        return grant

    async def count_failure(self, secret: str | None) -> None:
        """Count and audit a wrong credential; return late, the later the more there were."""
        self.node.stats.auth_failures += 1
        self.audit(Event.AUTH_FAILED, token=public_prefix(secret or ""))
        free = self.node.policy.config.auth_failures_per_minute
        await asyncio.sleep(
            await self.node.failures.record(self.address_key, time.monotonic(), free)
        )

    def enter(self, grant: Grant) -> bool:
        """Take rights; if their holder has connections enough, the session ends instead."""
        if not self.node.authority.bind(self, grant):
            self.end(CloseCode.TRY_AGAIN_LATER, CloseReason.TOKEN_CONNECTIONS)
            return False
        if self.outlet is not None:
            self.outlet.trust()
        if grant is not ANONYMOUS:
            self.node.stats.authenticated += 1
            self.audit(Event.AUTHENTICATED)
        return True

    def apply_grant(self, grant: Grant) -> None:
        """Take changed rights: subscriptions that are no longer allowed end, others follow."""
        self.node.roster.change(self, grant)
        self.node.leases.hold(self.client_id, grant)
        for subscription_id, (subscription, own) in list(self.subscriptions.items()):
            if subscription.type in grant.types:
                self.node.subscriptions.change_filter(subscription, conjunction(own, grant.filters))
            else:
                self.unsubscribe(subscription_id)
                self.reply("unsubscribed", {"reason": "forbidden"}, subscription_id)

    # Subscriptions

    async def subscribe(
        self,
        request: SubscribeRequest,
        chosen_id: str | None = None,
        metadata: Raw | None = None,
    ) -> None:
        """Subscribe, confirm it to the client, and begin to send.

        A client that has the subscription already only has it confirmed.

        Raises:
            ProtocolError: the client may not, or cannot now; nothing has been sent.
        """
        # First: between the subscription and its confirmation nothing may wait.
        explanation = await self._explain(request)
        grant = self._grant_for(request.type)
        subscription_id = self._find_id(request, chosen_id)
        replay = None
        if subscription_id not in self.subscriptions:
            replay = await self._add(subscription_id, request, grant)
        self._confirm(subscription_id, request, replay, metadata, explanation)
        if replay is not None:
            self.node.subscriptions.go_live(replay)

    def _grant_for(self, kind: str) -> Grant:
        """Return the client's rights, if they allow a type. Raises :class:`ProtocolError`."""
        assert self.grant is not None
        if kind not in self.grant.types:
            self.audit(Event.DENIED, type=kind)
            raise ProtocolError(ErrorCode.FORBIDDEN)
        return self.grant

    async def _explain(self, request: SubscribeRequest) -> dict[str, Any] | None:
        """Return how many of the newest messages match, if the client asks for that."""
        if not request.wants_explanation:
            return None
        while True:
            grant = self._grant_for(request.type)
            try:
                explanation = await self.node.subscriptions.explain(request, grant.filters)
            except LayerUnavailable as error:
                raise _unavailable("explaining", request, error) from None
            if self.grant is grant:  # else its rights have changed meanwhile
                return explanation

    async def _add(self, subscription_id: str, request: SubscribeRequest, grant: Grant) -> Replay:
        """Subscribe with the rights that the client has in the end; they may change meanwhile."""
        assert self.outlet is not None
        while True:
            try:
                replay = await self.node.subscriptions.subscribe(
                    self.outlet, request, grant.filters, subscription_id
                )
            except LayerUnavailable as error:
                raise _unavailable("subscribing to", request, error) from None
            if self.grant is grant and not self.ended:
                self.subscriptions[subscription_id] = replay.subscription, request.filters
                return replay
            self.node.subscriptions.unsubscribe(replay.subscription)
            if self.ended:
                raise ProtocolError(ErrorCode.FORBIDDEN)
            grant = self._grant_for(request.type)

    def _find_id(self, request: SubscribeRequest, chosen_id: str | None) -> str:
        """Return the id under which the client has this subscription, or will have it."""
        content = request.type, request.filters, request.options
        equal_ids = [
            subscription_id
            for subscription_id, (subscription, filters) in self.subscriptions.items()
            if (subscription.type, filters, subscription.options) == content
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

    def _confirm(
        self,
        subscription_id: str,
        request: SubscribeRequest,
        replay: Replay | None,
        metadata: Raw | None,
        explanation: dict[str, Any] | None,
    ) -> None:
        """Answer ``subscribed``; without a replay the subscription is not new."""
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

    def position(self, subscription_id: str) -> Position:
        """Return the position up to which a subscription has been sent all that matches."""
        return self.node.subscriptions.position(self.subscriptions[subscription_id][0])

    def unsubscribe(self, subscription_id: str) -> None:
        """End a subscription. Raises ``KeyError``."""
        subscription, _ = self.subscriptions.pop(subscription_id)
        self.node.subscriptions.unsubscribe(subscription)

    # In and out

    def count_received(self, message: str | bytes) -> None:
        """Count a message of the client, whatever is in it."""
        self.received += 1
        stats = self.node.stats
        stats.messages_received += 1
        if isinstance(message, str) and not message.isascii():
            message = message.encode(errors="surrogatepass")
        stats.received_bytes += len(message)

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
        if self.outlet is not None:
            self.node.stats.messages_sent += 1
            self.outlet.write(text_frame(text))

    def audit(self, event: Event, **fields: Any) -> None:
        """Write an event of this client into the audit log."""
        grant = self.grant
        known = {"holder": grant.holder, "token": grant.prefix} if grant else {}
        fields = known | fields
        record(event, client_id=self.client_id, address=self.address or None, **fields)

    def audit_limit(self, limit: str) -> None:
        """Record that the client has reached a limit, the first time."""
        if limit not in self._limits_reached:
            self._limits_reached += (limit,)
            self.audit(Event.LIMIT_REACHED, limit=limit)


def _unavailable(action: str, request: SubscribeRequest, error: LayerUnavailable) -> ProtocolError:
    logger.warning("%s %s: %s", action, request.type, error)
    return ProtocolError(ErrorCode.UNAVAILABLE, details=RETRY)
