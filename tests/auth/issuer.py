"""An identity provider for tests: its keys, its key sets, and the tokens that it signs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from realtime.auth.grants import Grant
from realtime.auth.jwt import Verifier
from realtime.config import JwtConfig

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Claims = dict[str, Any]

# Has a token refused, and returns why; a fixture.
Refusal = Callable[[Verifier, str], str]

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
IDENTITY = Grant("jwt:user-7", None, frozenset({"events", "alerts"}), expires_at=NOW + 600)
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
    public_jwk: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return public_jwk | {"kid": name} | members


def oct_jwk(secret: str = SECRET, **members: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": base64url(secret.encode()), "kid": "secret"} | members


# Strategies of Hypothesis: any JSON, and as much time as it takes.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
unhurried = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])

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


def with_key(fields: dict[str, Any]) -> dict[str, Any]:
    """Put the key in place of what it is."""
    return {
        name: KEYS[value]() if isinstance(value, str) and value in KEYS else value
        for name, value in fields.items()
    }
