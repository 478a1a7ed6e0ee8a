"""Access tokens: creating, rotating and revoking them, and looking up what they grant.

A secret is 256 random bits, so its SHA-256 digest needs no salt, and the database finds it by an
index: no comparison in this process depends on the secret.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from realtime.auth.grants import Grant, HolderType
from realtime.auth.models import AccessToken
from realtime.filters.compiler import FilterError, compile_filters

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
PREFIX_CHARACTERS = 8
MARK = "rt_"
_PREFIX = re.compile(rf"{MARK}[0-9a-f]{{{PREFIX_CHARACTERS}}}")


def holder_of(token: AccessToken) -> str:
    """Return the name of a token as the holder of rights, ``token:5`` for example."""
    return f"{HolderType.TOKEN}:{token.pk}"


def generate_prefix() -> str:
    """Return a new public prefix, by which people and logs name a token."""
    return MARK + secrets.token_hex(PREFIX_CHARACTERS // 2)


def public_prefix(secret: str) -> str | None:
    """Return the public prefix of a text that looks like a secret, whether it is one or not."""
    prefix = secret[: len(MARK) + PREFIX_CHARACTERS]
    return prefix if _PREFIX.fullmatch(prefix) else None


@sensitive_variables()
def digest(secret: str) -> bytes:
    """Return the SHA-256 digest under which a secret is stored."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


@sensitive_variables()
def create_token(name: str, **fields: Any) -> tuple[AccessToken, str]:
    """Store a new token; return it and its secret. Raises Django's ``ValidationError``."""
    token = AccessToken(name=name, **fields)
    secret = assign_secret(token)
    token.full_clean()
    token.save()
    return token, secret


@sensitive_variables()
def assign_secret(token: AccessToken, prefix: str | None = None) -> str:
    """Give a token, which the caller must save, a new secret that begins with *prefix*, if any."""
    token.prefix = prefix or generate_prefix()
    random = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    secret = f"{token.prefix}_{random}"
    token.digest = digest(secret)
    return secret


@sensitive_variables()
def rotate(token: AccessToken, overlap: timedelta) -> str:
    """Give a token a new secret, save it, and return the secret.

    The old secret and its connections live for *overlap* longer; older ones end at once.
    """
    has_overlap = overlap > timedelta()
    token.previous_digest = token.digest if has_overlap else None
    token.previous_until = timezone.now() + overlap if has_overlap else None
    secret = assign_secret(token, token.prefix)
    token.save(update_fields=["digest", "previous_digest", "previous_until"])
    return secret


def revoke(tokens: Iterable[AccessToken]) -> int:
    """Revoke tokens; their live connections are closed. Return how many were not yet revoked."""
    live = AccessToken.objects.filter(pk__in=[token.pk for token in tokens], revoked_at=None)
    return int(live.update(revoked_at=timezone.now()))


def find_grant(secret_digest: bytes) -> Grant | None:
    """Return what the token with this digest grants; ``None`` if unknown, revoked or expired."""
    has_digest = Q(digest=secret_digest) | Q(previous_digest=secret_digest)
    token = AccessToken.objects.select_related("owner").filter(has_digest).first()
    if token is None or token.state != "active":
        return None
    return _grants_if_valid(token).get(secret_digest)


def grant_of(token: AccessToken) -> Grant:
    """Return what a token grants."""
    return Grant(
        holder=holder_of(token),
        prefix=token.prefix,
        types=frozenset(token.types),
        filters=compile_filters(token.filters),
        expires_at=token.expires_at.timestamp() if token.expires_at else None,
        rate_limit_per_minute=token.rate_limit_per_minute,
        max_connections=token.max_connections,
        can_publish=token.can_publish,
        can_view_stats=token.can_view_stats,
        digest=bytes(token.digest),
    )


def live_grants(token_ids: Iterable[int]) -> dict[int, dict[bytes, Grant]]:
    """Return what tokens that are not revoked grant, by token id and digest of the secret used."""
    live: dict[int, dict[bytes, Grant]] = {}
    ids = list(token_ids)
    for start in range(0, len(ids), 500):  # SQLite takes a bounded number of parameters
        tokens = AccessToken.objects.select_related("owner")
        for token in tokens.filter(pk__in=ids[start : start + 500]):
            if token.state != "revoked" and (grants := _grants_if_valid(token)):
                live[token.pk] = grants
    return live


def _grants_if_valid(token: AccessToken) -> dict[bytes, Grant]:
    """Return what a token grants, by the digests of its secret and of the one before a rotation."""
    try:
        grant = grant_of(token)
    except FilterError as error:
        logger.error("the token %s grants nothing: %s", token, error)
        return {}
    grants = {grant.digest: grant}
    until = token.previous_until
    if until is not None and token.previous_digest is not None and until > timezone.now():
        ends = min(until.timestamp(), grant.expires_at or until.timestamp())
        old = bytes(token.previous_digest)
        grants[old] = replace(grant, expires_at=ends, digest=old)
    return grants


def record_use(token_ids: Iterable[int]) -> None:
    """Write that tokens were used now."""
    AccessToken.objects.filter(pk__in=list(token_ids)).touch(last_used_at=timezone.now())
