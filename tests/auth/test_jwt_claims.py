"""The claims of JSON Web Tokens: which are needed, what they grant, and until when."""

from __future__ import annotations

import pytest

from realtime.auth.grants import Grant
from realtime.auth.jwt import Verifier
from realtime.filters.compiler import compile_filters
from tests.auth.issuer import (
    AUDIENCE,
    IDENTITY,
    ISSUER,
    NOW,
    Claims,
    Refusal,
    claiming,
    configure,
    token,
    without,
)


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "exp"])
def test_a_required_claim(name: str, refusal: Refusal) -> None:
    kind = "claims missing or malformed"
    assert refusal(Verifier(configure()), token(without(name))) == kind
    assert refusal(Verifier(configure()), token(claiming(**{name: None}))) == kind


@pytest.mark.parametrize(
    ("claims", "kind"),
    [
        ({"iss": "https://login.example.com/"}, "issuer"),
        ({"iss": "https://login.example"}, "issuer"),
        ({"iss": ""}, "issuer"),
        ({"iss": [ISSUER]}, "claims missing or malformed"),
        ({"aud": "stream"}, "audience"),
        ({"aud": "streaming-of-others"}, "audience"),
        ({"aud": ""}, "audience"),
        ({"aud": []}, "audience"),
        ({"aud": ["other"]}, "audience"),
        ({"aud": [AUDIENCE, 1]}, "claims missing or malformed"),
        ({"aud": {AUDIENCE: True}}, "claims missing or malformed"),
        ({"sub": ""}, "claims missing or malformed"),
        ({"sub": "x" * 256}, "claims missing or malformed"),
        ({"sub": 7}, "claims missing or malformed"),
        ({"sub": ["user-7"]}, "claims missing or malformed"),
        ({"sub": "user\nname"}, "subject"),
        ({"sub": "user\0"}, "subject"),
        ({"sub": "\ud800"}, "claims missing or malformed"),
        ({"exp": int(NOW)}, "expired"),
        ({"exp": NOW - 0.5}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -1e300}, "expired"),
        ({"exp": True}, "claims missing or malformed"),
        ({"exp": str(int(NOW) + 600)}, "claims missing or malformed"),
        ({"exp": [NOW + 600]}, "claims missing or malformed"),
        ({"exp": float("nan")}, "claims missing or malformed"),
        ({"exp": float("inf")}, "claims missing or malformed"),
        ({"exp": 10**400}, "claims missing or malformed"),
        ({"exp": 10**100}, "lifetime"),
        ({"exp": 1e300}, "lifetime"),
        ({"exp": int(NOW) + 86_401}, "lifetime"),
        ({"nbf": int(NOW) + 1}, "not yet valid"),
        ({"nbf": 10**100}, "not yet valid"),
        ({"nbf": True}, "claims missing or malformed"),
        ({"nbf": None}, "claims missing or malformed"),
        ({"nbf": "0"}, "claims missing or malformed"),
        ({"iat": int(NOW) + 1}, "not yet valid"),
        ({"iat": False}, "claims missing or malformed"),
        ({"iat": "0"}, "claims missing or malformed"),
        ({"types": None}, "types"),
        ({"types": 1}, "types"),
        ({"types": True}, "types"),
        ({"types": {"events": True}}, "types"),
        ({"types": ["events", 1]}, "types"),
        ({"types": ["events", None]}, "types"),
        ({"types": [["events"]]}, "types"),
        ({"types": []}, "no subscription type"),
        ({"types": ""}, "no subscription type"),
        ({"types": "Events openid"}, "no subscription type"),
        ({"types": "events,alerts"}, "no subscription type"),
        ({"types": ["unknown"]}, "no subscription type"),
        ({"filters": None}, "filters"),
        ({"filters": []}, "filters"),
        ({"filters": ""}, "filters"),
        ({"filters": "tenant=7"}, "filters"),
        ({"filters": True}, "filters"),
        ({"filters": {"": 1}}, "filters"),
        ({"filters": {"tenant": []}}, "filters"),
        ({"filters": {"tenant": {"id": 7}}}, "filters"),
        ({"filters": {"tenant": [[7]]}}, "filters"),
        ({"filters": {"tenant": float("nan")}}, "claims missing or malformed"),
        ({"filters": {"tenant": "\ud800"}}, "claims missing or malformed"),
    ],
)
def test_a_claim_that_is_wrong(claims: Claims, kind: str, refusal: Refusal) -> None:
    assert refusal(Verifier(configure()), token(claiming(**claims))) == kind


def test_a_token_without_types(refusal: Refusal) -> None:
    assert refusal(Verifier(configure()), token(without("types"))) == "types"


@pytest.mark.parametrize("payload", [b"x", b"{", b"[]", b"null", b'"text"', b"\xff", b"[" * 4000])
def test_a_payload_that_is_no_object(payload: bytes, refusal: Refusal) -> None:
    assert refusal(Verifier(configure()), token(payload)) == "claims missing or malformed"


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [AUDIENCE]},
        {"aud": ["other", AUDIENCE]},
        {"exp": NOW + 600.0},
        {"iat": NOW - 10, "nbf": NOW - 10},
        {"iat": NOW, "nbf": NOW},
        {"nbf": -1},
        {"jti": 7, "azp": None, "nested": {"a": [1]}},
        {"types": "events alerts"},
        {"types": "openid  events alerts profile"},
        {"types": ["alerts", "events", "events", "of another system"]},
        {"filters": {}},
    ],
)
def test_a_claim_that_is_right(claims: Claims) -> None:
    assert Verifier(configure()).verify(token(claiming(**claims)), NOW) == IDENTITY


@pytest.mark.parametrize("subject", ["x", "x" * 255, "auth0|1:2", "Zoë", "名前", "a user"])
def test_a_subject(subject: str) -> None:
    identity = Verifier(configure()).verify(token(claiming(sub=subject)), NOW)
    assert identity is not None
    assert identity.holder == f"jwt:{subject}"


def test_filters() -> None:
    filters = {"tenant.id": [7, "7"], "public": True}
    identity = Verifier(configure()).verify(token(claiming(filters=filters)), NOW)
    assert identity is not None
    assert identity.filters == compile_filters(filters)


def test_claims_of_other_names() -> None:
    names = {"types_claim": "https://example.com/types", "filters_claim": "scope_of"}
    claims = claiming(
        **{"https://example.com/types": ["metrics"], "scope_of": {"a": 1}, "filters": "ignored"}
    )
    assert Verifier(configure(**names)).verify(token(claims), NOW) == Grant(
        "jwt:user-7", None, frozenset({"metrics"}), compile_filters({"a": 1}), NOW + 600
    )


# Time


def test_a_token_ends_when_it_says() -> None:
    verifier = Verifier(configure())
    assert verifier.verify(token(), NOW + 599.9) == IDENTITY
    assert verifier.verify(token(), NOW + 600) is None


def test_leeway_is_for_clocks_that_differ() -> None:
    verifier = Verifier(configure(leeway=30))
    expiring = verifier.verify(token(), NOW + 629)
    assert expiring is not None
    assert expiring.expires_at == NOW + 630  # who is let in is not put out at once
    assert verifier.verify(token(), NOW + 630) is None
    for name in ("nbf", "iat"):
        assert verifier.verify(token(claiming(**{name: NOW + 30})), NOW)
        assert verifier.verify(token(claiming(**{name: NOW + 31})), NOW) is None
    assert verifier.verify(token(claiming(exp=NOW + 86_430)), NOW)
    assert verifier.verify(token(claiming(exp=NOW + 86_431)), NOW) is None


def test_the_longest_lifetime() -> None:
    verifier = Verifier(configure(max_lifetime=60))
    assert verifier.verify(token(claiming(exp=NOW + 60)), NOW)
    assert verifier.verify(token(claiming(exp=NOW + 61)), NOW) is None
