"""Signatures of webhooks, as Standard Webhooks has them: version 1, with a shared secret.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import secrets
from datetime import UTC, datetime

from standardwebhooks import Webhook

from realtime.analytics.rules import RuleError

PREFIX = "whsec_"
# Bytes of a secret, as the specification has them.
MIN_SECRET, MAX_SECRET = 24, 64


def new_secret() -> str:
    """Return a secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> None:
    """Raise :class:`RuleError`, without the secret, unless it is as the specification has it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or not MIN_SECRET <= len(key) <= MAX_SECRET:
        text = f"Expected {PREFIX} and {MIN_SECRET} to {MAX_SECRET} random bytes in base64."
        raise RuleError("webhook_secret", text)


def sign(secret: str, message_id: str, timestamp: int, body: str) -> dict[str, str]:
    """Return the headers that say who sent a body and when, in seconds since 1970."""
    time = datetime.fromtimestamp(timestamp, UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": Webhook(secret).sign(message_id, time, body),
    }
