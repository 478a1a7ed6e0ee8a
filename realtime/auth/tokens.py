"""Access tokens: making them, checking them, and what they grant.

Knows the token table; nothing of connections. A secret is 256 random bits, so its SHA-256 digest
needs no salt and is found by an index: no comparison in this process depends on the secret.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from realtime.auth.models import AccessToken
from realtime.filters import EVERYTHING, Filter, FilterError, compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES

logger = logging.getLogger(__name__)

SECRET_BYTES = 32
PREFIX_CHARACTERS = 8
MARK = "rt_"
_PREFIX = re.compile(rf"{MARK}[0-9a-f]{{{PREFIX_CHARACTERS}}}")


# Kinds of holders.
TOKEN, USER, JWT, ANYONE = "token", "user", "jwt", "anonymous"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a connection may do: a token's rights, a user's, or an anonymous client's.

    ``holder`` says whose rights they are, ``token:5`` for example; ``prefix`` is the public name of
    the credential. ``expires_at`` is in seconds since 1970. ``filters`` are enforced on every
    subscription. ``digest`` is that of the secret the rights were given for, if it was one.
    """

    holder: str
    prefix: str | None
    types: frozenset[str]
    filters: Filter = EVERYTHING
    expires_at: float | None = None
    rate_limit_per_minute: int | None = None
    max_connections: int | None = None
    can_publish: bool = False
    can_view_stats: bool = False
    digest: bytes = field(default=b"", repr=False)

    @property
    def kind(self) -> str:
        """What kind of holder it is."""
        return self.holder.partition(":")[0]

    @property
    def key(self) -> int:
        """The primary key of the token or user whose rights these are."""
        return int(self.holder.partition(":")[2])

    @property
    def is_managed(self) -> bool:
        """Whether administrators can change these rights while they are used."""
        return self.kind in (TOKEN, USER)


ANONYMOUS = Grant(ANYONE, None, frozenset(SUBSCRIPTION_TYPES))


def holder_of(token: AccessToken) -> str:
    """Return how a token is named as the holder of rights."""
    return f"{TOKEN}:{token.pk}"


def generate_prefix() -> str:
    """Return a new public prefix, by which people and logs name a token."""
    return MARK + secrets.token_hex(PREFIX_CHARACTERS // 2)


@sensitive_variables()
def generate_secret(prefix: str | None = None) -> tuple[str, str]:
    """Return a new secret and the public prefix it begins with, a new one unless given."""
    prefix = prefix or generate_prefix()
    random = base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    return f"{prefix}_{random}", prefix


def public_prefix(secret: str) -> str | None:
    """Return the public prefix of what looks like a secret, whether it is one or not."""
    prefix = secret[: len(MARK) + PREFIX_CHARACTERS]
    return prefix if _PREFIX.fullmatch(prefix) else None


@sensitive_variables()
def digest(secret: str) -> bytes:
    """Return the SHA-256 digest under which a secret is stored."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


@sensitive_variables()
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


@sensitive_variables()
def assign_secret(token: AccessToken, prefix: str | None = None) -> str:
    """Give a token a new secret, to be saved by the caller, and return it."""
    secret, token.prefix = generate_secret(prefix)
    token.digest = digest(secret)
    return secret


@sensitive_variables()
def rotate(token: AccessToken, overlap: timedelta) -> str:
    """Give a token a new secret, save it, and return the secret; the old one works a while longer.

    Only one old secret does: that of a rotation before ends at once. Connections that have
    authenticated with an old secret end with it.
    """
    old = token.digest
    secret = assign_secret(token, token.prefix)
    token.previous_digest = old if overlap > timedelta() else None
    token.previous_until = timezone.now() + overlap if overlap > timedelta() else None
    token.save(update_fields=["digest", "previous_digest", "previous_until"])
    return secret


def revoke(tokens: Iterable[AccessToken]) -> int:
    """Revoke tokens; their live connections are closed. Return how many were not yet revoked."""
    ids = [token.pk for token in tokens]
    return int(
        AccessToken.objects.filter(pk__in=ids, revoked_at=None).update(revoked_at=timezone.now())
    )


def find_grant(secret_digest: bytes) -> Grant | None:
    """Return what the token with this digest grants; ``None`` if unknown, revoked or expired."""
    is_its = Q(digest=secret_digest) | Q(previous_digest=secret_digest)
    token = AccessToken.objects.select_related("owner").filter(is_its).first()
    if token is None or token.state != "active":
        return None
    return _grants_if_valid(token).get(secret_digest)


def grant_of(token: AccessToken) -> Grant:
    """Return what a token grants."""
    expires_at: datetime | None = token.expires_at
    return Grant(
        holder=holder_of(token),
        prefix=token.prefix,
        types=frozenset(token.types),
        filters=compile_filters(token.filters),
        expires_at=expires_at.timestamp() if expires_at else None,
        rate_limit_per_minute=token.rate_limit_per_minute,
        max_connections=token.max_connections,
        can_publish=token.can_publish,
        can_view_stats=token.can_view_stats,
        digest=bytes(token.digest),
    )


def live_grants(token_ids: Iterable[int]) -> dict[int, dict[bytes, Grant]]:
    """Return what tokens that are not revoked grant, by token id and digest of the secret used."""
    found: dict[int, dict[bytes, Grant]] = {}
    ids = list(token_ids)
    for start in range(0, len(ids), 500):  # SQLite takes a bounded number of parameters
        tokens = AccessToken.objects.select_related("owner")
        for token in tokens.filter(pk__in=ids[start : start + 500]):
            grants = _grants_if_valid(token) if token.state != "revoked" else {}
            if grants:
                found[token.pk] = grants
    return found


def _grants_if_valid(token: AccessToken) -> dict[bytes, Grant]:
    """Return what a token grants by digest: of its secret, and for a while that of the one before.

    It grants nothing if someone has written filters that cannot be read.
    """
    try:
        grant = grant_of(token)
    except FilterError as error:
        logger.error("the token %s grants nothing: %s", token, error)
        return {}
    grants = {grant.digest: grant}
    until: datetime | None = token.previous_until
    if until is not None and token.previous_digest is not None and until > timezone.now():
        ends = min(until.timestamp(), grant.expires_at or until.timestamp())
        old = bytes(token.previous_digest)
        grants[old] = replace(grant, expires_at=ends, digest=old)
    return grants


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
