"""The keys that JSON Web Tokens are verified with, read from PEM, secrets and key sets.

Knows which keys are safe to trust; nothing of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
Material = bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

# The type and curve of a JWK, by the algorithm it is for.
JWK_KINDS: dict[Algorithm, tuple[str, str | None]] = {
    "HS256": ("oct", None),
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
ASYMMETRIC: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")

MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2
MIN_RSA_BITS = 2048  # RFC 7518, section 3.3

JWS = jwt.PyJWS(algorithms=list(JWK_KINDS))


@dataclass(frozen=True, slots=True)
class Key:
    """A trusted key, and the one algorithm it is for. ``kid`` is its name in a JWKS."""

    algorithm: Algorithm
    material: Material = field(repr=False)
    kid: str | None = None


def read_key(name: str, text: bytes, allowed: list[Algorithm]) -> Key:
    """Read a PEM public key, or else a secret; newlines at its end are no part of it.

    The key must be for one of the *allowed* algorithms. Secrets and public keys do not mix, for
    then anybody could sign with the public key as the secret.
    """
    text = text.rstrip(b"\r\n")
    is_secret = b"-----BEGIN" not in text
    if is_secret:
        key = Key("HS256", _check_secret(name, text))
        kind, fitting = "a secret", "HS256 (or give a PEM public key)"
    else:
        key = _read_pem(name, text)
        kind, fitting = "a public key", key.algorithm
    mixed = any((algorithm == "HS256") is not is_secret for algorithm in allowed)
    if mixed or key.algorithm not in allowed:
        raise ValueError(
            f"algorithms: {name} holds {kind}, which is not for {','.join(allowed)}:"
            f" set algorithms to {fitting}"
        )
    return key


def _check_secret(name: str, secret: bytes) -> bytes:
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(
            f"{name}: a secret needs at least {MIN_SECRET_BYTES} bytes, this has {len(secret)}:"
            " make a longer one"
        )
    try:
        JWS.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError(
            f"{name}: this is no secret but a key in another form: give a PEM public key,"
            " or a key set as jwks_file"
        ) from None
    return secret


def _read_pem(name: str, text: bytes) -> Key:
    if b"PRIVATE KEY-----" in text:
        raise ValueError(f"{name}: this is a private key: give its public key")
    try:
        material = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{name}: not readable: give a public key in PEM form") from None
    if isinstance(material, RSAPublicKey):
        if material.key_size < MIN_RSA_BITS:
            raise ValueError(f"{name}: an RSA key needs at least {MIN_RSA_BITS} bits")
        return Key("RS256", material)
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return Key("ES256", material)
    if isinstance(material, Ed25519PublicKey):
        return Key("EdDSA", material)
    raise ValueError(f"{name}: give a key of RSA, of the curve P-256, or Ed25519")


def read_file(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read: {error.strerror}") from None


def read_jwks(path: Path, allowed: list[Algorithm]) -> list[Key]:
    """Return the usable keys of a JWKS file (RFC 7517). Raises ``ValueError``: it is none."""
    try:
        document = msgspec.json.decode(read_file("jwks_file", path))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ValueError(f"jwks_file: {path} is not JSON: give a JWKS") from None
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list):
        raise ValueError(f"jwks_file: {path} has no array of keys: give a JWKS")
    found = (_read_jwk(jwk, allowed) for jwk in jwks if isinstance(jwk, dict))
    return [key for key in found if key is not None]


def _read_jwk(jwk: dict[str, Any], allowed: list[Algorithm]) -> Key | None:
    """Return a key for one of the *allowed* algorithms; issuers publish others beside them."""
    kind = (jwk.get("kty"), jwk.get("crv"))
    algorithm = next((name for name in allowed if JWK_KINDS[name] == kind), None)
    if algorithm is None or not _is_for_verifying(jwk, algorithm):
        return None
    try:
        material = jwt.PyJWK(jwk, algorithm).key
        if algorithm == "HS256":
            _check_secret("jwks_file", material)
    except (jwt.PyJWTError, KeyError, TypeError, ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(material, RSAPublicKey) and material.key_size < MIN_RSA_BITS:
        return None
    kid = jwk.get("kid")
    return Key(algorithm, material, kid if isinstance(kid, str) else None)


def _is_for_verifying(jwk: dict[str, Any], algorithm: Algorithm) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return (
        jwk.get("alg", algorithm) == algorithm
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        # A private key, which only its owner should have.
        and "d" not in jwk
    )
