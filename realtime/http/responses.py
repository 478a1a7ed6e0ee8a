"""Answers of what is served over HTTP beside Django: errors in JSON, and the parts of a response.

Knows HTTP; nothing of what is asked for.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

Headers = list[tuple[bytes, bytes]]


class Refusal(Exception):
    """An answer other than what was asked for, with ``details``; *retry_after* is in seconds."""

    def __init__(
        self,
        status: int,
        code: str,
        text: str,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.details = dict(details or {})
        if retry_after is not None:
            self.details["retry_after"] = retry_after


async def refuse(send: Any, refusal: Refusal, allow: bytes, more: Headers | None = None) -> None:
    """Answer with an error: {error, code, details?}. *allow* are the methods there are."""
    headers: Headers = list(more or [])
    if refusal.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(refusal.retry_after))))
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if refusal.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append((b"allow", allow))
    said: dict[str, Any] = {"error": str(refusal), "code": str(refusal.code)}
    if refusal.details:
        said["details"] = refusal.details
    await answer(send, refusal.status, said, headers)


async def answer(send: Any, status: int, said: Any, more: Headers | None = None) -> None:
    """Answer with JSON."""
    body = msgspec.json.encode(said)
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
    """Send status and headers."""
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def send_body(send: Any, body: bytes, more: bool = False) -> None:
    """Send a part of the body; the last unless there is *more*."""
    await send({"type": "http.response.body", "body": body, "more_body": more})
