"""Rights: what a connection may do, and a cache of them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import StrEnum

from realtime.filters import EVERYTHING, Filter
from realtime.protocol import SUBSCRIPTION_TYPES


class HolderType(StrEnum):
    """What the rights of a connection come from."""

    TOKEN = "token"  # noqa: S105 - an access token, but none of them
    USER = "user"
    JWT = "jwt"
    ANYONE = "anonymous"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a connection may do.

    ``holder`` says whose rights they are, ``token:5`` for example; ``prefix`` is the public name of
    the credential, ``digest`` that of its secret. ``expires_at`` is in seconds since 1970.
    ``filters`` are enforced on every subscription.
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
    def holder_type(self) -> str:
        """A value of :class:`HolderType`."""
        return self.holder.partition(":")[0]

    @property
    def holder_id(self) -> int:
        """The primary key of the token or user whose rights these are."""
        return int(self.holder.partition(":")[2])

    @property
    def is_managed(self) -> bool:
        """Whether administrators can change these rights while they are used."""
        return self.holder_type in (HolderType.TOKEN, HolderType.USER)


ANONYMOUS = Grant(HolderType.ANYONE.value, None, frozenset(SUBSCRIPTION_TYPES))


class GrantCache:
    """Grants by the digest of their secret; to be cleared when the revision changes."""

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
        """Keep a grant; when there are too many, the one that was put first goes."""
        self._grants[secret_digest] = grant
        if len(self._grants) > self.MAX_ENTRIES:
            self._grants.popitem(last=False)

    def clear(self) -> None:
        """Forget all of them."""
        self._grants.clear()
        self.generation += 1
