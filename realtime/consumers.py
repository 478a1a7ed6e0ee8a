"""One WebSocket's conversation: connect, authenticate, subscribe, unsubscribe, ping."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, ClassVar

from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from msgspec import Raw

from realtime.auth.grants import Grant
from realtime.auth.limits import RateLimiter, Verdict
from realtime.database import Unavailable
from realtime.delivery.transport import TRANSPORT_EXTENSION, AsgiTransport
from realtime.protocol import (
    ERROR_TEXTS,
    SUBSCRIPTION_TYPES,
    CloseCode,
    CloseReason,
    ErrorCode,
    ProtocolError,
    format_timestamp,
)
from realtime.protocol.commands import Auth, Command, Ping, Subscribe, Unsubscribe, parse
from realtime.protocol.subscribe import read_subscribe_request
from realtime.sessions.node import Node, get_node
from realtime.sessions.session import Session
from realtime.sessions.subscriber import RETRY_AFTER_UNAVAILABLE

logger = logging.getLogger(__name__)

MAX_AUTH_FAILURES = 3

TRANSPORT = "websocket"
# The code of a connection that ended without a close frame (RFC 6455, section 7.4.1).
CUT = 1006


class StreamConsumer(AsyncJsonWebsocketConsumer):
    """The consumer of one connection, without a channel: the node's hub writes its messages."""

    # No layer has this name, so that Channels gives the consumer none.
    channel_layer_alias = "none for connections"
    handlers: ClassVar[dict[str, str]] = {
        "websocket.connect": "websocket_connect",
        "websocket.receive": "websocket_receive",
        "websocket.disconnect": "websocket_disconnect",
    }
    session: Session

    def __init__(self) -> None:
        super().__init__()
        self.node: Node = get_node()
        self._limiter = RateLimiter()
        self._auth_failures = 0
        self._auth_timer: asyncio.TimerHandle | None = None

    # ASGI

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one connection: its messages one after another, in this one task."""
        self.scope = scope
        self.base_send = send
        self.session = Session(self.node, (scope.get("client") or ("",))[0])
        try:
            while True:
                await self.dispatch(await receive())
        except StopConsumer:
            pass
        except Exception:
            logger.exception("a connection failed")
            self.session.end(CloseCode.INTERNAL_ERROR, CloseReason.INTERNAL)
            self.session.record_close(CloseCode.INTERNAL_ERROR, TRANSPORT)
        finally:
            self._stop_auth_timer()
            self.session.forget()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Hand a message to its handler; unlike Channels' own, without a hop to another thread."""
        await getattr(self, self.handlers[message["type"]])(message)

    async def connect(self) -> None:
        """Accept in any case; a client that may not stay is closed then, so a browser sees why."""
        await self.node.start()
        await self.accept()
        extensions = self.scope.get("extensions") or {}
        self.session.attach(
            extensions.get(TRANSPORT_EXTENSION)
            or AsgiTransport(self.base_send, lambda: self.node.policy.config.max_buffered_bytes)
        )
        if self.node.drain.has_begun:
            self.session.restart(self.node.drain.retry_after())
        elif self.session.admit(_origin(self.scope)) and self.session.grant is None:
            self._auth_timer = asyncio.get_running_loop().call_later(
                self.node.policy.config.auth_timeout_seconds,
                self.session.end,
                CloseCode.POLICY_VIOLATION,
                CloseReason.AUTH_TIMEOUT,
            )

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Count, read and carry out one message."""
        if self.session.has_ended:
            return
        message = text_data if text_data is not None else bytes_data or b""
        self.session.count_received(message)
        command = None
        try:
            self._check_rate()
            command = parse(message)
            if self.session.grant is None and not isinstance(command, Auth | Ping):
                raise ProtocolError(ErrorCode.AUTH_REQUIRED)
            await self.carry_out(command)
        except ProtocolError as error:
            if command is not None:
                error.metadata = command.metadata
            self.session.send_error(error)

    async def carry_out(self, command: Command) -> None:
        """Do what a client asks for. Raises :class:`ProtocolError`."""
        match command:
            case Auth():
                await self._authenticate(command)
            case Subscribe():
                request = read_subscribe_request(command.data)
                await self.session.subscribe(request, command.subscription_id, command.metadata)
            case Unsubscribe(subscription_id=subscription_id):
                if subscription_id not in self.session.subscriptions:
                    raise ProtocolError(ErrorCode.UNKNOWN_SUBSCRIPTION)
                self.session.unsubscribe(subscription_id)
                self.session.reply("unsubscribed", {}, subscription_id, command.metadata)
            case Ping():
                self.session.reply("pong", self._positions(), metadata=command.metadata)

    async def websocket_disconnect(self, message: dict[str, Any]) -> None:
        """Forget a client that is gone, and end this task."""
        self.session.forget()
        self.session.record_close(message.get("code", CUT), TRANSPORT)
        if isinstance(self.session.transport, AsgiTransport):
            self.session.transport.abandon()
        raise StopConsumer

    # Commands

    def _check_rate(self) -> None:
        """Raise :class:`ProtocolError` for a message beyond the limit; end a client that floods."""
        config = self.node.policy.config
        if not config.enable_rate_limiting:
            return
        grant = self.session.grant
        limit = (grant and grant.rate_limit_per_minute) or config.rate_limit_per_minute
        now = time.monotonic()
        verdict = self._limiter.check(now, limit)
        if verdict is Verdict.ACCEPT:
            return
        self.session.count_rate_limited()
        if verdict is Verdict.FLOODING:
            self.session.end(CloseCode.POLICY_VIOLATION, CloseReason.FLOODING)
        details = {"retry_after": self._limiter.retry_after(now, limit)}
        raise ProtocolError(ErrorCode.RATE_LIMITED, details=details)

    async def _authenticate(self, command: Auth) -> None:
        """Answer a credential, with ``auth_success`` or ``auth_failed`` unless the session ends."""
        session = self.session
        try:
            grant = await session.authenticate(command.token)
        except Unavailable as error:
            logger.warning("authentication: %s", error)
            session.reply("auth_failed", _UNAVAILABLE, metadata=command.metadata)
            return
        if session.has_ended:
            return
        if grant is None:
            self._refuse_authentication(command.metadata)
        elif session.enter(grant):
            self._accept_authentication(grant, command.metadata)

    def _refuse_authentication(self, metadata: Raw | None) -> None:
        self._auth_failures += 1
        self.session.reply("auth_failed", _INVALID_CREDENTIALS, metadata=metadata)
        if self._auth_failures >= MAX_AUTH_FAILURES:
            self.session.end(CloseCode.POLICY_VIOLATION, CloseReason.AUTH_FAILED)

    def _accept_authentication(self, grant: Grant, metadata: Raw | None) -> None:
        self._stop_auth_timer()
        expires_at = grant.expires_at
        data = {
            "client_id": self.session.client_id,
            "token": grant.prefix,
            "types": [kind for kind in SUBSCRIPTION_TYPES if kind in grant.types],
            "expires_at": None if expires_at is None else format_timestamp(expires_at),
        }
        self.session.reply("auth_success", data, metadata=metadata)
        self.session.apply_grant(grant)

    def _stop_auth_timer(self) -> None:
        if self._auth_timer is not None:
            self._auth_timer.cancel()
            self._auth_timer = None

    def _positions(self) -> dict[str, Any] | None:
        """Return up to where each subscription has been sent all that matches."""
        session = self.session
        positions = {key: session.position(key)._asdict() for key in session.subscriptions}
        return {"positions": positions} if positions else None


_INVALID_CREDENTIALS = {"error": "Invalid credentials", "code": "invalid_credentials"}
_UNAVAILABLE = {
    "error": ERROR_TEXTS[ErrorCode.UNAVAILABLE],
    "code": ErrorCode.UNAVAILABLE,
    "details": {"retry_after": RETRY_AFTER_UNAVAILABLE},
}


def _origin(scope: dict[str, Any]) -> str | None:
    """Return the Origin header; one that is not ASCII is no origin."""
    for name, value in scope["headers"]:
        if name == b"origin":
            return str(value.decode("latin-1"))
    return None
