"""JSON Web Tokens of another identity provider: which are accepted, and what they grant.

Knows the configuration and the claims; nothing of Django, the database or connections. A key
(:mod:`realtime.auth.jwt_keys`) has one algorithm, which follows from the key: what a token's header
says only has to agree (RFC 8725, section 3.1).
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jwt
import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from realtime.auth.jwt_keys import ASYMMETRIC, JWS, Algorithm, Key, read_file, read_jwks, read_key
from realtime.config import ENV_PREFIX, ConfigurationError
from realtime.filters import EVERYTHING, Filter, FilterError, compile_filters
from realtime.protocol import SUBSCRIPTION_TYPES

logger = logging.getLogger(__name__)

MAX_TOKEN_CHARACTERS = 8192
# Seconds between two looks at the JWKS file.
LOOK_INTERVAL = 1.0

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


def _parse_list(value: Any) -> Any:
    """Read a list from a variable: a JSON array, or values separated by commas."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ValueError("expected a JSON array or values separated by commas") from None


def _none_if_empty(value: Any) -> Any:
    """Read an empty variable as no file; as a path it would be the working directory."""
    return None if value == "" else value


Algorithms = Annotated[list[Algorithm], NoDecode, BeforeValidator(_parse_list)]
File = Annotated[Path | None, BeforeValidator(_none_if_empty)]
Name = Annotated[str, Field(min_length=1)]


class JwtConfig(BaseModel):
    """Whose tokens are accepted, by which key, and which claims say what they grant.

    Times are in seconds. ``key`` is a secret or a PEM public key; either may be in ``key_file``.
    """

    # Errors would show what they are about, and that may be the secret.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: Name
    audience: Name
    key: SecretStr = SecretStr("")
    key_file: File = None
    jwks_file: File = None
    algorithms: Algorithms = []
    types_claim: Name = "types"
    filters_claim: Name = "filters"
    leeway: int = Field(default=0, ge=0, le=300)
    max_lifetime: int = Field(default=86_400, ge=60, le=30 * 86_400)

    @model_validator(mode="after")
    def _check_keys(self) -> JwtConfig:
        sources = (self.key.get_secret_value(), self.key_file, self.jwks_file)
        if sum(bool(source) for source in sources) != 1:
            raise ValueError("give exactly one of key, key_file and jwks_file")
        if self.jwks_file is None and not self.algorithms:
            raise ValueError("algorithms: say which one the key is for, RS256 for example")
        if self.key.get_secret_value():
            _inline_key(self)
        return self

    @property
    def allowed_algorithms(self) -> list[Algorithm]:
        """The algorithms, or their default: those of public keys."""
        return self.algorithms or list(ASYMMETRIC)


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
    """The registered claims a token must have, and two it may."""

    iss: str
    aud: str | list[str]
    sub: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    exp: float
    nbf: float = 0.0
    iat: float = 0.0


class _Refused(Exception):
    """A token is not accepted. The message says the kind of failure, and nothing of the token."""


def looks_like_jwt(token: str) -> bool:
    """Tell whether this has the form of a signed JWT: three parts of base64url."""
    return _FORM.fullmatch(token) is not None


class Verifier:
    """Checks tokens against the trusted keys."""

    def __init__(self, config: JwtConfig) -> None:
        """Read the keys. Raises ``ValueError`` with one line that says what to do."""
        self._config = config
        # None unless the keys are those of a file that is read again when it changes.
        self._file = config.jwks_file
        # What the file looked like when it was read, and when reading it failed last.
        self._read_state: tuple[int, ...] | None = None
        self._failed_state: tuple[int, ...] | None = None
        # Time of the last look at it.
        self._looked = float("-inf")
        if self._file is None:
            self._keys = [_file_key(config) if config.key_file else _inline_key(config)]
            return
        self._read_state = _state(self._file)
        self._keys = read_jwks(self._file, config.allowed_algorithms)
        if not self._keys:
            raise ValueError(
                f"jwks_file: {self._file} has no usable key for"
                f" {', '.join(config.allowed_algorithms)}: put one there, or change algorithms"
            )

    def verify(self, token: str, now: float) -> Identity | None:
        """Return what a token grants at *now* (seconds since 1970); ``None`` if it is not valid."""
        try:
            payload = self._verify_signature(token, now)
            return self._read_claims(payload, now)
        except _Refused as refusal:
            logger.debug("a JWT was refused: %s", refusal)
            return None

    def _verify_signature(self, token: str, now: float) -> bytes:
        """Return the payload of a token that a trusted key has signed."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _Refused("too long")
        if not looks_like_jwt(token):
            raise _Refused("no JWT")
        self._follow_file(now)
        try:
            header = JWS.get_unverified_header(token)
            # No extension is known here, so none can be understood (RFC 7515, section 4.1.11).
            if "crit" in header:
                raise _Refused("critical header")
            key = self._find_key(header.get("kid"))
            if header.get("alg") != key.algorithm:
                raise _Refused("algorithm")
            payload: bytes = JWS.decode(token, key.material, algorithms=[key.algorithm])
        except jwt.InvalidSignatureError:
            raise _Refused("signature") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _Refused("malformed") from None
        return payload

    def _find_key(self, kid: str | None) -> Key:
        # A key that is no part of a set has no name, whatever name the issuer knows it by.
        named = self._file is not None and kid is not None
        keys = [key for key in self._keys if key.kid == kid] if named else self._keys
        if len(keys) != 1:
            raise _Refused("unknown key" if named else "no key named")
        return keys[0]

    def _read_claims(self, payload: bytes, now: float) -> Identity:
        """Return what claims grant. Text that has no UTF-8 form does not get past the decoder."""
        config = self._config
        try:
            claims = msgspec.json.decode(payload)
            standard = msgspec.convert(claims, _Claims)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise _Refused("claims missing or malformed") from None
        if standard.iss != config.issuer:
            raise _Refused("issuer")
        if config.audience not in (
            [standard.aud] if isinstance(standard.aud, str) else standard.aud
        ):
            raise _Refused("audience")
        # It is written to logs.
        if not standard.sub.isprintable():
            raise _Refused("subject")
        _check_times(standard, now, config)
        return Identity(
            subject=standard.sub,
            types=_read_types(claims.get(config.types_claim)),
            filters=_read_filters(claims, config.filters_claim),
            expires_at=standard.exp + config.leeway,
        )

    def _follow_file(self, now: float) -> None:
        """Read the JWKS file again if it has changed; until it can be read, the keys stay."""
        if self._file is None or abs(now - self._looked) < LOOK_INTERVAL:
            return
        self._looked = now
        state = _state(self._file)
        if state == self._read_state:
            self._failed_state = None
            return
        try:
            self._keys = read_jwks(self._file, self._config.allowed_algorithms)
        except ValueError as error:
            if state != self._failed_state:
                logger.warning("the keys read before stay in force: %s", error)
            self._failed_state = state
            return
        self._read_state, self._failed_state = state, None
        if self._keys:
            logger.info("%s has changed: keys in force now: %d", self._file, len(self._keys))
        else:
            logger.warning("%s has no usable key any more: JWTs are refused", self._file)


def _check_times(claims: _Claims, now: float, config: JwtConfig) -> None:
    if claims.exp + config.leeway <= now:
        raise _Refused("expired")
    if claims.exp > now + config.leeway + config.max_lifetime:
        raise _Refused("lifetime")
    if max(claims.nbf, claims.iat) > now + config.leeway:
        raise _Refused("not yet valid")


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
    """Compile the filters; null is none, lest a failed look-up at the issuer grant everything."""
    if name not in claims:
        return EVERYTHING
    if claims[name] is None:
        raise _Refused("filters")
    try:
        return compile_filters(claims[name])
    except FilterError:
        raise _Refused("filters") from None


def _inline_key(config: JwtConfig) -> Key:
    return read_key("key", config.key.get_secret_value().encode(), config.allowed_algorithms)


def _file_key(config: JwtConfig) -> Key:
    assert config.key_file is not None
    return read_key("key_file", read_file("key_file", config.key_file), config.allowed_algorithms)


def _state(path: Path) -> tuple[int, ...]:
    """Return what tells a changed file from one that is the same; nothing if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_mtime_ns, status.st_size, status.st_ino


# The configuration

VARIABLES = f"{ENV_PREFIX}JWT__"


class _Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        hide_input_in_errors=True,
    )

    jwt: JwtConfig


def configured_verifier() -> Verifier:
    """Return the verifier that the environment configures.

    Raises:
        ConfigurationError: a variable is wrong, or a key cannot be used.
    """
    try:
        return Verifier(_Settings().jwt)  # type: ignore[call-arg]  # read from the environment
    except SettingsError:
        raise ConfigurationError(f"{VARIABLES}*: a value cannot be read") from None
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None
    except ValueError as error:
        raise ConfigurationError(f"{VARIABLES}*: {error}") from None


def _explain(error: ValidationError) -> str:
    """Return one line that names the variable and not its value, which may be the secret."""
    first = error.errors()[0]
    names = [str(part).upper() for part in first["loc"][1:2]]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such setting"
    return f"{VARIABLES}{names[0] if names else '*'}: {message[0].lower()}{message[1:]}"
