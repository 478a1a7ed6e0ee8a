"""``GET /api/stream/TYPE``: one subscription over plain HTTP, for networks without WebSockets.

An ASGI application and not a view, since whoever is counted in has to be counted out whatever
happens to the request. Knows HTTP; what a client may and has is its session's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

import msgspec

from realtime.auth import users as connection_tokens
from realtime.database import Unavailable
from realtime.filters import parse_filter_options
from realtime.http.responses import Headers, Refusal, refuse, send_body, start
from realtime.http.sse import COMMENT, EventOutlet, event_id, parse_event_id
from realtime.protocol import (
    ERROR_TEXTS,
    SUBSCRIPTION_TYPES,
    CloseCode,
    CloseReason,
    ErrorCode,
    ProtocolError,
)
from realtime.protocol.origins import origin_allowed
from realtime.protocol.subscribe import invalid_type, read_subscribe_request
from realtime.sessions.node import get_node
from realtime.sessions.session import RETRY_AFTER_UNAVAILABLE, Session
from realtime.tasks import end

logger = logging.getLogger(__name__)

PREFIX = "/api/stream/"
TRANSPORT = "event-stream"
# Milliseconds after which a page's EventSource comes back: each at a time of its own.
RETRY = (500, 3000)
# Seconds after which to come back when there is no room.
RETRY_AFTER_CAPACITY = 5
MAX_PARAMETERS = 2000

_STATUS = {
    ErrorCode.INVALID_SUBSCRIPTION: HTTPStatus.BAD_REQUEST,
    ErrorCode.INVALID_MESSAGE: HTTPStatus.BAD_REQUEST,
    ErrorCode.AUTH_REQUIRED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


async def event_stream(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one request for a stream."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    origin = headers.get(b"origin")
    cors = _cors(origin)
    if scope["method"] == "OPTIONS":
        await _preflight(send, cors, origin)
        return
    stream = _Stream(scope, headers)
    try:
        await _until_gone(_serve(stream, send, cors, origin), receive)
    finally:
        stream.session.forget()
        stream.closed()


async def _serve(stream: _Stream, send: Any, cors: Headers, origin: str | None) -> None:
    try:
        await stream.open(origin)
    except Refusal as refusal:
        await refuse(send, refusal, b"GET, OPTIONS", cors)
        return
    await stream.run(send, cors)


async def _until_gone(work: Any, receive: Any) -> None:
    """Do *work* until it is done or the client has gone."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        await asyncio.gather(end(working), end(leaving))


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Stream:
    """One request: its session and the one subscription it asks for."""

    def __init__(self, scope: dict[str, Any], headers: dict[bytes, str]) -> None:
        self._scope = scope
        self._headers = headers
        self._node = get_node()
        self._outlet = EventOutlet(lambda: self._node.policy.config.max_buffered_bytes)
        self.session = Session(self._node, (scope.get("client") or ("",))[0])
        self.session.attach(self._outlet)
        self._began = False

    async def open(self, origin: str | None) -> None:
        """Count the client in, authenticate it and subscribe. Raises :class:`Refusal`."""
        try:
            await self._node.start()
            query = self._read_query()
            data = self._read_request(query)
            self._admit(origin)
            await self._authenticate(query)
            await self.session.subscribe(read_subscribe_request(data))
        except ProtocolError as error:
            self._check_ended()
            raise _refusal_of(error) from None

    def _read_query(self) -> dict[str, list[str]]:
        query = self._scope["query_string"].decode("latin-1")
        try:
            return parse_qs(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
        except ValueError:
            raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, "too many parameters") from None

    def _read_request(self, query: dict[str, list[str]]) -> dict[str, Any]:
        """Return what the ``data`` of a ``subscribe`` message would be."""
        if self._scope["method"] != "GET":
            raise Refusal(405, "method_not_allowed", "Method not allowed")
        kind = self._scope["path"].removeprefix(PREFIX)
        if kind not in SUBSCRIPTION_TYPES:
            error = invalid_type()
            raise Refusal(404, error.code, str(error))
        last = self._headers.get(b"last-event-id") or query.get("last_event_id", [""])[-1]
        try:
            return {
                "type": kind,
                "filters": _read_filters(query.get("filter", [])),
                "resume": parse_event_id(last)._asdict() if last else None,
                "rewind": _read_number(query.get("rewind")),
                "explain": _read_flag(query.get("explain")),
                **_read_options(query),
            }
        except ValueError as error:
            raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, str(error)) from None

    def _admit(self, origin: str | None) -> None:
        if self._node.draining:
            raise _unavailable("Server restarting", self._node.restart_delay())
        if refusal := self.session.refuse(origin):
            self.session.end(*refusal)
            self._check_ended()

    async def _authenticate(self, query: dict[str, list[str]]) -> None:
        secret = self._read_secret(query)
        if secret is None:
            if self.session.grant is None:
                raise ProtocolError(ErrorCode.AUTH_REQUIRED)
            return
        try:
            grant = await self.session.authenticate(secret)
        except Unavailable as error:
            logger.warning("authentication: %s", error)
            raise _unavailable(ERROR_TEXTS[ErrorCode.UNAVAILABLE]) from None
        self._check_ended()
        if grant is None:
            raise Refusal(401, "invalid_credentials", "Invalid credentials")
        if self.session.enter(grant):
            self.session.apply_grant(grant)
        self._check_ended()

    def _read_secret(self, query: dict[str, list[str]]) -> str | None:
        """Return the bearer token, or that of the query, which only may be a short-lived one.

        Queries end up in logs and histories (RFC 6750, section 5.3).
        """
        scheme, _, secret = self._headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return secret.strip()
        if "token" not in query:
            return None
        secret = query["token"][-1]
        if secret.startswith(connection_tokens.MARK) or secret.count(".") == 2:
            return secret
        raise ProtocolError(
            ErrorCode.INVALID_MESSAGE,
            "token: only connection tokens and JSON Web Tokens may be in the query; "
            "an access token goes into the Authorization header",
        )

    def _check_ended(self) -> None:
        """Raise the refusal that says how the session has ended, if it has."""
        if self._outlet.closed is not None:
            raise _refusal_of_close(*self._outlet.closed)
        if self.session.ended:
            raise _unavailable(ERROR_TEXTS[ErrorCode.UNAVAILABLE])

    async def run(self, send: Any, cors: Headers) -> None:
        """Send what comes until the session or its subscription ends."""
        self._began = True
        await start(send, 200, [*_STREAM_HEADERS, *cors])
        first = b"retry: %d\n" % random.randint(*RETRY)  # noqa: S311 - spreads load
        while (chunk := await self._outlet.read(self._silence())) is not None:
            await send_body(send, first + (chunk or self._sign_of_life()), more=True)
            first = b""
            if self._outlet.closed is None and not self.session.subscriptions:
                break  # no longer allowed, as the client was told
        await send_body(send, b"")

    def closed(self) -> None:
        """Say how the stream ended, if it began; a client that leaves gives no code (1005)."""
        if self._began:
            code, _ = self._outlet.closed or (1005, None)
            self.session.closed(int(code), TRANSPORT)

    def _silence(self) -> float:
        """Return the seconds after which something is said even if nothing has come."""
        return self._node.policy.config.ping_interval

    def _sign_of_life(self) -> bytes:
        """Return the position that has been reached, or an empty comment.

        An event without data only changes the id with which a client comes back.
        """
        for known in self.session.subscriptions:
            return event_id(self.session.position(known)) + b"\n"
        return COMMENT


def _read_filters(options: list[str]) -> Any:
    """Return the filters of ``filter`` parameters: ``path=value`` each, or one JSON object."""
    if len(options) == 1 and options[0].startswith("{"):
        try:
            return msgspec.json.decode(options[0])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ValueError(f"filter: not JSON ({error})") from None
    return parse_filter_options(options)


def _read_number(values: list[str] | None) -> int | None:
    if values is None:
        return None
    if not (values[-1].isascii() and values[-1].isdigit()) or len(values[-1]) > 18:
        raise ValueError("rewind: expected a number")
    return int(values[-1])


def _read_options(query: dict[str, list[str]]) -> dict[str, Any]:
    """Return the options as a ``subscribe`` message has them."""
    if "batch_ms" in query:
        raise ValueError("batch_ms: not in event streams, which have no frames")
    options: dict[str, Any] = {
        name: query[name][-1] for name in ("conflate", "on_overflow") if name in query
    }
    if "max_rate" in query:
        options["max_rate"] = _read_rate(query["max_rate"][-1])
    if "fields" in query:
        options["fields"] = ",".join(query["fields"]).split(",")
    return options


def _read_rate(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text  # which is no number, as will be said


def _read_flag(values: list[str] | None) -> bool:
    if values is None or values[-1] in ("0", "1"):
        return values is not None and values[-1] == "1"
    raise ValueError("explain: expected 0 or 1")


# Answers

_STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
    (b"x-content-type-options", b"nosniff"),
]


def _cors(origin: str | None) -> Headers:
    """Return what lets an allowed origin's page read the answer (Fetch, section 3.3)."""
    varies = (b"vary", b"Origin")
    if origin is None:
        return [varies]
    if not origin_allowed(origin, get_node().policy.config.allowed_origins):
        return [varies]
    return [
        varies,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"Retry-After"),
    ]


async def _preflight(send: Any, cors: Headers, origin: str | None) -> None:
    allowed: Headers = [
        (b"access-control-allow-methods", b"GET"),
        (b"access-control-allow-headers", b"Authorization, Cache-Control, Last-Event-ID"),
        (b"access-control-max-age", b"600"),
    ]
    await start(send, 204, [(b"allow", b"GET, OPTIONS"), *cors, *(allowed if origin else [])])
    await send_body(send, b"")


def _unavailable(text: str, retry_after: float = RETRY_AFTER_UNAVAILABLE) -> Refusal:
    return Refusal(503, ErrorCode.UNAVAILABLE, text, retry_after)


def _refusal_of(error: ProtocolError) -> Refusal:
    retry_after = (error.details or {}).get("retry_after")
    return Refusal(_STATUS.get(error.code, 400), error.code, str(error), retry_after)


def _refusal_of_close(code: CloseCode, reason: CloseReason) -> Refusal:
    """Return what a WebSocket would be told by a close code."""
    if reason is CloseReason.ORIGIN:
        return Refusal(403, ErrorCode.FORBIDDEN, reason)
    if code is CloseCode.POLICY_VIOLATION:
        return Refusal(401, "invalid_credentials", reason)
    status = 429 if reason is CloseReason.TOKEN_CONNECTIONS else 503
    return Refusal(status, ErrorCode.UNAVAILABLE, reason, RETRY_AFTER_CAPACITY)
