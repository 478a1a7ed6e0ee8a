"""Posts a webhook and says what the answer means, as Standard Webhooks has it.

Knows HTTP; nothing of alerts, of signatures, or of when to try again.
"""

from __future__ import annotations

import asyncio

import httpx

# Seconds until an answer must be there.
TIMEOUT = 10.0


class NotDelivered(Exception):
    """The receiver did not take it. ``retry_after`` is what it asked for, in seconds."""

    def __init__(self, text: str, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Gone(NotDelivered):
    """The receiver wants no more: it answered 410."""


async def post(client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str]) -> None:
    """Post JSON once. Redirects are not followed and the answer's body is not read.

    Raises:
        Gone: it was answered with 410.
        NotDelivered: it was answered with anything but 2xx, or not within :data:`TIMEOUT`.
    """
    headers = {"content-type": "application/json", "user-agent": "realtime-alerts"} | headers
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            status, retry_after = answer.status_code, answer.headers.get("retry-after", "")
    except TimeoutError:
        raise NotDelivered(f"no answer within {TIMEOUT:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}") from error
    if status == httpx.codes.GONE:
        raise Gone("answered 410 Gone: the webhook is turned off")
    if not 200 <= status < 300:
        raise NotDelivered(f"answered {status}", _seconds(retry_after))


def _seconds(text: str) -> float:
    """Read a ``Retry-After`` of seconds, a day at most; 0 for anything else."""
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    return float(min(int(text), 86_400)) if is_number else 0.0
