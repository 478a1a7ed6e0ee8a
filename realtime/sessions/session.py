"""One client that is connected: how it is let in, which rights it has, and how it ends.

Knows the contract's rules for that; in which form requests come in and are answered is decided in
:mod:`realtime.consumers` and :mod:`realtime.http.event_stream`.
"""

from __future__ import annotations

import time

from realtime.auth.grants import ANONYMOUS, Grant
from realtime.cluster.connections import Connection, Subscribed
from realtime.database import Unavailable
from realtime.delivery.transport import Transport
from realtime.filters import conjunction
from realtime.monitoring.logs import Event, record_end
from realtime.protocol import CloseCode, CloseReason, ErrorCode, ProtocolError
from realtime.protocol.origins import origin_allowed
from realtime.sessions.node import Node
from realtime.sessions.subscriber import Subscriber


class Session(Subscriber):
    """One connection, from when it opens until it is closed and logged.

    ::

         new --admit()--> waiting --enter()--> entered: may subscribe
          |                  |                    |
          +------------------+--------------------+--> ended --record_close()--> logged

    If no authentication is required, :meth:`admit` enters at once, as ``ANONYMOUS``. From every
    state :meth:`end`, :meth:`restart`, :meth:`forget` and the transport lead to the end.

    A session that has ended has no subscriptions and no place in the roster; what still comes in
    is dropped. ``grant`` stays, for the access log. Whoever makes a session must call
    :meth:`attach` before all else, and :meth:`forget` at the end whatever happens.
    """

    __slots__ = ("__weakref__", "_reason", "_sent", "_subscribed", "connected_at", "received")

    def __init__(self, node: Node, address: str) -> None:
        super().__init__(node, address)
        self.connected_at = time.time()
        # For the access log: messages of the client, why this server ended the session, if it did,
        # and how many subscriptions it had and bytes it had been sent in the end.
        self.received = 0
        self._reason: CloseReason | None = None
        self._subscribed = self._sent = 0

    def attach(self, transport: Transport) -> None:
        """Take the way to the client."""
        self.transport = transport
        transport.on_lost = self.forget
        transport.on_ended = self._ended_by_transport

    # Coming and going

    def admit(self, origin: str | None) -> bool:
        """Count the client in, or end the session and return false."""
        config = self.node.policy.config
        if not origin_allowed(origin, config.allowed_origins):
            self.node.stats.refused_connections += 1
            self.audit(Event.DENIED, origin=origin)
            self.end(CloseCode.POLICY_VIOLATION, CloseReason.ORIGIN)
        elif reason := self.node.admit(self):
            self.end(CloseCode.TRY_AGAIN_LATER, reason)
        elif not config.require_auth:
            self.enter(ANONYMOUS)
        return not self.has_ended

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the connection after what is buffered; once or more."""
        if self.has_ended:
            return
        if code is CloseCode.TRY_AGAIN_LATER or reason is CloseReason.FLOODING:
            self.audit(Event.LIMIT_REACHED, limit=reason)
        elif code is CloseCode.POLICY_VIOLATION:
            self.audit(Event.ENDED, reason=reason)
        self._reason = reason
        self.forget()
        if self.transport is not None:
            self.transport.close(code, reason)

    def restart(self, retry_after: float) -> None:
        """Ask the client to come back after so many seconds, and close; unless it has ended."""
        if self.has_ended:
            return
        details = {"retry_after": retry_after}
        self.send_error(ProtocolError(ErrorCode.RESTARTING, details=details))
        self.end(CloseCode.SERVICE_RESTART, CloseReason.RESTARTING)

    def forget(self) -> None:
        """Let go of the client's subscriptions and rights; once or more."""
        if not self.has_ended:
            self.has_ended = True
            self._subscribed = len(self.subscriptions)
            self._sent = self.transport.bytes_sent if self.transport else 0
        for subscription, _ in self.subscriptions.values():
            self.node.subscriptions.unsubscribe(subscription)
        self.subscriptions.clear()
        self.node.forget(self)

    def _ended_by_transport(self, reason: CloseReason) -> None:
        """Forget a client that its transport closes."""
        if reason is CloseReason.SLOW_CONSUMER:
            self.node.stats.slow_consumers += 1
        self.audit(Event.LIMIT_REACHED, limit=reason)
        self._reason = reason
        self.forget()

    def record_close(self, code: int, transport: str) -> None:
        """Count and log, under the name of a transport, how the connection ended."""
        self.node.stats.closes[code] += 1
        record_end(
            transport=transport,
            code=code,
            seconds=max(0.0, time.time() - self.connected_at),
            **self.identity(),
            reason=self._reason,
            messages_received=self.received,
            bytes_sent=self._sent,
            subscriptions=self._subscribed,
        )

    def describe(self) -> Connection:
        """Return what an operator may see of this client."""
        transport = self.transport
        return Connection(
            self.client_id,
            self.grant.holder if self.grant else None,
            self.grant.prefix if self.grant else None,
            self.address,
            self.connected_at,
            transport.bytes_sent if transport else 0,
            transport.buffered_bytes() if transport else 0,
            [Subscribed(key, each.type) for key, (each, _) in self.subscriptions.items()],
        )

    def count_received(self, message: str | bytes) -> None:
        """Count a message of the client, whatever is in it."""
        self.received += 1
        self.node.stats.messages_received += 1
        if isinstance(message, str) and not message.isascii():
            message = message.encode(errors="surrogatepass")
        self.node.stats.received_bytes += len(message)

    # Rights

    async def authenticate(self, secret: str | None) -> Grant | None:
        """Return what a credential grants, for :meth:`enter`; one that is wrong is answered late.

        If its connections are limited, one is taken; if there is none left, the session ends.
        After this the caller must look at ``has_ended``. Raises ``Unavailable``.
        """
        try:
            grant = await self._find_grant(secret)
        except Unavailable:
            self.node.stats.auth_unavailable += 1
            raise
        if self.has_ended:
            self.node.leases.release(self.client_id)
        elif grant is None:
            await self.count_failure(secret)
        return grant

    async def _find_grant(self, secret: str | None) -> Grant | None:
        """Return what a credential grants; take one of its connections if those are limited."""
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

    def enter(self, grant: Grant) -> bool:
        """Take rights; if their holder has connections enough, the session ends instead."""
        if not self.node.roster.bind(self, grant):
            self.end(CloseCode.TRY_AGAIN_LATER, CloseReason.TOKEN_CONNECTIONS)
            return False
        self.node.authority.note_use(grant)
        if self.transport is not None:
            self.transport.trust()
        if grant is not ANONYMOUS:
            self.node.stats.authenticated += 1
            self.audit(Event.AUTHENTICATED)
        return True

    def apply_grant(self, grant: Grant) -> None:
        """Take changed rights: subscriptions that are no longer allowed end, others follow."""
        if self.has_ended:
            return  # it could not take the answer
        self.node.roster.change(self, grant)
        self.node.leases.hold(self.client_id, grant)
        for subscription_id, (subscription, own) in list(self.subscriptions.items()):
            if self.has_ended:
                return  # it could not take what was sent of another subscription
            if subscription.type in grant.types:
                self.node.subscriptions.change_filter(subscription, conjunction(own, grant.filters))
            else:
                self.unsubscribe(subscription_id)
                self.reply("unsubscribed", {"reason": "forbidden"}, subscription_id)
