"""Models are sealed before they are kept, so that nobody who can write to Redis makes one.

Most are pickles, and to load a foreign pickle is to run foreign code. The key is made of
``SECRET_KEY``.
"""

from __future__ import annotations

import hmac
from hashlib import sha256

from django.conf import settings
from django.utils.encoding import force_bytes

SIZE = sha256().digest_size


class BadSeal(Exception):
    """A model was not saved by this site."""


def seal(name: str, data: bytes) -> bytes:
    """Return the model of the predictor *name* with a seal before it."""
    return _seal(settings.SECRET_KEY, name, data) + data


def unseal(name: str, sealed: bytes) -> bytes:
    """Return the model. Raises :class:`BadSeal`."""
    found, data = sealed[:SIZE], sealed[SIZE:]
    for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        if hmac.compare_digest(found, _seal(secret, name, data)):
            return data
    raise BadSeal(
        "its model was saved with another SECRET_KEY: add that to SECRET_KEY_FALLBACKS, or raise "
        "the predictor's version to begin with a new model"
    )


def _seal(secret: str | bytes, name: str, data: bytes) -> bytes:
    key = sha256(b"realtime.predictions:" + force_bytes(secret)).digest()
    return hmac.digest(key, name.encode() + b"\0" + data, "sha256")
