"""The tables: what their validation accepts, and that changes raise the revision."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone

from realtime.auth.policy import LIMIT_FIELDS, current_revision
from realtime.auth.tokens import create_token
from realtime.models import AccessToken, AllowedOrigin, Limits, all_types

pytestmark = pytest.mark.django_db


def make_token(name: str = "reader", **fields: Any) -> AccessToken:
    return create_token(name, **fields)[0]


def errors_of(instance: AccessToken | AllowedOrigin | Limits) -> dict[str, list[str]]:
    with pytest.raises(ValidationError) as error:
        instance.full_clean()
    return error.value.message_dict


# Access tokens


def test_a_new_token_has_all_types_and_no_other_right() -> None:
    token = make_token()
    token.refresh_from_db()
    assert token.types == all_types()
    assert token.filters == {}
    assert not token.can_publish
    assert not token.can_view_stats
    assert token.rate_limit_per_minute is None
    assert token.max_connections is None
    assert token.expires_at is None
    assert token.state == "active"


def test_a_token_is_named_with_its_prefix() -> None:
    token = make_token("wallboard")
    assert str(token) == f"wallboard ({token.prefix})"


def test_the_state_of_a_token() -> None:
    now = timezone.now()
    past, future = now - timedelta(seconds=1), now + timedelta(hours=1)
    assert AccessToken().state == "active"
    assert AccessToken(expires_at=future).state == "active"
    assert AccessToken(expires_at=past).state == "expired"
    assert AccessToken(revoked_at=past).state == "revoked"
    assert AccessToken(revoked_at=past, expires_at=past).state == "revoked"


@pytest.mark.parametrize(
    "types",
    [[], None, "events", {"events": 1}, ["nothing"], ["events", "events"], [1], [["events"]]],
)
def test_types_are_some_of_the_six_each_once(types: Any) -> None:
    assert "types" in errors_of(AccessToken(name="x", prefix="p", digest=b"d", types=types))


@pytest.mark.parametrize("filters", [{}, None, {"a.b": [1, "x", None, True]}])
def test_filters_that_compile(filters: Any) -> None:
    token = make_token(filters=filters)
    token.refresh_from_db()
    assert token.filters == (filters or {})


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "filters: expected an object"),
        ("", "filters: expected an object"),
        ([1], "filters: expected an object"),
        (0, "filters: expected an object"),
        ({"": 1}, "filters: the path '' has an empty step"),
        ({"a": []}, "filters: 'a' has no values"),
        ({"a": {}}, "filters: 'a': an object without operators"),
    ],
)
def test_filters_are_refused_in_the_compilers_words(filters: Any, message: str) -> None:
    token = AccessToken(name="x", prefix="p", digest=b"d", filters=filters)
    assert errors_of(token) == {"filters": [message]}


@pytest.mark.parametrize("name", ["rate_limit_per_minute", "max_connections"])
def test_a_tokens_limits_are_positive(name: str) -> None:
    token = AccessToken(name="x", prefix="p", digest=b"d")
    setattr(token, name, 0)
    assert list(errors_of(token)) == [name]


def test_prefix_and_digest_are_unique() -> None:
    token = make_token()
    for same in ({"prefix": token.prefix, "digest": b"d"}, {"prefix": "p", "digest": token.digest}):
        with pytest.raises(IntegrityError), transaction.atomic():
            AccessToken.objects.create(name="other", **same)


def test_tokens_go_with_their_owner() -> None:
    user = User.objects.create(username="maria")
    make_token(owner=user)
    revision = current_revision()
    user.delete()
    assert not AccessToken.objects.exists()
    assert current_revision() > revision


# Origins and limits


@pytest.mark.parametrize("pattern", ["*", "null", "https://app.example.com"])
def test_origin_patterns(pattern: str) -> None:
    AllowedOrigin(pattern=pattern).full_clean()


def test_what_is_no_origin_pattern_is_refused() -> None:
    message = "'example.com' is no origin: expected scheme://host[:port], scheme://*.host[:port], "
    assert errors_of(AllowedOrigin(pattern="example.com")) == {
        "pattern": [message + "null or *"],
    }


def test_an_origin_is_listed_once() -> None:
    AllowedOrigin.objects.create(pattern="*")
    assert list(errors_of(AllowedOrigin(pattern="*"))) == ["pattern"]


def test_limits_are_one_row() -> None:
    Limits.objects.create(max_connections=1)
    Limits(max_connections=2).save()
    assert list(Limits.objects.values_list("pk", "max_connections")) == [(1, 2)]
    with pytest.raises(IntegrityError), transaction.atomic():
        Limits.objects.bulk_create([Limits(pk=2)])


def test_limits_may_be_empty() -> None:
    Limits().full_clean()


@pytest.mark.parametrize("name", [name for name in LIMIT_FIELDS if name != "enable_rate_limiting"])
@pytest.mark.parametrize("value", [-1, 0, "many"])
def test_a_limit_is_positive(name: str, value: Any) -> None:
    if (name, value) == ("max_connections_per_address", 0):
        Limits(max_connections_per_address=0).full_clean()  # no limit
        return
    assert list(errors_of(Limits(**{name: value}))) == [name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auth_timeout_seconds", 86_401),
        ("max_message_size", 1023),
        ("max_message_size", 256 * 1024 * 1024 + 1),
        ("max_buffered_bytes", 4095),
    ],
)
def test_the_bounds_of_limits(name: str, value: int) -> None:
    assert list(errors_of(Limits(**{name: value}))) == [name]


# The revision


def _change_a_token() -> None:
    token = AccessToken.objects.get()
    token.name = "other"
    token.save()


CHANGES: dict[str, Callable[[], Any]] = {
    "create a token": make_token,
    "change a token": _change_a_token,
    "update tokens": lambda: AccessToken.objects.update(name="other"),
    "delete a token": lambda: AccessToken.objects.get().delete(),
    "delete tokens": lambda: AccessToken.objects.all().delete(),
    "create an origin": lambda: AllowedOrigin.objects.create(pattern="*"),
    "update origins": lambda: AllowedOrigin.objects.update(note="x"),
    "delete origins": lambda: AllowedOrigin.objects.all().delete(),
    "create limits": lambda: Limits.objects.create(max_connections=2),
    "update limits": lambda: Limits.objects.update(max_connections=3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_raises_the_revision(change: Callable[[], Any]) -> None:
    make_token()
    AllowedOrigin.objects.create(pattern="https://app.example.com")
    revision = current_revision()
    change()
    assert current_revision() > revision


def test_the_use_of_a_token_does_not_raise_the_revision() -> None:
    token = make_token()
    revision = current_revision()
    AccessToken.objects.filter(pk=token.pk).touch(last_used_at=timezone.now())
    assert current_revision() == revision


def test_a_change_that_is_rolled_back_raises_nothing() -> None:
    revision = current_revision()
    with pytest.raises(RuntimeError), transaction.atomic():
        make_token()
        raise RuntimeError
    assert current_revision() == revision
