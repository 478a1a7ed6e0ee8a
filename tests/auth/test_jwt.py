"""JSON Web Tokens: their form, their signatures and headers, and that nothing of them is logged."""

from __future__ import annotations

import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime.auth.jwt import Verifier, looks_like_jwt
from tests.auth.issuer import (
    ASYMMETRIC,
    CLAIMS,
    IDENTITY,
    JSON,
    NOW,
    OTHER_SECRET,
    SECRET,
    Refusal,
    base64url,
    claiming,
    configure,
    encode,
    hs256,
    jwk,
    oct_jwk,
    pem,
    private_key,
    public_key_config,
    signed,
    token,
    unhurried,
    write_jwks,
)

# Form


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (token(), True),
        ("a.b.c", True),
        ("a-_9.b-_9.c-_9", True),
        ("", False),
        ("..", False),
        ("a.b", False),
        ("a.b.", False),
        ("a.b.c.d", False),
        ("a.b.c\n", False),
        ("a.b.c=", False),
        ("a.b.c+/", False),
        ("a.b.é", False),
        ("a.b.\ud800", False),
        ("rt_0123abcd_secret", False),
    ],
)
def test_the_form_of_a_jwt(text: str, expected: bool) -> None:
    assert looks_like_jwt(text) is expected


# Signatures


def test_a_secret() -> None:
    assert Verifier(configure()).verify(token(), NOW) == IDENTITY


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_public_key(algorithm: str) -> None:
    verifier = Verifier(public_key_config(algorithm))
    assert verifier.verify(signed(algorithm), NOW) == IDENTITY
    assert verifier.verify(signed(algorithm, kid="as the issuer calls it"), NOW) == IDENTITY


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_key_set(algorithm: str, jwks_file: Path) -> None:
    write_jwks(jwks_file, *(jwk(name, name) for name in ASYMMETRIC))
    verifier = Verifier(configure(jwks_file=jwks_file))
    assert verifier.verify(signed(algorithm, algorithm, kid=algorithm), NOW) == IDENTITY


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_key_in_a_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes((SECRET + ending).encode())
    assert Verifier(configure(key_file=path, algorithms=["HS256"])).verify(token(), NOW)
    path.write_text(pem(private_key("ES256")).rstrip() + ending)
    verifier = Verifier(configure(key_file=path, algorithms=["ES256"]))
    assert verifier.verify(signed("ES256"), NOW) == IDENTITY


def test_a_secret_of_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(bytes(range(128, 168)))
    verifier = Verifier(configure(key_file=path, algorithms=["HS256"]))
    text = encode(CLAIMS, {"alg": "HS256"}, hs256(path.read_bytes()))
    assert verifier.verify(text, NOW) == IDENTITY


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_another_key_of_the_same_kind(algorithm: str, refusal: Refusal) -> None:
    verifier = Verifier(public_key_config(algorithm))
    assert refusal(verifier, signed(algorithm, "second")) == "signature"


def test_another_secret(refusal: Refusal) -> None:
    assert refusal(Verifier(configure()), token(secret=OTHER_SECRET)) == "signature"


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_changed_token(algorithm: str, part: int) -> None:
    parts = signed(algorithm).split(".")
    changed = "B" if parts[part][-10] == "A" else "A"
    parts[part] = parts[part][:-10] + changed + parts[part][-9:]
    assert Verifier(public_key_config(algorithm)).verify(".".join(parts), NOW) is None


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
@pytest.mark.parametrize("signature", [b"\0", b"\0" * 64, b"\0" * 256, b"\xff" * 64])
def test_a_signature_that_is_none(algorithm: str, signature: bytes, refusal: Refusal) -> None:
    text = encode(CLAIMS, {"alg": algorithm}, lambda _: signature)
    assert refusal(Verifier(public_key_config(algorithm)), text) == "signature"


NONES: list[Any] = ["none", "None", "NONE", "nOnE", "none ", "", None, 0, False, [], ["HS256"], {}]


@pytest.mark.parametrize("none", NONES)
@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_an_unsigned_token(none: Any, algorithm: str, refusal: Refusal) -> None:
    verifier = Verifier(public_key_config(algorithm))
    unsigned = encode(CLAIMS, {"alg": none, "typ": "JWT"}, lambda _: b"")
    assert refusal(verifier, unsigned) == "no JWT"
    assert refusal(verifier, unsigned + "AAAA") == "algorithm"


def test_a_token_without_an_algorithm(refusal: Refusal) -> None:
    text = encode(CLAIMS, {"typ": "JWT"}, hs256(SECRET))
    assert refusal(Verifier(configure()), text) == "algorithm"


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_a_public_key_is_no_secret(algorithm: str, jwks_file: Path, refusal: Refusal) -> None:
    key = pem(private_key(algorithm))
    write_jwks(jwks_file, jwk(algorithm))
    every = [*ASYMMETRIC, "HS256"]
    verifiers = [
        Verifier(public_key_config(algorithm)),
        Verifier(configure(jwks_file=jwks_file)),
        Verifier(configure(jwks_file=jwks_file, algorithms=every)),
    ]
    for secret in (key, key.rstrip(), key + "\n", json.dumps(jwk(algorithm))):
        text = token(secret=secret)
        assert [refusal(verifier, text) for verifier in verifiers] == ["algorithm"] * 3


OTHERS = ["RS256", "ES256", "EdDSA", "RS512", "PS256", "ES384", "HS512"]


@pytest.mark.parametrize(
    ("algorithm", "claimed"),
    [(own, other) for own in ASYMMETRIC for other in OTHERS if other != own],
)
def test_an_algorithm_the_key_is_not_for(algorithm: str, claimed: str, refusal: Refusal) -> None:
    _, payload, signature = signed(algorithm).split(".")
    header = base64url(json.dumps({"alg": claimed}).encode())
    verifier = Verifier(public_key_config(algorithm))
    assert refusal(verifier, f"{header}.{payload}.{signature}") == "algorithm"


def test_a_key_of_a_set_for_an_algorithm_that_is_not_allowed(
    jwks_file: Path, refusal: Refusal
) -> None:
    write_jwks(jwks_file, jwk("RS256"), jwk("ES256", "second"))
    verifier = Verifier(configure(jwks_file=jwks_file, algorithms=["RS256"]))
    assert verifier.verify(signed("RS256", kid="first"), NOW)
    assert refusal(verifier, signed("ES256", "second", kid="second")) == "unknown key"


# Headers


@pytest.mark.parametrize(
    ("crit", "kind"),
    [
        (["b64"], "critical header"),  # PyJWT knows this one
        (["exp"], "malformed"),
        ([], "malformed"),
        ("exp", "malformed"),
        (None, "malformed"),
    ],
)
def test_a_critical_header(crit: Any, kind: str, refusal: Refusal) -> None:
    assert refusal(Verifier(configure()), token(crit=crit, b64=True, exp=1)) == kind


@pytest.mark.parametrize("kid", [None, 1, [], {}])
def test_a_key_id_that_is_no_string(kid: Any, refusal: Refusal) -> None:
    assert refusal(Verifier(configure()), token(kid=kid)) == "malformed"


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_keys_a_token_brings_along(algorithm: str, jwks_file: Path, refusal: Refusal) -> None:
    write_jwks(jwks_file, jwk(algorithm))
    own: dict[str, Any] = {
        "jwk": jwk(algorithm, "attacker"),
        "jku": "https://attacker.example.com/jwks.json",
        "x5u": "https://attacker.example.com/certificate.pem",
        "x5c": [base64url(b"certificate")],
    }
    for config in (public_key_config(algorithm), configure(jwks_file=jwks_file)):
        verifier = Verifier(config)
        assert refusal(verifier, signed(algorithm, "attacker", kid="first", **own)) == "signature"
        assert verifier.verify(signed(algorithm, kid="first", **own), NOW) == IDENTITY


def test_a_detached_payload(refusal: Refusal) -> None:
    header, payload, signature = token(b64=False).split(".")
    assert refusal(Verifier(configure()), f"{header}.{payload}.{signature}") == "malformed"


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 4000, b"1" * 5000])
def test_a_header_that_is_no_object(header: bytes, refusal: Refusal) -> None:
    _, payload, signature = token().split(".")
    text = f"{base64url(header) or 'A'}.{payload}.{signature}"
    assert refusal(Verifier(configure()), text) == "malformed"


# Any input


def test_a_token_has_a_largest_size(refusal: Refusal) -> None:
    verifier = Verifier(configure())
    padding = 8192 - len(token(claiming(x="")))
    longest = max(
        (token(claiming(x="x" * (padding * 3 // 4 + extra))) for extra in range(-4, 5)),
        key=lambda text: (len(text) <= 8192, len(text)),
    )
    assert 8188 <= len(longest) <= 8192
    assert verifier.verify(longest, NOW) == IDENTITY
    assert refusal(verifier, token(claiming(x="x" * 8000))) == "too long"
    assert refusal(verifier, "x" * 10_000_000) == "too long"


@pytest.mark.parametrize("text", ["", "é.é.é", "\ud800", "\udfff.a.b", "a.b.c\udc80", "\0.\0.\0"])
def test_text_that_is_no_token(text: str, refusal: Refusal) -> None:
    assert refusal(Verifier(configure()), text) == "no JWT"


PARTS = st.text("AZaz09-_", min_size=1) | st.binary(max_size=60).map(base64url)
NAMES = ["iss", "aud", "sub", "exp", "nbf", "iat", "types", "filters"]


@cache
def verifiers() -> list[Verifier]:
    return [Verifier(configure()), *(Verifier(public_key_config(name)) for name in ASYMMETRIC)]


@given(st.text() | st.lists(PARTS, min_size=3, max_size=3).map(".".join))
@example("e30.e30.AA")
@unhurried
def test_no_text_makes_it_raise(text: str) -> None:
    assert [verifier.verify(text, NOW) for verifier in verifiers()] == [None] * 4


@given(st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "typ", "jwk"]), JSON))
@example({"alg": "EdDSA"})
@unhurried
def test_no_header_makes_it_raise(header: Any) -> None:
    text = encode(CLAIMS, header, lambda _: b"no signature")
    assert [verifier.verify(text, NOW) for verifier in verifiers()] == [None] * 4


@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=2))
@unhurried
def test_no_claims_of_a_trusted_issuer_make_it_raise(claims: Any) -> None:
    identity = Verifier(configure()).verify(token(CLAIMS | claims), NOW)
    if identity is not None:
        assert identity.types
        assert NOW < (identity.expires_at or 0) <= NOW + 86_400


# Logs


def test_nothing_of_a_token_is_logged(jwks_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="realtime.auth.jwt")
    write_jwks(jwks_file, oct_jwk())
    verifier = Verifier(configure(jwks_file=jwks_file, algorithms=["HS256"]))
    bad = [
        token(claiming(sub="marked\n")),
        token(claiming(filters={"": "marked"})),
        token(claiming(types=["marked"])),
        token(claiming(iss="marked")),
        token(secret="marked"),
        token(kid="marked"),
        token(alg="marked"),
        token(b'{"marked'),
    ]
    for text in bad:
        assert verifier.verify(text, NOW) is None
    os.truncate(jwks_file, 60)
    verifier.verify(token(), NOW + 1)
    assert len(caplog.records) == len(bad) + 1
    for record in caplog.records:
        message = logging.Formatter().format(record)
        assert "marked" not in message
        assert SECRET not in message
        assert base64url(SECRET.encode())[:20] not in message
        assert not any(part in message for text in bad for part in text.split("."))
