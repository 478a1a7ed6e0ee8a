"""Access tokens: making them, checking them, and what they grant.

Knows the token table; nothing of connections. A secret is 256 random bits, so its SHA-256 digest
needs no salt and is found by an index: no comparison in this process depends on the secret.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils import timezone

from realtime.filters import EVERYTHING, Filter, FilterError, compile_filters
from realtime.models import AccessToken
from realtime.protocol import SUBSCRIPTION_TYPES

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
PREFIX_CHARACTERS = 8
MARK = "rt_"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a connection may do: a token's rights, or an anonymous client's.

    ``expires_at`` is in seconds since 1970. ``filters`` are enforced on every subscription.
    """

    token_id: int | None
    prefix: str | None
    types: frozenset[str]
    filters: Filter = EVERYTHING
    expires_at: float | None = None
    rate_limit_per_minute: int | None = None
    max_connections: int | None = None
    can_publish: bool = False
    can_view_stats: bool = False


ANONYMOUS = Grant(None, None, frozenset(SUBSCRIPTION_TYPES))


def generate_prefix() -> str:
    """Return a new public prefix, by which people and logs name a token."""
    return MARK + secrets.token_hex(PREFIX_CHARACTERS // 2)


def generate_secret(prefix: str | None = None) -> tuple[str, str]:
    """Return a new secret and the public prefix it begins with, a new one unless given."""
    prefix = prefix or generate_prefix()
    random = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    return f"{prefix}_{random}", prefix


def digest(secret: str) -> bytes:
    """Return the SHA-256 digest under which a secret is stored."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def create_token(name: str, **fields: Any) -> tuple[AccessToken, str]:
    """Store a new token; return it and its secret, which nobody can read again.

    Raises:
        django.core.exceptions.ValidationError: a field is wrong.
    """
    token = AccessToken(name=name, **fields)
    secret = assign_secret(token)
    token.full_clean()
    token.save()
    return token, secret


def assign_secret(token: AccessToken, prefix: str | None = None) -> str:
    """Give a token a new secret, to be saved by the caller, and return it."""
    secret, token.prefix = generate_secret(prefix)
    token.digest = digest(secret)
    return secret


def revoke(tokens: Iterable[AccessToken]) -> int:
    """Revoke tokens; their live connections are closed. Return how many were not yet revoked."""
    ids = [token.pk for token in tokens]
    return int(
        AccessToken.objects.filter(pk__in=ids, revoked_at=None).update(revoked_at=timezone.now())
    )


def find_grant(secret_digest: bytes) -> Grant | None:
    """Return what the token with this digest grants; ``None`` if unknown, revoked or expired."""
    token = AccessToken.objects.filter(digest=secret_digest).first()
    return _grant_if_valid(token) if token is not None and token.state == "active" else None


def grant_of(token: AccessToken) -> Grant:
    """Return what a token grants."""
    expires_at: datetime | None = token.expires_at
    return Grant(
        token_id=token.pk,
        prefix=token.prefix,
        types=frozenset(token.types),
        filters=compile_filters(token.filters),
        expires_at=expires_at.timestamp() if expires_at else None,
        rate_limit_per_minute=token.rate_limit_per_minute,
        max_connections=token.max_connections,
        can_publish=token.can_publish,
        can_view_stats=token.can_view_stats,
    )


def live_grants(token_ids: Iterable[int]) -> dict[int, tuple[str, Grant]]:
    """Return state and grant of the tokens that exist and can be read, by token id."""
    found: dict[int, tuple[str, Grant]] = {}
    ids = list(token_ids)
    for start in range(0, len(ids), 500):  # SQLite takes a bounded number of parameters
        for token in AccessToken.objects.filter(pk__in=ids[start : start + 500]):
            grant = _grant_if_valid(token)
            if grant is not None:
                found[token.pk] = token.state, grant
    return found


def _grant_if_valid(token: AccessToken) -> Grant | None:
    """Return what a token grants: nothing if someone has written filters that cannot be read."""
    try:
        return grant_of(token)
    except FilterError as error:
        logger.error("the token %s grants nothing: %s", token, error)
        return None


def record_use(token_ids: Iterable[int]) -> None:
    """Write that tokens were used now."""
    AccessToken.objects.filter(pk__in=list(token_ids)).touch(last_used_at=timezone.now())


class GrantCache:
    """Grants by the digest of their secret, so that a crowd with one token asks the database once.

    The owner clears it whenever the configuration's revision changes.
    """

    MAX_ENTRIES = 10_000

    def __init__(self) -> None:
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()
        # How often it was cleared.
        self.generation = 0

    def get(self, secret_digest: bytes, now: float) -> Grant | None:
        """Return a grant that has not expired by *now* (seconds since 1970)."""
        grant = self._grants.get(secret_digest)
        if grant is None or (grant.expires_at is not None and grant.expires_at <= now):
            return None
        return grant

    def put(self, secret_digest: bytes, grant: Grant) -> None:
        """Keep a grant."""
        self._grants[secret_digest] = grant
        if len(self._grants) > self.MAX_ENTRIES:
            self._grants.popitem(last=False)

    def clear(self) -> None:
        """Forget all of them."""
        self._grants.clear()
        self.generation += 1
