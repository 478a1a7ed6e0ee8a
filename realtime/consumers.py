"""One client's conversation: connect, authenticate, subscribe, unsubscribe, ping.

Knows the contract's rules for a connection. What all connections share is the node's; how bytes
reach the socket is the outlet's.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import Any, ClassVar

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from msgspec import Raw

from realtime.addresses import address_key
from realtime.audit import Event, record
from realtime.auth import ANONYMOUS, Grant, public_prefix
from realtime.broker import LayerUnavailable
from realtime.database import Unavailable
from realtime.filters import (
    Filter,
    compile_filters,
    conjunction,
    derive_subscription_id,
)
from realtime.frames import text_frame
from realtime.hub import Subscription
from realtime.limits import RateLimiter, Verdict
from realtime.live import Connection, Subscribed
from realtime.node import Node, get_node
from realtime.origins import origin_allowed
from realtime.outlet import OUTLET_EXTENSION, AsgiOutlet, ConnectionOutlet
from realtime.protocol import (
    SUBSCRIPTION_TYPES,
    Auth,
    CloseCode,
    CloseReason,
    Command,
    ErrorCode,
    Ping,
    Position,
    ProtocolError,
    Subscribe,
    Unsubscribe,
    encode,
    encode_error,
    format_timestamp,
    parse,
)
from realtime.replay import Replay, Request, read_request

logger = logging.getLogger(__name__)

MAX_AUTH_FAILURES = 3
RETRY_AFTER_UNAVAILABLE = 1


class StreamConsumer(AsyncJsonWebsocketConsumer):
    """The consumer of one connection.

    It has no channel of its own: messages reach it through the node's hub, which saves a
    subscription in the channel layer and a task for each connection.
    """

    # No layer has this name, so that Channels gives the consumer none.
    channel_layer_alias = "none for connections"
    handlers: ClassVar[dict[str, str]] = {
        "websocket.connect": "websocket_connect",
        "websocket.receive": "websocket_receive",
        "websocket.disconnect": "websocket_disconnect",
    }

    def __init__(self) -> None:
        super().__init__()
        self.node: Node = get_node()
        self.outlet: ConnectionOutlet | None = None
        self.grant: Grant | None = None
        self.client_id = str(uuid.uuid4())
        self.address = ""
        self.address_key = ""
        self.connected_at = time.time()
        # Subscription id -> the subscription and the client's own filters.
        self.subscriptions: dict[str, tuple[Subscription, Filter]] = {}
        self._limiter = RateLimiter()
        self._auth_failures = 0
        # Limits that this client has reached, as the audit log has them.
        self._limits_reached: tuple[str, ...] = ()
        self._auth_timer: asyncio.TimerHandle | None = None
        # Set when the connection is closed or about to be: what still comes in is not looked at.
        self._ended = False

    # ASGI

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one connection: its messages one after another, in this one task."""
        self.scope = scope
        self.base_send = send
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            pass
        except Exception:
            logger.exception("a connection failed")
            self.end(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)
        finally:
            self.gone()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Hand a message of the server to its handler.

        Unlike Channels' own, it does not close old database connections, which takes a hop to the
        one thread that all consumers share; database work here has threads of its own.
        """
        await getattr(self, self.handlers[message["type"]])(message)

    async def connect(self) -> None:
        """Accept, then close at once those who may not stay: so a browser can read why."""
        await self.node.start()
        await self.accept()
        extensions = self.scope.get("extensions") or {}
        self.outlet = extensions.get(OUTLET_EXTENSION) or AsgiOutlet(
            self.base_send, lambda: self.node.policy.config.max_buffered_bytes
        )
        self.outlet.on_lost = self.gone
        self.outlet.on_ended = self._ended_by_outlet
        self.address = (self.scope.get("client") or ("",))[0]
        self.address_key = address_key(self.address)
        config = self.node.policy.config
        if self.node.draining:
            self.restart(self.node.restart_delay())
        elif not origin_allowed(_origin(self.scope), config.allowed_origins):
            self.node.stats.refused_connections += 1
            self._audit(Event.DENIED, origin=_origin(self.scope))
            self.end(CloseCode.POLICY_VIOLATION, CloseReason.ORIGIN)
        elif refusal := self.node.admit(self):
            self.end(CloseCode.TRY_AGAIN_LATER, refusal)
        elif config.require_auth:
            self._auth_timer = asyncio.get_running_loop().call_later(
                config.auth_timeout_seconds,
                self.end,
                CloseCode.POLICY_VIOLATION,
                CloseReason.AUTH_TIMEOUT,
            )
        else:
            self._enter(ANONYMOUS)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Count, read and carry out one message."""
        if self._ended:
            return
        self.node.stats.messages_received += 1
        try:
            self._check_rate()
            command = parse(text_data if text_data is not None else bytes_data or b"")
            if self.grant is None and not isinstance(command, Auth | Ping):
                raise _with_metadata(ProtocolError(ErrorCode.AUTH_REQUIRED), command)
            await self.receive_json(command)
        except ProtocolError as error:
            self._send(encode_error(error, time.time()))

    async def receive_json(self, content: Command) -> None:
        """Carry out a command. Raises :class:`ProtocolError`."""
        try:
            match content:
                case Auth():
                    await self._authenticate(content)
                case Subscribe():
                    await self._subscribe(content)
                case Unsubscribe():
                    self._unsubscribe(content)
                case Ping():
                    self._reply("pong", self._positions(), metadata=content.metadata)
        except ProtocolError as error:
            raise _with_metadata(error, content) from None

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """End the task of a client that is gone."""
        if isinstance(self.outlet, AsgiOutlet):
            self.outlet.abandon()
        raise StopConsumer

    # Called by the node and the server

    def end(self, code: CloseCode, reason: CloseReason) -> None:
        """Close the connection after what is buffered; once or more."""
        if self._ended:
            return
        if code is CloseCode.TRY_AGAIN_LATER or reason is CloseReason.FLOODING:
            self._audit(Event.LIMIT_REACHED, limit=reason)
        elif code is CloseCode.POLICY_VIOLATION:
            self._audit(Event.ENDED, reason=reason)
        self.gone()
        if self.outlet is not None:
            self.outlet.close(code, reason)

    def gone(self) -> None:
        """Forget the connection: its subscriptions, rights and timers; once or more."""
        self._ended = True
        if self._auth_timer is not None:
            self._auth_timer.cancel()
            self._auth_timer = None
        for subscription, _ in self.subscriptions.values():
            self.node.unsubscribe(subscription)
        self.subscriptions.clear()
        self.node.forget(self)

    def describe(self) -> Connection:
        """Return what an operator may see of this connection."""
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

    def _ended_by_outlet(self, reason: CloseReason) -> None:
        """Forget a client that the outlet closes."""
        if reason is CloseReason.SLOW_CONSUMER:
            self.node.stats.slow_consumers += 1
        self._audit(Event.LIMIT_REACHED, limit=reason)
        self.gone()

    def restart(self, retry_after: float) -> None:
        """Ask the client to come back after so many seconds, and close; unless it has ended."""
        if self._ended:
            return
        error = ProtocolError(ErrorCode.RESTARTING, details={"retry_after": retry_after})
        self._send(encode_error(error, time.time()))
        self.end(CloseCode.SERVICE_RESTART, CloseReason.RESTARTING)

    def apply_grant(self, grant: Grant) -> None:
        """Take changed rights: subscriptions that are no longer allowed end, others follow."""
        self.node.roster.change(self, grant)
        self.node.leases.hold(self.client_id, grant)
        for subscription_id, (subscription, own) in list(self.subscriptions.items()):
            if subscription.type in grant.types:
                self.node.hub.change_filter(subscription, conjunction(own, grant.filters))
            else:
                self._remove(subscription_id)
                self._reply("unsubscribed", {"reason": "forbidden"}, subscription_id)

    # Commands

    def _check_rate(self) -> None:
        config = self.node.policy.config
        if not config.enable_rate_limiting:
            return
        own_limit = self.grant.rate_limit_per_minute if self.grant else None
        now = time.monotonic()
        limit = own_limit or config.rate_limit_per_minute
        verdict = self._limiter.check(now, limit)
        if verdict is Verdict.ACCEPT:
            return
        self.node.stats.rate_limited += 1
        self._audit_limit("rate limit")
        if verdict is Verdict.FLOODING:
            self.end(CloseCode.POLICY_VIOLATION, CloseReason.FLOODING)
        raise ProtocolError(
            ErrorCode.RATE_LIMITED, details={"retry_after": self._limiter.retry_after(now, limit)}
        )

    async def _authenticate(self, command: Auth) -> None:
        try:
            grant = await self._find_grant(command.token)
        except Unavailable as error:
            logger.warning("authentication: %s", error)
            self._reply("auth_failed", _UNAVAILABLE, metadata=command.metadata)
            return
        if self._ended:
            self.node.leases.release(self.client_id)
        elif grant is None:
            await self._refuse_authentication(command)
        elif not self._enter(grant):
            self.end(CloseCode.TRY_AGAIN_LATER, CloseReason.TOKEN_CONNECTIONS)
        else:
            self._accept_authentication(grant, command.metadata)

    async def _find_grant(self, secret: str | None) -> Grant | None:
        """Return what a secret grants, with one of its connections taken if those are limited."""
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

    def _enter(self, grant: Grant) -> bool:
        """Take rights, unless their holder has connections enough in this process."""
        if not self.node.authority.bind(self, grant):
            return False
        if self.outlet is not None:
            self.outlet.trust()
        return True

    async def _refuse_authentication(self, command: Auth) -> None:
        self.node.stats.auth_failures += 1
        self._auth_failures += 1
        self._audit(Event.AUTH_FAILED, token=public_prefix(command.token or ""))
        free = self.node.policy.config.auth_failures_per_minute
        await asyncio.sleep(
            await self.node.failures.record(self.address_key, time.monotonic(), free)
        )
        self._reply("auth_failed", _INVALID_CREDENTIALS, metadata=command.metadata)
        if self._auth_failures >= MAX_AUTH_FAILURES:
            self.end(CloseCode.POLICY_VIOLATION, CloseReason.AUTH_FAILED)

    def _accept_authentication(self, grant: Grant, metadata: Raw | None) -> None:
        if self._auth_timer is not None:
            self._auth_timer.cancel()
            self._auth_timer = None
        self.node.stats.authenticated += 1
        self._audit(Event.AUTHENTICATED)
        expires_at = grant.expires_at
        data = {
            "client_id": self.client_id,
            "token": grant.prefix,
            "types": [kind for kind in SUBSCRIPTION_TYPES if kind in grant.types],
            "expires_at": None if expires_at is None else format_timestamp(expires_at),
        }
        self._reply("auth_success", data, metadata=metadata)
        self.apply_grant(grant)

    async def _subscribe(self, command: Subscribe) -> None:
        assert self.grant is not None
        kind, own, request = _read_subscription(command)
        if kind not in self.grant.types:
            self._audit(Event.DENIED, type=kind)
            raise ProtocolError(ErrorCode.FORBIDDEN)
        subscription_id = self._find_id(kind, own, command.subscription_id)
        replay = None
        if subscription_id not in self.subscriptions:
            replay = await self._add(subscription_id, kind, own, request)
        position = replay.live_from if replay else self._position(subscription_id)
        data = {
            "type": kind,
            "filters": command.filters or {},
            **position._asdict(),
            "recovered": replay is not None and replay.recovered,
            "replayed": replay.replayed if replay else 0,
        }
        self._reply("subscribed", data, subscription_id, command.metadata)
        if replay is not None:
            await self.node.go_live(replay)

    async def _add(self, subscription_id: str, kind: str, own: Filter, request: Request) -> Replay:
        grant = self.grant
        assert grant is not None and self.outlet is not None
        enforced = conjunction(own, grant.filters)
        try:
            replay = await self.node.subscribe(
                self.outlet, kind, enforced, subscription_id, request
            )
        except LayerUnavailable as error:
            logger.warning("subscribing to %s: %s", kind, error)
            raise ProtocolError(ErrorCode.UNAVAILABLE, details=_RETRY) from None
        # Meanwhile the client may have gone, or its rights may have changed.
        now = self.grant
        if self._ended or now is not grant:
            self.node.unsubscribe(replay.subscription)
            if self._ended or now is None or kind not in now.types:
                raise ProtocolError(ErrorCode.FORBIDDEN)
            return await self._add(subscription_id, kind, own, request)
        self.subscriptions[subscription_id] = replay.subscription, own
        return replay

    def _find_id(self, kind: str, own: Filter, chosen: str | None) -> str:
        """Return the id under which the client has this subscription, or will have it."""
        if chosen in self.subscriptions:
            if self._is_same(chosen, kind, own):
                return chosen
            raise ProtocolError(ErrorCode.DUPLICATE_SUBSCRIPTION)
        for known_id in self.subscriptions:
            if self._is_same(known_id, kind, own):
                return known_id
        if len(self.subscriptions) >= self.node.policy.config.max_subscriptions_per_client:
            self._audit_limit("subscriptions")
            raise ProtocolError(ErrorCode.TOO_MANY_SUBSCRIPTIONS)
        subscription_id = chosen or derive_subscription_id(kind, own)
        if subscription_id in self.subscriptions:
            raise ProtocolError(ErrorCode.DUPLICATE_SUBSCRIPTION)
        return subscription_id

    def _is_same(self, subscription_id: str, kind: str, own: Filter) -> bool:
        subscription, filters = self.subscriptions[subscription_id]
        return subscription.type == kind and filters == own

    def _position(self, subscription_id: str) -> Position:
        return self.node.position(self.subscriptions[subscription_id][0])

    def _positions(self) -> dict[str, Any] | None:
        """Return up to where each subscription has been sent all that matches."""
        positions = {known: self._position(known)._asdict() for known in self.subscriptions}
        return {"positions": positions} if positions else None

    def _unsubscribe(self, command: Unsubscribe) -> None:
        if command.subscription_id not in self.subscriptions:
            raise ProtocolError(ErrorCode.UNKNOWN_SUBSCRIPTION)
        self._remove(command.subscription_id)
        self._reply("unsubscribed", {}, command.subscription_id, command.metadata)

    def _remove(self, subscription_id: str) -> None:
        subscription, _ = self.subscriptions.pop(subscription_id)
        self.node.unsubscribe(subscription)

    def _audit_limit(self, limit: str) -> None:
        """Record that the client has reached a limit, the first time."""
        if limit not in self._limits_reached:
            self._limits_reached += (limit,)
            self._audit(Event.LIMIT_REACHED, limit=limit)

    def _audit(self, event: Event, **fields: Any) -> None:
        grant = self.grant
        known = {"holder": grant.holder, "token": grant.prefix} if grant else {}
        fields = known | fields
        record(event, client_id=self.client_id, address=self.address or None, **fields)

    # Out

    def _reply(
        self,
        kind: str,
        data: dict[str, Any] | None = None,
        subscription_id: str | None = None,
        metadata: Raw | None = None,
    ) -> None:
        self._send(encode(kind, time.time(), data, subscription_id, metadata))

    def _send(self, text: bytes) -> None:
        if self.outlet is not None:
            self.node.stats.messages_sent += 1
            self.outlet.write(text_frame(text))


_RETRY = {"retry_after": RETRY_AFTER_UNAVAILABLE}
_INVALID_CREDENTIALS = {"error": "Invalid credentials", "code": "invalid_credentials"}
_UNAVAILABLE = {"error": "Temporarily unavailable", "code": "unavailable", "details": _RETRY}


def _with_metadata(error: ProtocolError, command: Command) -> ProtocolError:
    error.metadata = command.metadata
    return error


def _origin(scope: dict[str, Any]) -> str | None:
    """Return the Origin header; one that is not ASCII is no origin."""
    for name, value in scope["headers"]:
        if name == b"origin":
            return str(value.decode("latin-1"))
    return None


def _read_subscription(command: Subscribe) -> tuple[str, Filter, Request]:
    kind = command.type
    if not isinstance(kind, str) or kind not in SUBSCRIPTION_TYPES:
        raise ProtocolError(
            ErrorCode.INVALID_SUBSCRIPTION,
            f"type: expected one of {', '.join(SUBSCRIPTION_TYPES)}",
        )
    try:
        return kind, compile_filters(command.filters), read_request(command.resume, command.rewind)
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, str(error)) from None
