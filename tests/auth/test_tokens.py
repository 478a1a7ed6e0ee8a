"""Tokens: how a secret is made and stored, what it grants, and when no more."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from realtime.auth.grants import Grant
from realtime.auth.policy import current_revision
from realtime.auth.tokens import (
    assign_secret,
    create_token,
    digest,
    find_grant,
    generate_prefix,
    grant_of,
    live_grants,
    public_prefix,
    record_use,
    revoke,
    rotate,
)
from realtime.filters.compiler import compile_filters
from realtime.models import AccessToken

PAST = timezone.now() - timedelta(minutes=1)


# Secrets


def test_a_secret_is_a_prefix_and_256_random_bits() -> None:
    token = AccessToken()
    secret = assign_secret(token)
    assert re.fullmatch(r"rt_[0-9a-f]{8}", token.prefix)
    # 43 characters of base64 are 32 bytes.
    assert re.fullmatch(rf"{token.prefix}_[A-Za-z0-9_-]{{43}}", secret)


def test_no_two_secrets_are_the_same() -> None:
    assert len({assign_secret(AccessToken()) for _ in range(100)}) == 100


def test_a_secret_for_a_given_prefix() -> None:
    token, prefix = AccessToken(), generate_prefix()
    first, second = assign_secret(token, prefix), assign_secret(token, prefix)
    assert first.startswith(f"{prefix}_") and second.startswith(f"{prefix}_")
    assert token.prefix == prefix
    assert first != second


@given(st.text(st.characters(exclude_categories=[])))
def test_the_digest_is_sha_256_and_takes_any_text(text: str) -> None:
    assert digest(text) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


# Tokens in the database


@pytest.mark.django_db
class TestTokens:
    """Making, finding and ending tokens."""

    def test_only_the_digest_is_stored(self) -> None:
        token, secret = create_token("reader")
        row = AccessToken.objects.filter(pk=token.pk).values().get()
        assert bytes(row["digest"]) == hashlib.sha256(secret.encode()).digest()
        random = secret.removeprefix(token.prefix)
        assert not [name for name, value in row.items() if random in str(value)]

    def test_a_wrong_field_is_refused_and_nothing_is_stored(self) -> None:
        with pytest.raises(ValidationError, match="Subscription types are events"):
            create_token("reader", types=["nothing"])
        assert not AccessToken.objects.exists()

    def test_a_new_secret_ends_the_old_one(self) -> None:
        token, old = create_token("reader")
        new = assign_secret(token)
        token.save()
        assert find_grant(digest(old)) is None
        assert find_grant(digest(new)) is not None

    def test_a_secret_finds_its_grant(self) -> None:
        expires_at = timezone.now() + timedelta(days=1)
        token, secret = create_token(
            "reader",
            types=["events", "alerts"],
            filters={"tenant_id": "acme"},
            expires_at=expires_at,
            rate_limit_per_minute=5,
            max_connections=2,
            can_publish=True,
            can_view_stats=True,
        )
        assert find_grant(digest(secret)) == Grant(
            holder=f"token:{token.pk}",
            prefix=token.prefix,
            types=frozenset({"events", "alerts"}),
            filters=compile_filters({"tenant_id": "acme"}),
            expires_at=expires_at.timestamp(),
            rate_limit_per_minute=5,
            max_connections=2,
            can_publish=True,
            can_view_stats=True,
            digest=digest(secret),
        )

    @pytest.mark.parametrize("change", [{"revoked_at": PAST}, {"expires_at": PAST}])
    def test_a_token_that_ended_grants_nothing(self, change: dict[str, Any]) -> None:
        _, secret = create_token("reader")
        AccessToken.objects.update(**change)
        assert find_grant(digest(secret)) is None

    def test_an_unknown_secret_grants_nothing(self) -> None:
        token, secret = create_token("reader")
        for wrong in ("", "x", token.prefix, secret[:-1], f"{secret} ", secret.upper()):
            assert find_grant(digest(wrong)) is None

    def test_revoking_counts_those_that_were_not_revoked(self) -> None:
        tokens = [create_token(name)[0] for name in "abc"]
        assert revoke(tokens[:1]) == 1
        first = AccessToken.objects.get(pk=tokens[0].pk).revoked_at
        revision = current_revision()
        assert revoke(tokens[:2]) == 1
        assert AccessToken.objects.get(pk=tokens[0].pk).revoked_at == first
        assert AccessToken.objects.get(pk=tokens[2].pk).state == "active"
        assert current_revision() > revision

    def test_a_rotated_token_has_two_secrets_for_a_while(self) -> None:
        token, old = create_token("reader", filters={"tenant_id": "acme"})
        before = timezone.now()
        new = rotate(token, timedelta(hours=1))
        assert public_prefix(new) == public_prefix(old) == token.prefix
        by_old, by_new = find_grant(digest(old)), find_grant(digest(new))
        assert by_old is not None and by_new is not None
        assert by_new.expires_at is None and by_old.expires_at is not None
        assert 3600 <= by_old.expires_at - before.timestamp() < 3700
        assert by_old == replace(by_new, expires_at=by_old.expires_at, digest=digest(old))
        assert live_grants([token.pk]) == {token.pk: {digest(old): by_old, digest(new): by_new}}

    def test_of_two_rotations_the_first_secret_ends(self) -> None:
        token, first = create_token("reader")
        second, third = (rotate(token, timedelta(hours=1)) for _ in range(2))
        is_valid = [find_grant(digest(secret)) is not None for secret in (first, second, third)]
        assert is_valid == [False, True, True]

    def test_a_rotation_without_overlap_ends_the_old_secret_at_once(self) -> None:
        token, old = create_token("reader")
        new = rotate(token, timedelta())
        assert find_grant(digest(old)) is None and find_grant(digest(new)) is not None

    def test_an_old_secret_ends_with_its_overlap_or_with_the_token(self) -> None:
        expires_at = timezone.now() + timedelta(minutes=1)
        token, old = create_token("reader", expires_at=expires_at)
        rotate(token, timedelta(hours=1))
        grant = find_grant(digest(old))
        assert grant is not None and grant.expires_at == expires_at.timestamp()
        AccessToken.objects.update(previous_until=PAST)
        assert find_grant(digest(old)) is None

    def test_a_rotation_raises_the_revision(self) -> None:
        token, _ = create_token("reader")
        revision = current_revision()
        rotate(token, timedelta(hours=1))
        assert current_revision() > revision

    def test_a_token_whose_owner_is_deactivated_grants_nothing(self) -> None:
        owner = User.objects.create_user("ann")
        token, secret = create_token("reader", owner=owner)
        assert find_grant(digest(secret)) is not None
        revision = current_revision()
        owner.is_active = False
        owner.save()
        assert current_revision() > revision
        assert find_grant(digest(secret)) is None
        assert live_grants([token.pk]) == {}
        owner.is_active = True
        owner.save()
        assert find_grant(digest(secret)) is not None

    def test_a_login_of_the_owner_changes_nothing(self) -> None:
        owner = User.objects.create_user("ann")
        revision = current_revision()
        owner.save(update_fields=["last_login"])
        User.objects.create_user("bob")
        assert current_revision() == revision

    def test_the_state_of_live_tokens(self) -> None:
        active, revoked, gone = (create_token(name)[0] for name in "abc")
        revoke([revoked])
        ids = [active.pk, revoked.pk, gone.pk]
        gone.delete()
        grants = live_grants(ids)
        assert grants == {active.pk: {bytes(active.digest): grant_of(active)}}

    def test_more_live_tokens_than_a_query_takes(self) -> None:
        token = create_token("reader")[0]
        assert list(live_grants([*range(10**6, 10**6 + 2000), token.pk])) == [token.pk]

    def test_recording_the_use_of_tokens(self) -> None:
        used, unused = create_token("used")[0], create_token("unused")[0]
        before, revision = timezone.now(), current_revision()
        record_use([used.pk])
        used.refresh_from_db()
        unused.refresh_from_db()
        assert used.last_used_at is not None
        assert used.last_used_at >= before
        assert unused.last_used_at is None
        assert current_revision() == revision


def test_the_text_of_a_token_does_not_hold_its_secret() -> None:
    token = AccessToken(name="reader")
    random = assign_secret(token).removeprefix(token.prefix)
    assert random not in f"{token!r} {token} {grant_of(token)}"


@pytest.mark.django_db
def test_a_token_whose_filters_cannot_be_read_grants_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    token, secret = create_token("written past the admin")
    other, _ = create_token("beside it")
    AccessToken.objects.filter(pk=token.pk).touch(filters={"a..b": 1})
    assert find_grant(digest(secret)) is None
    assert list(live_grants([token.pk, other.pk])) == [other.pk]
    assert "empty step" in caplog.text
