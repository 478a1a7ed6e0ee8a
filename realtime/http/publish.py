"""``POST /api/publish/TYPE``: payloads over HTTP, one or a stream of lines, published as they come.

An ASGI application and not a view, since Django reads all of a body before it calls one. Knows HTTP
and what a token may publish; how a payload is published is :mod:`realtime.publishing`'s.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from realtime.auth.grants import Grant
from realtime.config import get_streaming_config
from realtime.database import Unavailable
from realtime.filters import matches
from realtime.http.responses import (
    Refusal,
    answer,
    authenticate,
    check_draining,
    invalid_credentials,
    read_address,
    read_bearer,
    read_headers,
    read_type,
    refuse,
    status_of,
    unavailable,
)
from realtime.monitoring.logs import Event
from realtime.protocol import ERROR_TEXTS, ErrorCode
from realtime.publishing.batches import RETRY_TTL, Batches, InvalidPayload, too_large
from realtime.publishing.publication import (
    PublishError,
    apublish_checked,
    check_payload,
    decode_object,
    derive_key,
)
from realtime.sessions.node import get_node
from realtime.sessions.subscriber import Peer

logger = logging.getLogger(__name__)

PREFIX = "/api/publish/"
JSON, NDJSON = "application/json", "application/x-ndjson"
# Seconds in which one payload must have come, and for which a stream of them may be silent.
BODY_TIMEOUT = 20.0
SILENCE = 60.0
# Seconds between looks at whether the server is about to end.
LOOK_INTERVAL = 1.0
# RFC 9651, section 3.3.3: a string; a bare word is taken too.
_KEY = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"|([!#-+\--~]+)')
MAX_KEY = 255


class ClientGone(Exception):
    """The client has left before its request was complete."""


async def ingest(scope: dict[str, Any], receive: Any, send: Any) -> None:
    try:
        await answer(send, HTTPStatus.OK, await _serve(scope, receive))
    except Refusal as refusal:
        await refuse(send, refusal, b"POST")
    except ClientGone:
        pass


async def _serve(scope: dict[str, Any], receive: Any) -> dict[str, Any]:
    """Publish what comes; return the answer. Raises :class:`Refusal`, :class:`ClientGone`."""
    kind = read_type(scope, "POST", PREFIX)
    node = get_node()
    await node.start()
    check_draining(node)
    headers = read_headers(scope)
    publisher = _Publisher(Peer(node, read_address(scope)), kind, read_bearer(headers))
    grant = await publisher.authenticate()
    form, key, owner = _read_form(headers), _read_key(headers), f"POST {grant.holder}"
    if form == JSON:
        return await _publish_one(publisher, receive, headers, owner, key)
    skip = parse_qs(scope["query_string"].decode("latin-1")).get("skip_invalid", [""])[-1]
    batches = Batches(publisher, kind, owner, key, publisher.largest, skip in ("1", "true"))
    return await _publish_lines(publisher, receive, batches)


async def _publish_one(
    publisher: _Publisher,
    receive: Any,
    headers: dict[bytes, str],
    owner: str,
    key: str | None,
) -> dict[str, Any]:
    ttl = None if key else RETRY_TTL
    key = key or f"retry-1-{secrets.token_urlsafe(12)}"
    length = headers.get(b"content-length", "")
    try:
        if length.isdigit() and int(length) > publisher.largest:
            raise too_large(publisher.largest)
        payload = publisher.check(await _read_body(publisher, receive))
        once = derive_key(owner, key)
        position = await apublish_checked(publisher.kind, [payload], once, ttl)
    except (InvalidPayload, PublishError) as error:
        refusal = publisher.refusal_of(error)
        if isinstance(error, PublishError):
            refusal.details = {"key": key} | refusal.details
        raise refusal from None
    return position._asdict()


async def _publish_lines(publisher: _Publisher, receive: Any, batches: Batches) -> dict[str, Any]:
    try:
        async for part in _parts(publisher, receive, SILENCE):
            await batches.feed(part)
            check_draining(publisher.peer.node)
        return await batches.end()
    except (InvalidPayload, PublishError) as error:
        refusal = publisher.refusal_of(error)
        if isinstance(error, PublishError):
            refusal.details = {"key": batches.retry_key} | refusal.details
    except Refusal as error:
        refusal = error
    refusal.details = {"line": batches.next_line, **batches.report} | refusal.details
    raise refusal


class _Publisher:
    """Who publishes: its rights to a type, and the payloads that they allow."""

    def __init__(self, peer: Peer, kind: str, secret: str | None) -> None:
        self.peer = peer
        self.kind = kind
        self._secret = secret or ""

    async def authenticate(self) -> Grant:
        """Return the rights, which allow one more request now. Raises :class:`Refusal`."""
        if not self._secret:
            raise Refusal(401, ErrorCode.AUTH_REQUIRED)
        grant = await authenticate(self.peer, self._secret)
        self._take_grant(grant)
        self.peer.node.authority.note_use(grant)
        config = self.peer.node.policy.config
        if config.enable_rate_limiting:
            limit = grant.rate_limit_per_minute or config.rate_limit_per_minute
            wait = self.peer.node.requests.check(grant.holder, time.monotonic(), limit)
            if wait:
                self.peer.count_rate_limited()
                raise Refusal(429, ErrorCode.RATE_LIMITED, retry_after=wait)
        return grant

    def _take_grant(self, grant: Grant) -> None:
        self.peer.grant = grant
        if not grant.can_publish or self.kind not in grant.types:
            self.peer.audit(Event.DENIED, type=self.kind)
            raise Refusal(403, ErrorCode.FORBIDDEN)

    async def check_rights(self) -> None:
        """Refuse the rest of a stream whose token has been changed or revoked meanwhile."""
        try:
            grant = await self.peer.node.authority.authenticate(self._secret)
        except Unavailable:
            return
        if grant is None:
            raise invalid_credentials()
        self._take_grant(grant)

    @property
    def largest(self) -> int:
        in_force = self.peer.node.policy.config.max_message_size
        return min(in_force, get_streaming_config().websocket.max_message_size)

    def check(self, text: bytes) -> bytes:
        """Return a payload as it is published. Raises :class:`InvalidPayload`."""
        if len(text) > self.largest:
            raise too_large(self.largest)
        try:
            payload = decode_object(text)
            body = check_payload(payload)
        except ValueError as error:
            code = ErrorCode.INVALID_MESSAGE
            raise InvalidPayload(code, f"{ERROR_TEXTS[code]}{error}") from None
        assert self.peer.grant is not None
        if not matches(self.peer.grant.filters, payload):
            code = ErrorCode.FORBIDDEN
            raise InvalidPayload(code, f"{ERROR_TEXTS[code]}: outside the token's filters")
        return body

    def refusal_of(self, error: InvalidPayload | PublishError) -> Refusal:
        """Return the answer for a payload that has not been published."""
        if isinstance(error, InvalidPayload):
            return Refusal(status_of(error.code), error.code, str(error))
        logger.warning("publishing for %s: %s", self.peer.address, error)
        return unavailable()


def _read_form(headers: dict[bytes, str]) -> str:
    """Return the media type, :data:`JSON` or :data:`NDJSON`. Raises :class:`Refusal`."""
    form, _, parameters = headers.get(b"content-type", "").lower().partition(";")
    charset = parameters.partition("charset=")[2].strip(' "') or "utf-8"
    encoding = headers.get(b"content-encoding", "identity")
    if form.strip() not in (JSON, NDJSON) or charset != "utf-8" or encoding != "identity":
        text = f"Unsupported media type: expected {JSON} or {NDJSON}, in UTF-8, not compressed"
        raise Refusal(415, "unsupported_media_type", text)
    if not {b"content-length", b"transfer-encoding"} & headers.keys():
        raise Refusal(411, "length_required", "Length required")
    return JSON if form.strip() == JSON else NDJSON


def _read_key(headers: dict[bytes, str]) -> str | None:
    """Return what identifies a request that may be repeated (draft Idempotency-Key header)."""
    if b"idempotency-key" not in headers:
        return None
    text = headers[b"idempotency-key"].strip()
    match = _KEY.fullmatch(text)
    if match is None or len(text) > MAX_KEY:
        expected = f"Idempotency-Key: expected a string of at most {MAX_KEY} characters"
        raise Refusal(400, code := ErrorCode.INVALID_MESSAGE, ERROR_TEXTS[code] + expected)
    return match[1] or match[2]


async def _read_body(publisher: _Publisher, receive: Any) -> bytes:
    """Return all of a body. Raises as :func:`_parts`, and :class:`InvalidPayload`."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in _parts(publisher, receive, BODY_TIMEOUT):
                body += part
                if len(body) > publisher.largest:
                    raise too_large(publisher.largest)
    except TimeoutError:
        raise Refusal(408, "timeout", "The request has not come in time") from None
    return bytes(body)


async def _parts(publisher: _Publisher, receive: Any, silence: float) -> AsyncIterator[bytes]:
    """Yield what arrives of a body, each part within *silence* seconds after the last.

    Raises:
        ClientGone: the client has left.
        Refusal: nothing comes for too long, or the server is about to end.
    """
    deadline = time.monotonic() + silence
    while time.monotonic() < deadline:
        try:
            async with asyncio.timeout(LOOK_INTERVAL):
                message = await receive()
        except TimeoutError:
            check_draining(publisher.peer.node)
            continue
        if message["type"] == "http.disconnect":
            raise ClientGone
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
        deadline = time.monotonic() + silence
    raise Refusal(408, "timeout", "Nothing has come for too long")
