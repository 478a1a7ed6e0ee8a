"""Grants: whose rights they are, and the cache of them."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.auth.grants import ANONYMOUS, Grant, GrantCache, HolderType
from realtime.protocol import SUBSCRIPTION_TYPES


@pytest.mark.parametrize(
    ("holder", "holder_type", "is_managed"),
    [
        ("token:5", HolderType.TOKEN, True),
        ("user:5", HolderType.USER, True),
        ("jwt:auth0|1:2", HolderType.JWT, False),
        ("anonymous", HolderType.ANYONE, False),
    ],
)
def test_whose_rights_they_are(holder: str, holder_type: HolderType, is_managed: bool) -> None:
    grant = Grant(holder, None, frozenset())
    assert grant.holder_type == holder_type
    assert grant.is_managed is is_managed
    if is_managed:
        assert grant.holder_id == 5


def test_the_digest_of_a_secret_is_not_shown() -> None:
    assert "digest" not in repr(Grant("token:5", None, frozenset(), digest=b"digest"))


def test_anonymous_clients_have_all_types_and_no_other_right() -> None:
    assert ANONYMOUS.types == set(SUBSCRIPTION_TYPES)
    assert not ANONYMOUS.can_publish
    assert not ANONYMOUS.can_view_stats


# The cache


def grant(expires_at: float | None = None) -> Grant:
    return Grant("token:1", "rt_1", frozenset({"events"}), expires_at=expires_at)


def test_a_cached_grant_is_found_until_it_expires() -> None:
    cache = GrantCache()
    cache.put(b"digest", grant(expires_at=10.0))
    assert cache.get(b"digest", 9.9) == grant(expires_at=10.0)
    assert cache.get(b"digest", 10.0) is None
    assert cache.get(b"other", 0.0) is None


def test_a_grant_without_expiry_stays() -> None:
    cache = GrantCache()
    cache.put(b"digest", grant())
    assert cache.get(b"digest", 1e12) == grant()


def test_clearing_the_cache_begins_a_generation() -> None:
    cache = GrantCache()
    cache.put(b"digest", grant())
    cache.clear()
    assert cache.get(b"digest", 0.0) is None
    assert cache.generation == 1


@given(st.lists(st.binary(max_size=1)))
def test_the_cache_is_bounded_and_keeps_the_newest(digests: Iterable[bytes]) -> None:
    cache = GrantCache()
    cache.MAX_ENTRIES = 3
    newest = None
    for newest in digests:
        cache.put(newest, grant())
    assert len(cache._grants) <= 3
    assert newest is None or cache.get(newest, 0.0) is not None
