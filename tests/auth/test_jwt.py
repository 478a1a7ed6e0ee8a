"""JSON Web Tokens: their form, signatures, headers and keys, and that nothing of them is logged."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from realtime.auth.jwt import Verifier, looks_like_jwt
from tests.auth.issuer import (
    ASYMMETRIC,
    CLAIMS,
    IDENTITY,
    JSON,
    KEYS,
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
    private_pem,
    public_key_config,
    signed,
    token,
    unhurried,
    with_key,
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


# Key sets


def test_the_key_a_token_names(jwks_file: Path, refusal: Refusal) -> None:
    write_jwks(jwks_file, jwk("ES256"), jwk("ES256", "second"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    assert verifier.verify(signed("ES256", "first", kid="first"), NOW) == IDENTITY
    assert verifier.verify(signed("ES256", "second", kid="second"), NOW) == IDENTITY
    assert refusal(verifier, signed("ES256", "first", kid="second")) == "signature"
    assert refusal(verifier, signed("ES256", "first", kid="third")) == "unknown key"
    assert refusal(verifier, signed("ES256", "first", kid="")) == "unknown key"
    assert refusal(verifier, signed("ES256", "first")) == "no key named"


def test_a_token_that_names_no_key_where_there_is_one(jwks_file: Path, refusal: Refusal) -> None:
    write_jwks(jwks_file, jwk("ES256"), jwk("RS256", "encryption", use="enc"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    assert verifier.verify(signed("ES256"), NOW) == IDENTITY
    assert refusal(verifier, signed("ES256", "second")) == "signature"


def test_two_keys_of_one_name(jwks_file: Path, refusal: Refusal) -> None:
    write_jwks(jwks_file, jwk("ES256"), jwk("ES256", "second", kid="first"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    assert refusal(verifier, signed("ES256", kid="first")) == "unknown key"


def test_a_key_without_a_name_is_not_that_of_any_name(jwks_file: Path, refusal: Refusal) -> None:
    write_jwks(jwks_file, jwk("ES256", kid=None), jwk("ES256", "second", kid=7))
    verifier = Verifier(configure(jwks_file=jwks_file))
    assert refusal(verifier, signed("ES256", kid="None")) == "unknown key"
    assert refusal(verifier, signed("ES256", "second", kid="7")) == "unknown key"


def private_jwk(algorithm: str) -> dict[str, Any]:
    members: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(
        private_key(algorithm), as_dict=True
    )
    return members | {"key_ops": ["sign", "verify"]}


UNUSABLE: dict[str, Callable[[], Any]] = {
    "no object": lambda: "key",
    "null": lambda: None,
    "empty": dict,
    "no type": lambda: {"kid": "first"},
    "a type that is a list": lambda: {"kty": ["RSA"], "crv": {}},
    "an unknown type": lambda: {"kty": "AKP"},
    "nothing but a type": lambda: {"kty": "RSA"},
    "nothing but a type and a curve": lambda: {"kty": "EC", "crv": "P-256"},
    "a number that is none": lambda: jwk("RS256", n="!"),
    "a number that is a number": lambda: jwk("RS256", n=3),
    "a point off the curve": lambda: jwk("ES256") | {"x": base64url(bytes(32))},
    "half a point": lambda: jwk("ES256") | {"x": base64url(bytes(16))},
    "another curve": lambda: {**jwk("ES256"), "crv": "P-384"},
    "Ed448": lambda: {"kty": "OKP", "crv": "Ed448", "x": base64url(bytes(57)), "alg": "EdDSA"},
    "short Ed25519": lambda: jwk("EdDSA", x=base64url(bytes(31))),
    "for another algorithm": lambda: jwk("RS256", alg="PS256"),
    "for an algorithm of another type": lambda: jwk("RS256", alg="HS256"),
    "for no algorithm": lambda: jwk("RS256", alg="none"),
    "for encryption": lambda: jwk("RS256", use="enc"),
    "for signing": lambda: jwk("RS256", key_ops=["sign"]),
    "operations that are no list": lambda: jwk("RS256", key_ops="verify"),
    "private RSA": lambda: private_jwk("RS256"),
    "private EC": lambda: private_jwk("ES256"),
    "private Ed25519": lambda: private_jwk("EdDSA"),
    "a secret": oct_jwk,
    "a secret for RS256": lambda: oct_jwk(alg="RS256"),
    "RSA of 1024 bits": lambda: jwk("RS256", n=base64url(b"\xff" * 128)),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_key_that_is_not_usable_is_none(name: str, jwks_file: Path) -> None:
    unusable = UNUSABLE[name]()
    with pytest.raises(ValueError, match="has no usable key for RS256, ES256, EdDSA: put one"):
        Verifier(configure(jwks_file=write_jwks(jwks_file, unusable)))
    verifier = Verifier(configure(jwks_file=write_jwks(jwks_file, unusable, jwk("ES256"))))
    assert verifier.verify(signed("ES256"), NOW) == IDENTITY


def test_a_secret_of_a_set_needs_its_algorithm_allowed(jwks_file: Path, refusal: Refusal) -> None:
    write_jwks(jwks_file, oct_jwk(), jwk("ES256"))
    assert refusal(Verifier(configure(jwks_file=jwks_file)), token(kid="secret")) == "unknown key"
    both = Verifier(configure(jwks_file=jwks_file, algorithms=["HS256", "ES256"]))
    assert both.verify(token(kid="secret"), NOW) == IDENTITY
    assert both.verify(signed("ES256", kid="first"), NOW) == IDENTITY
    assert refusal(both, token(kid="first")) == "algorithm"
    assert refusal(both, signed("ES256", kid="secret")) == "algorithm"


@pytest.mark.parametrize("secret", ["short", "", "RSA", "SSH", "JWK"])
def test_a_secret_of_a_set_is_a_good_one(secret: str, jwks_file: Path) -> None:
    write_jwks(jwks_file, oct_jwk(KEYS.get(secret, lambda: secret)()))
    with pytest.raises(ValueError, match="has no usable key for HS256"):
        Verifier(configure(jwks_file=jwks_file, algorithms=["HS256"]))


# Rotation


def test_rotation(jwks_file: Path) -> None:
    old, new = signed("ES256", "first", kid="first"), signed("ES256", "second", kid="second")
    write_jwks(jwks_file, jwk("ES256", "first"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    assert verifier.verify(old, NOW)
    assert not verifier.verify(new, NOW)
    write_jwks(jwks_file, jwk("ES256", "first"), jwk("ES256", "second"))
    assert not verifier.verify(new, NOW + 0.9)  # it has looked less than a second ago
    assert verifier.verify(new, NOW + 1)
    assert verifier.verify(old, NOW + 1)
    write_jwks(jwks_file, jwk("ES256", "second"))
    assert not verifier.verify(old, NOW + 2)
    assert verifier.verify(new, NOW + 2)


def test_rotation_while_the_clock_is_set_back(jwks_file: Path) -> None:
    write_jwks(jwks_file, jwk("ES256", "first"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    assert verifier.verify(signed("ES256"), NOW)
    write_jwks(jwks_file, jwk("ES256", "second"))
    assert not verifier.verify(signed("ES256"), NOW - 60)


def test_a_file_that_has_not_changed_is_not_read(
    jwks_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = Verifier(configure(jwks_file=write_jwks(jwks_file, jwk("ES256"))))
    monkeypatch.delattr(Path, "read_bytes")
    assert verifier.verify(signed("ES256"), NOW)
    assert verifier.verify(signed("ES256"), NOW + 5)


def test_no_key_left_is_none_trusted(jwks_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_jwks(jwks_file, jwk("ES256"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    write_jwks(jwks_file)
    assert not verifier.verify(signed("ES256"), NOW)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no usable key any more" in caplog.text


NO_JWKS = {
    b"": "is not JSON",
    b"{": "is not JSON",
    b"\xff": "is not JSON",
    b"[" * 100_000: "is not JSON",
    b"null": "has no array of keys",
    b"[]": "has no array of keys",
    b"{}": "has no array of keys",
    b'{"keys": {}}': "has no array of keys",
}


@pytest.mark.parametrize("content", NO_JWKS, ids=range(len(NO_JWKS)))
def test_no_key_set_at_start(content: bytes, jwks_file: Path) -> None:
    jwks_file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^jwks_file: .* {NO_JWKS[content]}: give a JWKS$"):
        Verifier(configure(jwks_file=jwks_file))


@pytest.mark.parametrize("content", [*NO_JWKS, None], ids=range(len(NO_JWKS) + 1))
def test_no_key_set_later(
    content: bytes | None, jwks_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_jwks(jwks_file, jwk("ES256"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    if content is None:
        jwks_file.unlink()
    else:
        jwks_file.write_bytes(content)
    for second in range(3):
        assert verifier.verify(signed("ES256"), NOW + second) == IDENTITY
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("the keys read before stay in force: jwks_file: ")
    write_jwks(jwks_file, jwk("ES256", "second"))
    assert not verifier.verify(signed("ES256"), NOW + 3)
    jwks_file.unlink()
    assert verifier.verify(signed("ES256", "second"), NOW + 4)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_each_loss_of_the_file_is_logged(jwks_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    verifier = Verifier(configure(jwks_file=write_jwks(jwks_file, jwk("ES256"))))
    elsewhere = jwks_file.with_suffix(".away")
    for second in range(0, 6, 3):
        jwks_file.rename(elsewhere)
        assert verifier.verify(signed("ES256"), NOW + second)
        assert verifier.verify(signed("ES256"), NOW + second + 1)
        elsewhere.rename(jwks_file)
        assert verifier.verify(signed("ES256"), NOW + second + 2)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_a_file_is_read_once_it_can_be(
    jwks_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_jwks(jwks_file, jwk("ES256"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    write_jwks(jwks_file, jwk("ES256", "second"))

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        for second in range(3):
            assert verifier.verify(signed("ES256"), NOW + second)
    assert "cannot be read: Permission denied" in caplog.text
    assert len(caplog.records) == 1
    assert verifier.verify(signed("ES256", "second"), NOW + 3)


@given(st.binary() | JSON.map(lambda value: json.dumps({"keys": [value]}).encode()))
@settings(unhurried, suppress_health_check=list(HealthCheck))
def test_no_key_set_makes_it_raise(jwks_file: Path, content: bytes) -> None:
    write_jwks(jwks_file, jwk("ES256"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    jwks_file.write_bytes(content)
    verifier.verify(signed("ES256"), NOW)
    with pytest.raises(ValueError, match=r"^jwks_file: "):
        Verifier(configure(jwks_file=jwks_file))


# Keys that are refused


def error(**fields: Any) -> str:
    """Return why a configuration is refused, be it at once or when the keys are read."""
    with pytest.raises(ValueError) as caught:
        Verifier(configure(**fields))
    if isinstance(caught.value, ValidationError):
        return caught.value.errors()[0]["msg"].removeprefix("Value error, ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": ""}, "give exactly one of key, key_file and jwks_file"),
        ({"key": SECRET, "key_file": "k"}, "give exactly one of key, key_file and jwks_file"),
        ({"key_file": "k", "jwks_file": "j"}, "give exactly one of key, key_file and jwks_file"),
        ({"key": SECRET}, "algorithms: say which one the key is for, RS256 for example"),
        ({"key_file": "k"}, "algorithms: say which one the key is for, RS256 for example"),
        (
            {"key": SECRET, "algorithms": ["RS256"]},
            "algorithms: key holds a secret, which is not for RS256:"
            " set algorithms to HS256 (or give a PEM public key)",
        ),
        (
            {"key": SECRET, "algorithms": ["HS256", "RS256"]},
            "algorithms: key holds a secret, which is not for HS256,RS256:"
            " set algorithms to HS256 (or give a PEM public key)",
        ),
        (
            {"key": "RSA", "algorithms": ["HS256"]},
            "algorithms: key holds a public key, which is not for HS256: set algorithms to RS256",
        ),
        (
            {"key": "EC", "algorithms": ["HS256", "ES256"]},
            "algorithms: key holds a public key, which is not for HS256,ES256:"
            " set algorithms to ES256",
        ),
        (
            {"key": "Ed25519", "algorithms": ["RS256", "ES256"]},
            "algorithms: key holds a public key, which is not for RS256,ES256:"
            " set algorithms to EdDSA",
        ),
        (
            {"key": "x" * 31, "algorithms": ["HS256"]},
            "key: a secret needs at least 32 bytes, this has 31: make a longer one",
        ),
        (
            {"key": "JWK", "algorithms": ["HS256"]},
            "key: this is no secret but a key in another form: give a PEM public key,"
            " or a key set as jwks_file",
        ),
        (
            {"key": "SSH", "algorithms": ["HS256"]},
            "key: this is no secret but a key in another form: give a PEM public key,"
            " or a key set as jwks_file",
        ),
        (
            {"key": "private RSA", "algorithms": ["RS256"]},
            "key: this is a private key: give its public key",
        ),
        (
            {"key": "private EC", "algorithms": ["ES256"]},
            "key: this is a private key: give its public key",
        ),
        (
            {"key": "garbled", "algorithms": ["RS256"]},
            "key: not readable: give a public key in PEM form",
        ),
        (
            {"key": "P-384", "algorithms": ["ES256"]},
            "key: give a key of RSA, of the curve P-256, or Ed25519",
        ),
        (
            {"key": "Ed448", "algorithms": ["EdDSA"]},
            "key: give a key of RSA, of the curve P-256, or Ed25519",
        ),
        (
            {"key": "RSA of 1024 bits", "algorithms": ["RS256"]},
            "key: an RSA key needs at least 2048 bits",
        ),
        (
            {"key_file": "/no/file", "algorithms": ["RS256"]},
            "key_file: /no/file cannot be read: No such file or directory",
        ),
        (
            {"jwks_file": "/no/file"},
            "jwks_file: /no/file cannot be read: No such file or directory",
        ),
    ],
)
def test_keys_that_are_refused(fields: dict[str, Any], message: str) -> None:
    assert error(**with_key(fields)) == message


@pytest.mark.parametrize("key", ["RSA", "EC", "Ed25519"])
def test_a_public_key_in_a_file_is_no_secret(key: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(KEYS[key]())
    message = error(key_file=path, algorithms=["HS256"])
    assert message.startswith("algorithms: key_file holds a public key, which is not for HS256: ")


# Secrets


def test_no_secret_is_shown() -> None:
    config = configure()
    verifier = Verifier(config)
    shown = [repr(config), str(config), repr(verifier), repr(vars(verifier))]
    shown += [str(config.model_dump()), config.model_dump_json()]
    assert not any(SECRET in text for text in shown)


@pytest.mark.parametrize(
    "fields",
    [
        {"algorithms": ["RS256"]},
        {"algorithms": []},
        {"algorithms": ["none"]},
        {"key": SECRET[:31]},
        {"key": [SECRET]},
        {"key_file": "k"},
        {"issuer": ""},
        {"secret": SECRET},
        {"key": "private EC", "algorithms": ["ES256"]},
    ],
)
def test_no_secret_is_in_an_error(fields: dict[str, Any]) -> None:
    fields = {"key": SECRET, "algorithms": ["HS256"]} | fields
    with pytest.raises(ValueError) as caught:
        Verifier(configure(**with_key(fields)))
    for text in (str(caught.value), repr(caught.value)):
        assert SECRET[:31] not in text
        assert "BEGIN" not in text


def test_no_secret_is_in_the_error_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    for content in (SECRET[:31], private_pem(private_key("ES256")), SECRET):
        path.write_text(content)
        message = error(key_file=path, algorithms=["RS256"])
        assert "\n" not in message
        assert SECRET[:31] not in message
        assert "BEGIN" not in message
