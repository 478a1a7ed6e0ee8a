"""``GET /api/stream/TYPE``: one subscription over plain HTTP, for networks without WebSockets.

An ASGI application and not a view, since a client that is counted in must be counted out whatever
happens to the request. Knows HTTP; what a client may and has is its session's.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

import msgspec

from realtime.auth import connection_tokens
from realtime.delivery.transport import BufferedTransport
from realtime.filters.compiler import parse_filter_options
from realtime.http.responses import (
    Headers,
    Refusal,
    authenticate,
    check_draining,
    read_address,
    read_bearer,
    read_headers,
    read_type,
    refuse,
    send_body,
    start,
    status_of,
    unavailable,
)
from realtime.protocol import CloseCode, CloseReason, ErrorCode, ProtocolError
from realtime.protocol.origins import origin_allowed
from realtime.protocol.sse import COMMENT, close_event, event_id, events, parse_event_id
from realtime.protocol.subscribe import read_subscribe_request
from realtime.sessions.node import get_node
from realtime.sessions.session import Session
from realtime.tasks import end

PREFIX = "/api/stream/"
# The transport's name in the access log.
TRANSPORT = "event-stream"
# The code in the access log of a client that leaves, which gives none (RFC 6455, section 7.4.1).
NO_CODE = 1005
# Milliseconds after which a page's EventSource comes back: each at a time of its own.
RETRY = (500, 3000)
# Seconds after which to come back when there is no room.
RETRY_AFTER_CAPACITY = 5
# The most bytes that leave in one write, unless one piece alone has more.
CHUNK = 64 * 1024
MAX_PARAMETERS = 2000

# Parameter -> its values, in order. Where one value is expected, the last counts.
Query = dict[str, list[str]]


async def event_stream(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one request for a stream."""
    origin = read_headers(scope).get(b"origin")
    cors = _cors(origin)
    if scope["method"] == "OPTIONS":
        await start(send, 204, [*cors, *(_PREFLIGHT if origin else _PREFLIGHT[:1])])
        await send_body(send, b"")
        return
    stream = _EventStream(scope)
    working = asyncio.ensure_future(stream.serve(send, cors))
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        try:
            await asyncio.gather(end(working), end(leaving))
        finally:
            stream.close()


async def _gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventTransport(BufferedTransport):
    """A buffer that the response of an event stream is read from."""

    def __init__(self, max_buffered: Callable[[], int]) -> None:
        super().__init__(max_buffered)
        # Bytes of the chunk that was read last.
        self._being_sent = 0

    def _encode(self, frames: bytes) -> bytes:
        return events(frames)

    def close(self, code: CloseCode, reason: CloseReason) -> None:
        """End the stream after what is buffered, with an event that says why."""
        if self.closed is None:
            super().close(code, reason)
            self._append(close_event(code, reason))

    async def read(self, seconds: float) -> bytes | None:
        """Return what is to be sent next; empty after so many seconds without anything.

        ``None`` is the end. The caller must have sent all of what was returned before.
        """
        self._buffered -= self._being_sent
        self._being_sent = 0
        if not self._pieces:
            if self.closed is not None:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                if not self._pieces:  # else they have come since, and a position might include them
                    return b""
        return self._take_chunk()

    def _take_chunk(self) -> bytes:
        pieces = [self._pieces.popleft()]
        size = len(pieces[0])
        while self._pieces and size + len(self._pieces[0]) <= CHUNK:
            pieces.append(self._pieces.popleft())
            size += len(pieces[-1])
        self._being_sent = size
        return b"".join(pieces)


class _EventStream:
    """One request: its session and the one subscription it asks for."""

    def __init__(self, scope: dict[str, Any]) -> None:
        self._scope = scope
        self._headers = read_headers(scope)
        self._node = get_node()
        self._transport = EventTransport(lambda: self._node.policy.config.max_buffered_bytes)
        self._session = Session(self._node, read_address(scope))
        self._session.attach(self._transport)
        self._has_begun = False

    async def serve(self, send: Any, cors: Headers) -> None:
        try:
            await self._open()
        except Refusal as refusal:
            await refuse(send, refusal, b"GET, OPTIONS", cors)
        else:
            await self._run(send, cors)

    async def _open(self) -> None:
        """Count the client in, authenticate it and subscribe. Raises :class:`Refusal`."""
        try:
            await self._node.start()
            query = _read_query(self._scope["query_string"])
            kind = read_type(self._scope, "GET", PREFIX)
            data = _read_data(kind, query, self._headers)
            check_draining(self._node)
            if self._session.admit(self._headers.get(b"origin")):
                await self._authenticate(_read_secret(query, self._headers))
            self._check_ended()
            await self._session.subscribe(read_subscribe_request(data))
        except Refusal:
            self._check_ended()
            raise
        except ProtocolError as error:
            self._check_ended()
            retry_after = (error.details or {}).get("retry_after")
            text = str(error)
            raise Refusal(status_of(error.code), error.code, text, retry_after) from None

    async def _authenticate(self, secret: str | None) -> None:
        if secret is not None:
            grant = await authenticate(self._session, secret)
            if not self._session.has_ended and self._session.enter(grant):
                self._session.apply_grant(grant)
        elif self._session.grant is None:
            raise ProtocolError(ErrorCode.AUTH_REQUIRED)

    def _check_ended(self) -> None:
        """Raise the refusal that says how the session has ended, if it has."""
        if self._transport.closed is not None:
            raise _refusal_of_close(*self._transport.closed)
        if self._session.has_ended:
            raise unavailable()

    async def _run(self, send: Any, cors: Headers) -> None:
        """Send what comes until the session or its subscription ends."""
        self._has_begun = True
        await start(send, 200, [*_STREAM_HEADERS, *cors])
        first = b"retry: %d\n" % random.randint(*RETRY)  # noqa: S311 - spreads load
        node = self._node  # whose configuration may change
        while (chunk := await self._transport.read(node.policy.config.ping_interval)) is not None:
            if not chunk:  # a sign of life: the position that has been reached, or a comment
                positions = map(self._session.position, self._session.subscriptions)
                chunk = next((event_id(position) + b"\n" for position in positions), COMMENT)
            await send_body(send, first + chunk, more=True)
            first = b""
            if self._transport.closed is None and not self._session.subscriptions:
                break  # it is no longer allowed, as the client has been told
        await send_body(send, b"")

    def close(self) -> None:
        """Forget the client; log how the stream ended, if it began."""
        self._session.forget()
        if self._has_begun:
            code = self._transport.closed[0] if self._transport.closed else NO_CODE
            self._session.record_close(int(code), TRANSPORT)


# Queries


def _read_query(query: bytes) -> Query:
    try:
        return parse_qs(
            query.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_PARAMETERS
        )
    except ValueError:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, "too many parameters") from None


def _read_data(kind: str, query: Query, headers: dict[bytes, str]) -> dict[str, Any]:
    """Return a stream's ``data`` as in a ``subscribe`` message. Raises :class:`ProtocolError`."""
    last_event_id = headers.get(b"last-event-id") or query.get("last_event_id", [""])[-1]
    try:
        return {
            "type": kind,
            "filters": _read_filters(query.get("filter", [])),
            "resume": parse_event_id(last_event_id)._asdict() if last_event_id else None,
            "rewind": int(_read_last(query, "rewind", "[0-9]{1,18}", "a number") or 0),
            "explain": _read_last(query, "explain", "[01]", "0 or 1") == "1",
            **_read_options(query),
        }
    except ValueError as error:
        raise ProtocolError(ErrorCode.INVALID_SUBSCRIPTION, str(error)) from None


def _read_secret(query: Query, headers: dict[bytes, str]) -> str | None:
    """Return the bearer token, or that of the query, which only may be a short-lived one."""
    secret = read_bearer(headers)
    if secret is not None or "token" not in query:
        return secret
    # Queries end up in logs and histories (RFC 6750, section 5.3).
    secret = query["token"][-1]
    if secret.startswith(connection_tokens.MARK) or secret.count(".") == 2:
        return secret
    raise ProtocolError(
        ErrorCode.INVALID_MESSAGE,
        "token: only connection tokens and JSON Web Tokens may be in the query; "
        "an access token goes into the Authorization header",
    )


def _read_filters(options: list[str]) -> Any:
    """Return the filters of ``filter`` parameters: ``path=value`` each, or one JSON object."""
    if len(options) == 1 and options[0].startswith("{"):
        try:
            return msgspec.json.decode(options[0])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ValueError(f"filter: not JSON ({error})") from None
    return parse_filter_options(options)


def _read_last(query: Query, name: str, pattern: str, expected: str) -> str | None:
    if name in query and not re.fullmatch(pattern, query[name][-1]):
        raise ValueError(f"{name}: expected {expected}")
    return query[name][-1] if name in query else None


def _read_options(query: Query) -> dict[str, Any]:
    if "batch_ms" in query:
        raise ValueError("batch_ms: not in event streams, which have no frames")
    options: dict[str, Any] = {
        name: query[name][-1] for name in ("conflate", "on_overflow") if name in query
    }
    if "max_rate" in query:
        options["max_rate"] = text = query["max_rate"][-1]
        with suppress(msgspec.DecodeError, UnicodeError, RecursionError):
            options["max_rate"] = msgspec.json.decode(text)  # else the reader of options refuses it
    if "fields" in query:
        options["fields"] = ",".join(query["fields"]).split(",")
    return options


# Answers

_STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
    (b"x-content-type-options", b"nosniff"),
]
_PREFLIGHT: Headers = [
    (b"allow", b"GET, OPTIONS"),
    (b"access-control-allow-methods", b"GET"),
    (b"access-control-allow-headers", b"Authorization, Cache-Control, Last-Event-ID"),
    (b"access-control-max-age", b"600"),
]


def _cors(origin: str | None) -> Headers:
    """Return what lets an allowed origin's page read the answer (Fetch, section 3.3)."""
    varies = (b"vary", b"Origin")
    if origin is None or not origin_allowed(origin, get_node().policy.config.allowed_origins):
        return [varies]
    return [
        varies,
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"Retry-After"),
    ]


def _refusal_of_close(code: CloseCode, reason: CloseReason) -> Refusal:
    """Return what a WebSocket would be told by a close code."""
    if reason is CloseReason.ORIGIN:
        return Refusal(403, ErrorCode.FORBIDDEN, reason)
    if code is CloseCode.POLICY_VIOLATION:
        return Refusal(401, "invalid_credentials", reason)
    status = 429 if reason is CloseReason.TOKEN_CONNECTIONS else 503
    return Refusal(status, ErrorCode.UNAVAILABLE, reason, RETRY_AFTER_CAPACITY)
