"""JSON Web Tokens of another identity provider: which are accepted, and what they grant.

Knows the configuration, the keys that are safe to trust, and the claims; nothing of Django, the
database or connections. A key is for one algorithm, which follows from the key: the one that a
token's header names must be the same, and decides nothing (RFC 8725, section 3.1).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from realtime.auth.grants import Grant, HolderType
from realtime.config import (
    JWT_PREFIX,
    Algorithm,
    ConfigurationError,
    JwtConfig,
    get_streaming_config,
)
from realtime.filters import EVERYTHING, Filter
from realtime.filters.compiler import FilterError, compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARACTERS = 8192

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

# The type and curve of a JWK, by the algorithm it is for.
JWK_TYPES: dict[Algorithm, tuple[str, str | None]] = {
    "HS256": ("oct", None),
    "RS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "EdDSA": ("OKP", "Ed25519"),
}
ASYMMETRIC: tuple[Algorithm, ...] = ("RS256", "ES256", "EdDSA")

MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2
MIN_RSA_BITS = 2048  # RFC 7518, section 3.3

JWS = jwt.PyJWS(algorithms=list(JWK_TYPES))

# Seconds between two looks at the file of a key set.
LOOK_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class Key:
    """A trusted key, and the one algorithm it is for. ``kid`` is its name in a JWKS."""

    algorithm: Algorithm
    material: bytes | RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey = field(repr=False)
    kid: str | None = None


class _TrustedKeys:
    """The keys that a configuration trusts; a key set's are read again when its file changes."""

    def __init__(self, config: JwtConfig) -> None:
        self._allowed = config.algorithms or list(ASYMMETRIC)
        # None unless the keys are those of a set.
        self._file = config.jwks_file
        # The file's state (see _file_state) when it was read, and when reading it last failed.
        self._read_state: tuple[int, ...] | None = None
        self._failed_state: tuple[int, ...] | None = None
        self._looked_at = float("-inf")
        if self._file is None:
            if config.key_file is not None:
                name, text = "key_file", _read_file("key_file", config.key_file)
            else:
                name, text = "key", config.key.get_secret_value().encode()
            self._keys = [_read_key(name, text, self._allowed)]
            return
        self._read_state = _file_state(self._file)
        self._keys = _read_jwks(self._file, self._allowed)
        if not self._keys:
            raise ValueError(
                f"jwks_file: {self._file} has no usable key for"
                f" {', '.join(self._allowed)}: put one there, or change algorithms"
            )

    def find(self, kid: str | None, now: float) -> Key | None:
        """Return the key that a token names, or the only one; ``None`` if that is not clear.

        A key that is not part of a set has no name here, whatever the issuer calls it.
        """
        if self._file is not None:
            self._follow_file(self._file, now)
        is_named = self._file is not None and kid is not None
        keys = [key for key in self._keys if key.kid == kid] if is_named else self._keys
        return keys[0] if len(keys) == 1 else None

    def _follow_file(self, file: Path, now: float) -> None:
        """Read the key set again if it has changed; while that fails, the keys stay in force."""
        if abs(now - self._looked_at) < LOOK_INTERVAL:
            return
        self._looked_at = now
        state = _file_state(file)
        if state == self._read_state:
            self._failed_state = None
            return
        try:
            self._keys = _read_jwks(file, self._allowed)
        except ValueError as error:
            if state != self._failed_state:
                logger.warning("the keys read before stay in force: %s", error)
            self._failed_state = state
            return
        self._read_state, self._failed_state = state, None
        if self._keys:
            logger.info("%s has changed: keys in force now: %d", file, len(self._keys))
        else:
            logger.warning("%s has no usable key any more: JWTs are refused", file)


def _file_state(path: Path) -> tuple[int, ...]:
    """Return what differs between a file and a changed one; nothing if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_key(name: str, text: bytes, allowed: list[Algorithm]) -> Key:
    """Read a PEM public key, or else a secret, for one of the *allowed* algorithms."""
    text = text.rstrip(b"\r\n")
    is_secret = b"-----BEGIN" not in text
    key = _make_key(name, text if is_secret else _read_pem(name, text))
    # If both were allowed, anybody could sign with the public key as the secret.
    is_mixed = any((algorithm == "HS256") is not is_secret for algorithm in allowed)
    if is_mixed or key.algorithm not in allowed:
        content = "a secret" if is_secret else "a public key"
        hint = " (or give a PEM public key)" if is_secret else ""
        raise ValueError(
            f"algorithms: {name} holds {content}, which is not for {','.join(allowed)}:"
            f" set algorithms to {key.algorithm}{hint}"
        )
    return key


def _read_pem(name: str, text: bytes) -> Any:
    if b"PRIVATE KEY-----" in text:
        raise ValueError(f"{name}: this is a private key: give its public key")
    try:
        return load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(f"{name}: not readable: give a public key in PEM form") from None


def _make_key(name: str, material: Any, kid: str | None = None) -> Key:
    """Return a key for the algorithm that fits its material. Raises ``ValueError``: it is weak."""
    if isinstance(material, bytes):
        if len(material) < MIN_SECRET_BYTES:
            raise ValueError(
                f"{name}: a secret needs at least {MIN_SECRET_BYTES} bytes, this has"
                f" {len(material)}: make a longer one"
            )
        try:
            JWS.get_algorithm_by_name("HS256").prepare_key(material)
        except jwt.InvalidKeyError:
            raise ValueError(
                f"{name}: this is no secret but a key in another form: give a PEM public key,"
                " or a key set as jwks_file"
            ) from None
        return Key("HS256", material, kid)
    if isinstance(material, RSAPublicKey):
        if material.key_size < MIN_RSA_BITS:
            raise ValueError(f"{name}: an RSA key needs at least {MIN_RSA_BITS} bits")
        return Key("RS256", material, kid)
    if isinstance(material, EllipticCurvePublicKey) and isinstance(material.curve, SECP256R1):
        return Key("ES256", material, kid)
    if isinstance(material, Ed25519PublicKey):
        return Key("EdDSA", material, kid)
    raise ValueError(f"{name}: give a key of RSA, of the curve P-256, or Ed25519")


def _read_file(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read: {error.strerror}") from None


def _read_jwks(path: Path, allowed: list[Algorithm]) -> list[Key]:
    """Return the usable keys of a JWKS file (RFC 7517). Raises ``ValueError`` if it is not one."""
    try:
        document = msgspec.json.decode(_read_file("jwks_file", path))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ValueError(f"jwks_file: {path} is not JSON: give a JWKS") from None
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list):
        raise ValueError(f"jwks_file: {path} has no array of keys: give a JWKS")
    keys = (_read_jwk(jwk, allowed) for jwk in jwks if isinstance(jwk, dict))
    return [key for key in keys if key is not None]


def _read_jwk(jwk: dict[str, Any], allowed: list[Algorithm]) -> Key | None:
    """Return a key for one of the *allowed* algorithms; issuers publish others beside them."""
    type_and_curve = (jwk.get("kty"), jwk.get("crv"))
    algorithm = next((name for name in allowed if JWK_TYPES[name] == type_and_curve), None)
    operations = jwk.get("key_ops", ["verify"])
    if (
        algorithm is None
        or jwk.get("alg", algorithm) != algorithm
        or jwk.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
        or "d" in jwk  # a private key, which only its owner should have
    ):
        return None
    kid = jwk.get("kid") if isinstance(jwk.get("kid"), str) else None
    try:
        return _make_key("jwks_file", jwt.PyJWK(jwk, algorithm).key, kid)
    except (jwt.PyJWTError, KeyError, TypeError, ValueError, UnsupportedAlgorithm):
        return None


class _Claims(msgspec.Struct):
    """The registered claims that a token must have, and two that it may have."""

    iss: str
    aud: str | list[str]
    sub: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    exp: float
    nbf: float = 0.0
    iat: float = 0.0


class _Refused(Exception):
    """A token is not accepted. The message says why, and repeats nothing of the token."""


def looks_like_jwt(token: str) -> bool:
    """Tell whether this has the form of a signed JWT: three parts of base64url."""
    return _FORM.fullmatch(token) is not None


class Verifier:
    """Checks tokens against the trusted keys."""

    def __init__(self, config: JwtConfig) -> None:
        """Read the keys. Raises ``ValueError`` with one line that says what to do."""
        self._config = config
        self._keys = _TrustedKeys(config)

    def verify(self, token: str, now: float) -> Grant | None:
        """Return what a token grants at *now* (seconds since 1970, with leeway), if anything."""
        try:
            return self._read_claims(self._verify_signature(token, now), now)
        except _Refused as refusal:
            logger.debug("a JWT was refused: %s", refusal)
            return None

    def _verify_signature(self, token: str, now: float) -> bytes:
        """Return the payload of a token that a trusted key has signed."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _Refused("too long")
        if not looks_like_jwt(token):
            raise _Refused("no JWT")
        try:
            header = JWS.get_unverified_header(token)
            # No extension is supported here (RFC 7515, section 4.1.11).
            if "crit" in header:
                raise _Refused("critical header")
            key = self._keys.find(kid := header.get("kid"), now)
            if key is None:
                raise _Refused("no key named" if kid is None else "unknown key")
            if header.get("alg") != key.algorithm:
                raise _Refused("algorithm")
            payload: bytes = JWS.decode(token, key.material, algorithms=[key.algorithm])
        except jwt.InvalidSignatureError:
            raise _Refused("signature") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _Refused("malformed") from None
        return payload

    def _read_claims(self, payload: bytes, now: float) -> Grant:
        """Return what claims grant, if they hold at *now*.

        PyJWT's own checks would take ``true`` and ``"1800000600"`` as times, and ask the clock.
        """
        config = self._config
        try:
            claims = msgspec.json.decode(payload)
            standard = msgspec.convert(claims, _Claims)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise _Refused("claims missing or malformed") from None
        audiences = [standard.aud] if isinstance(standard.aud, str) else standard.aud
        latest = now + config.leeway
        for reason, is_wrong in (
            ("issuer", standard.iss != config.issuer),
            ("audience", config.audience not in audiences),
            ("subject", not standard.sub.isprintable()),  # it is written to logs
            ("expired", standard.exp + config.leeway <= now),
            ("lifetime", standard.exp > latest + config.max_lifetime),
            ("not yet valid", max(standard.nbf, standard.iat) > latest),
        ):
            if is_wrong:
                raise _Refused(reason)
        return Grant(
            f"{HolderType.JWT}:{standard.sub}",
            None,
            types=_read_types(claims.get(config.types_claim)),
            filters=_read_filters(claims, config.filters_claim),
            expires_at=standard.exp + config.leeway,
        )


def _read_types(claim: Any) -> frozenset[str]:
    """Return the subscription types among names in a list, or in a string with spaces between."""
    names = claim.split() if isinstance(claim, str) else claim
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _Refused("types")
    types = frozenset(names).intersection(SUBSCRIPTION_TYPES)
    if not types:
        raise _Refused("no subscription type")
    return types


def _read_filters(claims: dict[str, Any], name: str) -> Filter:
    if name not in claims:
        return EVERYTHING
    # null may come from a look-up that failed at the issuer, and must not grant everything.
    if claims[name] is None:
        raise _Refused("filters")
    try:
        return compile_filters(claims[name])
    except FilterError:
        raise _Refused("filters") from None


def configured_verifier() -> Verifier | None:
    """Return the verifier that is configured, if any. Raises :class:`ConfigurationError`."""
    config = get_streaming_config().jwt
    try:
        return None if config is None else Verifier(config)
    except ValueError as error:
        raise ConfigurationError(f"{JWT_PREFIX}*: {error}") from None
