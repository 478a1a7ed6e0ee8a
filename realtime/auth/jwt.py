"""JSON Web Tokens of another identity provider: which are accepted, and what they grant.

Knows the configuration and the claims; nothing of Django, the database or connections. A key
(:mod:`realtime.auth.jwt_keys`) is for one algorithm, which follows from the key: the one that a
token's header names must be the same, and decides nothing (RFC 8725, section 3.1).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Annotated, Any

import jwt
import msgspec

from realtime.auth.jwt_keys import JWS, TrustedKeys
from realtime.config import JWT_PREFIX, ConfigurationError, JwtConfig, get_streaming_config
from realtime.filters import EVERYTHING, Filter, FilterError, compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARACTERS = 8192

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token names and what it grants.

    ``expires_at`` is in seconds since 1970 and includes the leeway: until then it is accepted.
    """

    subject: str
    types: frozenset[str]
    filters: Filter
    expires_at: float


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
        self._keys = TrustedKeys(config)

    def verify(self, token: str, now: float) -> Identity | None:
        """Return what a token grants at *now* (seconds since 1970); ``None`` if it is not valid."""
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
            kid = header.get("kid")
            key = self._keys.find(kid, now)
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

    def _read_claims(self, payload: bytes, now: float) -> Identity:
        """Return what claims grant, if they hold at *now*.

        PyJWT's own checks would take ``true`` and ``"1800000600"`` as times and NaN as a number,
        and ask the system's clock. The decoder here refuses them, and text that has no UTF-8 form.
        """
        config = self._config
        try:
            claims = msgspec.json.decode(payload)
            standard = msgspec.convert(claims, _Claims)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise _Refused("claims missing or malformed") from None
        if standard.iss != config.issuer:
            raise _Refused("issuer")
        audiences = [standard.aud] if isinstance(standard.aud, str) else standard.aud
        if config.audience not in audiences:
            raise _Refused("audience")
        # The subject is written to logs.
        if not standard.sub.isprintable():
            raise _Refused("subject")
        if standard.exp + config.leeway <= now:
            raise _Refused("expired")
        if standard.exp > now + config.leeway + config.max_lifetime:
            raise _Refused("lifetime")
        if max(standard.nbf, standard.iat) > now + config.leeway:
            raise _Refused("not yet valid")
        return Identity(
            subject=standard.sub,
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
    """Compile the filters.

    ``null`` is refused: it may come from a look-up that failed at the issuer, and must not grant
    everything.
    """
    if name not in claims:
        return EVERYTHING
    if claims[name] is None:
        raise _Refused("filters")
    try:
        return compile_filters(claims[name])
    except FilterError:
        raise _Refused("filters") from None


def configured_verifier() -> Verifier | None:
    """Return the verifier of this process's configuration; ``None`` if it accepts no JWTs.

    Raises:
        ConfigurationError: a variable is wrong, or a key cannot be used.
    """
    config = get_streaming_config().jwt
    try:
        return None if config is None else Verifier(config)
    except ValueError as error:
        raise ConfigurationError(f"{JWT_PREFIX}*: {error}") from None
