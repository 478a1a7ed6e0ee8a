"""``POST /api/publish/TYPE``: payloads over HTTP, one or a stream of lines, published as they come.

An ASGI application and not a view, since Django reads all of a body before it calls one. Knows HTTP
and what a token may publish; how a payload is published is :mod:`realtime.publishing`'s.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from realtime.auth.grants import Grant
from realtime.config import get_streaming_config
from realtime.database import Unavailable
from realtime.filters import matches
from realtime.http.responses import Refusal, answer, refuse
from realtime.monitoring.audit_log import Event
from realtime.protocol import ERROR_TEXTS, SUBSCRIPTION_TYPES, ErrorCode
from realtime.publishing import PublishError, apublish_checked, check_payload
from realtime.publishing.batches import Batches
from realtime.publishing.ndjson import Lines, decode_object
from realtime.sessions.node import get_node
from realtime.sessions.session import RETRY_AFTER_UNAVAILABLE, Session

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


class Gone(Exception):
    """The client has left."""


async def ingest(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Serve one request."""
    request = _Request(scope, receive)
    try:
        said = await request.serve()
    except Refusal as refusal:
        await refuse(send, refusal, b"POST")
    except Gone:
        return
    else:
        await answer(send, HTTPStatus.OK, said)


class _Request:
    """One request: who asks, and what has been published for him."""

    def __init__(self, scope: dict[str, Any], receive: Any) -> None:
        self._scope = scope
        self._receive = receive
        self._headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._node = get_node()
        self._session = Session(self._node, (scope.get("client") or ("",))[0])
        self._kind = scope["path"].removeprefix(PREFIX)
        self._secret = ""

    async def serve(self) -> dict[str, Any]:
        """Publish what comes; return the answer. Raises :class:`Refusal`, :class:`Gone`."""
        if self._scope["method"] != "POST":
            raise Refusal(405, "method_not_allowed", "Method not allowed")
        if self._kind not in SUBSCRIPTION_TYPES:
            known = ", ".join(SUBSCRIPTION_TYPES)
            text = f"{ERROR_TEXTS[ErrorCode.INVALID_SUBSCRIPTION]}type: expected one of {known}"
            raise Refusal(404, ErrorCode.INVALID_SUBSCRIPTION, text)
        await self._node.start()
        self._check_draining()
        self._session.grant = grant = await self._authenticate()
        self._check_rate(grant)
        form, key = self._read_form(), self._read_key()
        if form == JSON:
            return await self._publish_one(key)
        skip = parse_qs(self._scope["query_string"].decode("latin-1")).get("skip_invalid", [""])
        return await self._publish_lines(Batches(self._kind, key), skip[-1] in ("1", "true"))

    # Who asks

    async def _authenticate(self) -> Grant:
        scheme, _, secret = self._headers.get(b"authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Refusal(401, ErrorCode.AUTH_REQUIRED, ERROR_TEXTS[ErrorCode.AUTH_REQUIRED])
        self._secret = secret.strip()
        try:
            grant = await self._node.authority.authenticate(self._secret)
        except Unavailable as error:
            logger.warning("authentication: %s", error)
            raise _unavailable() from None
        if grant is None:
            await self._session.count_failure(self._secret)
            raise Refusal(401, "invalid_credentials", "Invalid credentials")
        self._check_right(grant)
        self._node.authority.note_use(grant)
        return grant

    def _check_right(self, grant: Grant) -> None:
        if not grant.can_publish or self._kind not in grant.types:
            self._session.grant = grant
            self._session.audit(Event.DENIED, type=self._kind)
            raise Refusal(403, ErrorCode.FORBIDDEN, ERROR_TEXTS[ErrorCode.FORBIDDEN])

    async def _check_again(self) -> None:
        """Refuse the rest of a stream whose token has been changed or revoked meanwhile."""
        try:
            grant = await self._node.authority.authenticate(self._secret)
        except Unavailable:
            return
        if grant is None:
            raise Refusal(401, "invalid_credentials", "Invalid credentials")
        self._check_right(grant)
        self._session.grant = grant

    def _check_rate(self, grant: Grant) -> None:
        config = self._node.policy.config
        if not config.enable_rate_limiting:
            return
        limit = grant.rate_limit_per_minute or config.rate_limit_per_minute
        wait = self._node.requests.check(grant.holder, time.monotonic(), limit)
        if wait:
            self._node.stats.rate_limited += 1
            self._session.audit_limit("rate limit")
            code = ErrorCode.RATE_LIMITED
            raise Refusal(429, code, ERROR_TEXTS[code], wait)

    def _check_draining(self) -> None:
        if self._node.draining:
            raise _unavailable("Server restarting", self._node.restart_delay())

    # What is asked

    def _read_form(self) -> str:
        form, _, parameters = self._headers.get(b"content-type", "").lower().partition(";")
        charset = parameters.partition("charset=")[2].strip(' "') or "utf-8"
        encoding = self._headers.get(b"content-encoding", "identity")
        if form.strip() not in (JSON, NDJSON) or charset != "utf-8" or encoding != "identity":
            text = f"Unsupported media type: expected {JSON} or {NDJSON}, in UTF-8, not compressed"
            raise Refusal(415, "unsupported_media_type", text)
        if not {b"content-length", b"transfer-encoding"} & self._headers.keys():
            raise Refusal(411, "length_required", "Length required")
        return JSON if form.strip() == JSON else NDJSON

    def _read_key(self) -> str | None:
        """Return what identifies the request and nobody else's, if it may be repeated.

        The header is that of draft-ietf-httpapi-idempotency-key-header.
        """
        if b"idempotency-key" not in self._headers:
            return None
        text = self._headers[b"idempotency-key"].strip()
        found = _KEY.fullmatch(text)
        if found is None or len(text) > MAX_KEY:
            raise _invalid(f"Idempotency-Key: expected a string of at most {MAX_KEY} characters")
        assert self._session.grant is not None
        return f"POST {self._session.grant.holder} {found[1] or found[2]}"

    def _largest(self) -> int:
        in_force = self._node.policy.config.max_message_size
        return min(in_force, get_streaming_config().websocket.max_message_size)

    def _check(self, text: bytes) -> bytes:
        """Return a payload as it is published. Raises :class:`Refusal`."""
        if len(text) > self._largest():
            raise _too_large(self._largest())
        try:
            payload = decode_object(text)
            body = check_payload(payload)
        except ValueError as error:
            raise _invalid(str(error)) from None
        assert self._session.grant is not None
        if not matches(self._session.grant.filters, payload):
            text_ = f"{ERROR_TEXTS[ErrorCode.FORBIDDEN]}: outside the token's filters"
            raise Refusal(403, ErrorCode.FORBIDDEN, text_)
        return body

    # The body

    async def _parts(self, silence: float) -> AsyncIterator[bytes]:
        """Yield what arrives. Raises :class:`Gone`, or :class:`Refusal` if nothing does."""
        more = True
        while more:
            message = await self._next(time.monotonic() + silence)
            if message["type"] == "http.disconnect":
                raise Gone
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def _next(self, deadline: float) -> Any:
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(LOOK_INTERVAL):
                    return await self._receive()
            except TimeoutError:
                self._check_draining()
        raise Refusal(408, "timeout", "Nothing has come for too long")

    async def _publish_one(self, key: str | None) -> dict[str, Any]:
        body = self._check(await self._read_one())
        try:
            position = await apublish_checked(self._kind, [body], key)
        except PublishError as error:
            raise self._not_confirmed(error) from None
        return position._asdict()

    def _not_confirmed(self, error: PublishError) -> Refusal:
        logger.warning("publishing for %s: %s", self._session.address, error)
        return _unavailable()

    async def _read_one(self) -> bytes:
        body, largest = bytearray(), self._largest()
        length = self._headers.get(b"content-length", "")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                if length.isdigit() and int(length) > largest:
                    raise _too_large(largest)
                async for part in self._parts(BODY_TIMEOUT):
                    body += part
                    if len(body) > largest:
                        raise _too_large(largest)
        except TimeoutError:
            raise Refusal(408, "timeout", "The request has not come in time") from None
        return bytes(body)

    async def _publish_lines(self, batches: Batches, skip: bool) -> dict[str, Any]:
        lines = Lines(self._largest())
        try:
            async for part in self._parts(SILENCE):
                for line in lines.feed(part):
                    await self._take(batches, line, skip)
                if lines.is_too_long and not skip:
                    await self._stop(batches, _too_large(self._largest()))
                if batches.may_be_cut_anywhere:
                    await self._publish(batches)
                self._check_draining()
            for line in lines.end():
                await self._take(batches, line, skip)
            await self._publish(batches)
        except Refusal as refusal:
            refusal.details = {"line": batches.next_line, **batches.report, **refusal.details}
            raise
        return batches.report

    async def _take(self, batches: Batches, line: bytes, skip: bool) -> None:
        text = line.removesuffix(b"\r")
        try:
            batches.add(self._check(text) if text.strip() else None, len(line))
        except Refusal as refusal:
            if not skip:
                await self._stop(batches, refusal)
            batches.skip(len(line), str(refusal))
        if batches.is_full:
            await self._publish(batches)

    async def _stop(self, batches: Batches, refusal: Refusal) -> None:
        """Refuse the next line, once all before it is published."""
        await self._publish(batches)
        raise refusal

    async def _publish(self, batches: Batches) -> None:
        if batches.waiting:
            await self._check_again()
        try:
            await batches.publish()
        except PublishError as error:
            raise self._not_confirmed(error) from None


def _invalid(text: str) -> Refusal:
    return Refusal(400, ErrorCode.INVALID_MESSAGE, ERROR_TEXTS[ErrorCode.INVALID_MESSAGE] + text)


def _too_large(largest: int) -> Refusal:
    return Refusal(413, "too_large", f"Larger than max_message_size ({largest} bytes)")


def _unavailable(
    text: str = ERROR_TEXTS[ErrorCode.UNAVAILABLE], retry_after: float = RETRY_AFTER_UNAVAILABLE
) -> Refusal:
    return Refusal(503, ErrorCode.UNAVAILABLE, text, retry_after)
