"""Signatures of webhooks, as Standard Webhooks has them: version 1, with a shared secret.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets

PREFIX = "whsec_"
# Bytes of a secret, as the specification has them.
MIN_SECRET, MAX_SECRET = 24, 64


def new_secret() -> str:
    """Return a secret."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> bytes:
    """Return the key of a secret. Raises ``ValueError``, without the secret in it."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not MIN_SECRET <= len(key) <= MAX_SECRET:
        raise ValueError(
            f"Expected {PREFIX} and {MIN_SECRET} to {MAX_SECRET} random bytes in base64."
        )
    return key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that say who sent a body and when, in seconds since 1970."""
    signed = b".".join((message_id.encode(), str(timestamp).encode(), body))
    digest = hmac.new(check_secret(secret), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
