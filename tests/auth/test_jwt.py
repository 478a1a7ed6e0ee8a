"""JSON Web Tokens: which keys are trusted, which tokens are accepted, and what they grant."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from realtime.auth.jwt import Identity, JwtConfig, Verifier, looks_like_jwt
from realtime.filters import EVERYTHING, compile_filters

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Claims = dict[str, Any]

NOW = 1_800_000_000.0
ISSUER = "https://login.example.com"
AUDIENCE = "streaming"
SECRET = "a-secret-of-more-than-thirty-two-bytes"
OTHER_SECRET = "another-secret-that-nobody-has-configured"
CLAIMS: Claims = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "user-7",
    "exp": int(NOW) + 600,
    "types": ["events", "alerts"],
}
IDENTITY = Identity("user-7", frozenset({"events", "alerts"}), EVERYTHING, NOW + 600)
ASYMMETRIC = ("RS256", "ES256", "EdDSA")


def private_key(algorithm: str, name: str = "first") -> PrivateKey:
    """Return a key for an algorithm: the same one for the same name."""
    return _private_key(algorithm, name)


@cache
def _private_key(algorithm: str, name: str) -> PrivateKey:
    if algorithm == "RS256":
        return rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    if algorithm == "ES256":
        return ec.generate_private_key(ec.SECP256R1())
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    """Return the public half of a private key."""
    form = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text: bytes = key.public_key().public_bytes(*form)
    return text.decode()


def private_pem(key: PrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def jwk(algorithm: str, name: str = "first", **members: Any) -> dict[str, Any]:
    """Return the public half of a key as a member of a JWKS, called by its name."""
    public: Any = private_key(algorithm, name).public_key()
    found: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return found | {"kid": name} | members


def oct_jwk(secret: str = SECRET, **members: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": base64url(secret.encode()), "kid": "secret"} | members


# Keys by what they are. Made when asked for: what is collected must not depend on chance.
KEYS: dict[str, Callable[[], str]] = {
    "RSA": lambda: pem(private_key("RS256")),
    "EC": lambda: pem(private_key("ES256")),
    "Ed25519": lambda: pem(private_key("EdDSA")),
    "RSA of 1024 bits": lambda: pem(rsa.generate_private_key(65_537, 1024)),
    "P-384": lambda: pem(ec.generate_private_key(ec.SECP384R1())),
    "Ed448": lambda: pem(ed448.Ed448PrivateKey.generate()),
    "private RSA": lambda: private_pem(private_key("RS256")),
    "private EC": lambda: private_pem(private_key("ES256")),
    "SSH": lambda: "ssh-ed25519 " + "A" * 60,
    "JWK": lambda: json.dumps(jwk("RS256")),
    "garbled": lambda: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def write_jwks(path: Path, *keys: Any) -> Path:
    """Write a key set as one does who rotates keys: whole, and in place of the one before."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"keys": keys}))
    new.replace(path)
    return path


def configure(**fields: Any) -> JwtConfig:
    """Return a configuration with a secret, unless another key is given."""
    if not {"key", "key_file", "jwks_file"} & fields.keys():
        fields = {"key": SECRET, "algorithms": ["HS256"]} | fields
    return JwtConfig(**({"issuer": ISSUER, "audience": AUDIENCE} | fields))


def public_key_config(algorithm: str, **fields: Any) -> JwtConfig:
    key = pem(private_key(algorithm))
    return configure(**({"key": key, "algorithms": [algorithm]} | fields))


def encode(claims: Any, header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """Write a token by hand, since PyJWT does not write bad ones."""
    parts = [
        base64url(part if isinstance(part, bytes) else json.dumps(part).encode())
        for part in (header, claims)
    ]
    signature = sign(".".join(parts).encode())
    return ".".join([*parts, base64url(signature)])


def hs256(secret: str | bytes) -> Callable[[bytes], bytes]:
    key = secret.encode() if isinstance(secret, str) else secret
    return lambda message: hmac.digest(key, message, hashlib.sha256)


def token(claims: Any = CLAIMS, secret: str = SECRET, **header: Any) -> str:
    """Return a token signed with a secret."""
    return encode(claims, {"alg": "HS256", "typ": "JWT"} | header, hs256(secret))


def signed(algorithm: str, name: str = "first", claims: Claims = CLAIMS, **header: Any) -> str:
    """Return a token signed with a private key."""
    return jwt.encode(claims, private_key(algorithm, name), algorithm, headers=header)


def claiming(**claims: Any) -> Claims:
    return CLAIMS | claims


def without(*names: str) -> Claims:
    return {name: value for name, value in CLAIMS.items() if name not in names}


@pytest.fixture
def jwks_file(tmp_path: Path) -> Path:
    return tmp_path / "jwks.json"


@pytest.fixture
def refusal(caplog: pytest.LogCaptureFixture) -> Callable[[Verifier, str], str]:
    """Have a token refused; return the kind of failure, as logged."""
    caplog.set_level(logging.DEBUG, logger="realtime.auth.jwt")

    def refuse(verifier: Verifier, text: str) -> str:
        caplog.clear()
        assert verifier.verify(text, NOW) is None
        [record] = caplog.records
        assert record.levelno == logging.DEBUG
        return record.getMessage().removeprefix("a JWT was refused: ")

    return refuse


Refusal = Callable[[Verifier, str], str]


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


# Keys and signatures


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
    found: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(
        private_key(algorithm), as_dict=True
    )
    return found | {"key_ops": ["sign", "verify"]}


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


# Claims


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
    assert identity.subject == subject


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
    assert Verifier(configure(**names)).verify(token(claims), NOW) == Identity(
        "user-7", frozenset({"metrics"}), compile_filters({"a": 1}), NOW + 600
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


# Whatever is sent


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
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["iss", "aud", "sub", "exp", "nbf", "iat", "types", "filters"]
unhurried = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])


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
        assert NOW < identity.expires_at <= NOW + 86_400


@given(st.binary() | JSON.map(lambda value: json.dumps({"keys": [value]}).encode()))
@settings(unhurried, suppress_health_check=list(HealthCheck))
def test_no_key_set_makes_it_raise(jwks_file: Path, content: bytes) -> None:
    write_jwks(jwks_file, jwk("ES256"))
    verifier = Verifier(configure(jwks_file=jwks_file))
    jwks_file.write_bytes(content)
    verifier.verify(signed("ES256"), NOW)
    with pytest.raises(ValueError, match=r"^jwks_file: "):
        Verifier(configure(jwks_file=jwks_file))


# Configuration


def with_key(fields: dict[str, Any]) -> dict[str, Any]:
    """Put the key in place of what it is."""
    return {
        name: KEYS[value]() if isinstance(value, str) and value in KEYS else value
        for name, value in fields.items()
    }


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


@pytest.mark.parametrize(
    "fields",
    [
        {"issuer": ""},
        {"audience": ""},
        {"types_claim": ""},
        {"filters_claim": ""},
        {"leeway": -1},
        {"leeway": 301},
        {"max_lifetime": 59},
        {"max_lifetime": 30 * 86_400 + 1},
        {"algorithms": ["none"]},
        {"algorithms": ["HS512"]},
        {"algorithms": "hs256"},
        {"algorithms": "[HS256"},
        {"algorithms": {"HS256": True}},
        {"secret": SECRET},
    ],
)
def test_fields_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        configure(**fields)


class Streaming(BaseSettings):
    """Reads the variables as the server's configuration does."""

    model_config = SettingsConfigDict(env_prefix="STREAMING_", env_nested_delimiter="__")

    jwt: JwtConfig | None = None


@pytest.mark.parametrize("algorithms", ["RS256,ES256", " RS256 , ES256,", '["RS256", "ES256"]'])
def test_the_environment(algorithms: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Streaming().jwt is None
    variables = {"ISSUER": ISSUER, "AUDIENCE": AUDIENCE, "ALGORITHMS": algorithms}
    variables |= {"JWKS_FILE": "/etc/jwks.json", "KEY": "", "KEY_FILE": "", "LEEWAY": "5"}
    for name, value in variables.items():
        monkeypatch.setenv(f"STREAMING_JWT__{name}", value)
    assert Streaming().jwt == configure(
        jwks_file=Path("/etc/jwks.json"), algorithms=["RS256", "ES256"], leeway=5
    )


def test_the_default_algorithms_are_those_of_public_keys(jwks_file: Path) -> None:
    assert configure(jwks_file=jwks_file).allowed_algorithms == list(ASYMMETRIC)
    assert configure().allowed_algorithms == ["HS256"]


def test_the_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        configure().issuer = "https://attacker.example.com"


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
        configure(**with_key(fields))
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
