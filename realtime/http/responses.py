"""Requests and answers beside Django: bearer tokens, errors in JSON, the parts of a response."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import msgspec

from realtime.auth.grants import Grant
from realtime.database import Unavailable
from realtime.protocol import ERROR_TEXTS, SUBSCRIPTION_TYPES, ErrorCode
from realtime.protocol.subscribe import invalid_type
from realtime.sessions.node import Node
from realtime.sessions.subscriber import RETRY_AFTER_UNAVAILABLE, Peer

logger = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]


class Refusal(Exception):
    """An answer other than what was asked for: its status and the JSON of the error.

    The text is the contract's for *code*, if there is none. *retry_after* is in seconds; it
    becomes a header and one of the details.
    """

    def __init__(
        self, status: int, code: str, text: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(ERROR_TEXTS[ErrorCode(code)] if text is None else text)
        self.status = status
        self.code = code
        self.details: dict[str, Any] = {} if retry_after is None else {"retry_after": retry_after}


def status_of(code: str) -> int:
    statuses = {"auth_required": 401, "forbidden": 403, "too_large": 413, "unavailable": 503}
    return statuses.get(code, 400)


def unavailable() -> Refusal:
    """Return the refusal of a server that cannot serve the request now."""
    return Refusal(503, ErrorCode.UNAVAILABLE, retry_after=RETRY_AFTER_UNAVAILABLE)


def invalid_credentials() -> Refusal:
    return Refusal(401, "invalid_credentials", "Invalid credentials")


def read_type(scope: dict[str, Any], method: str, prefix: str) -> str:
    """Return the subscription type that ends a path. Raises :class:`Refusal`; so does a method."""
    if scope["method"] != method:
        raise Refusal(405, "method_not_allowed", "Method not allowed")
    kind: str = scope["path"].removeprefix(prefix)
    if kind not in SUBSCRIPTION_TYPES:
        error = invalid_type()
        raise Refusal(404, error.code, str(error))
    return kind


def check_draining(node: Node) -> None:
    """Raise :class:`Refusal` if the server is about to end."""
    if node.drain.has_begun:
        text, retry_after = ERROR_TEXTS[ErrorCode.RESTARTING], node.drain.retry_after()
        raise Refusal(503, ErrorCode.UNAVAILABLE, text, retry_after)


def read_headers(scope: dict[str, Any]) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


def read_address(scope: dict[str, Any]) -> str:
    """Return the address of the client, or nothing."""
    return str((scope.get("client") or ("",))[0])


def read_bearer(headers: dict[bytes, str]) -> str | None:
    """Return the token of the Authorization header (RFC 6750, section 2.1), if it has one."""
    scheme, _, secret = headers.get(b"authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


async def authenticate(peer: Peer, secret: str) -> Grant:
    """Return what a credential grants. Raises :class:`Refusal`."""
    try:
        grant = await peer.authenticate(secret)
    except Unavailable as error:
        logger.warning("authentication: %s", error)
        raise unavailable() from None
    if grant is None:
        raise invalid_credentials()
    return grant


async def refuse(send: Any, refusal: Refusal, allow: bytes, more: Headers | None = None) -> None:
    """Answer with an error: {error, code, details?}. *allow* names the methods that exist."""
    headers: Headers = list(more or [])
    if "retry_after" in refusal.details:
        headers.append((b"retry-after", b"%d" % max(1, round(refusal.details["retry_after"]))))
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append((b"allow", allow))
    content: dict[str, Any] = {"error": str(refusal), "code": str(refusal.code)}
    if refusal.details:
        content["details"] = refusal.details
    await answer(send, refusal.status, content, headers)


async def answer(send: Any, status: int, content: Any, more: Headers | None = None) -> None:
    body = msgspec.json.encode(content)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        *(more or []),
        (b"content-length", b"%d" % len(body)),
    ]
    await start(send, status, headers)
    await send_body(send, body)


async def start(send: Any, status: int, headers: Headers) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_body(send: Any, body: bytes, more: bool = False) -> None:
    """Send a part of the body; the last unless there is *more*."""
    await send({"type": "http.response.body", "body": body, "more_body": more})
