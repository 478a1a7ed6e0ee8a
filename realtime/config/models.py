"""The variables as pydantic models: types, defaults and bounds. A list may be JSON or commas.

Knows what a value may be; nothing of where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from realtime.protocol.origins import check_network, check_pattern

ENV_PREFIX = "STREAMING_"
WEBSOCKET_PREFIX = f"{ENV_PREFIX}WEBSOCKET__"
JWT_PREFIX = f"{ENV_PREFIX}JWT__"


def _parse_list(value: Any) -> Any:
    """Read a list from a variable: a JSON array, or values separated by commas."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return [item.strip() for item in value.split(",") if item.strip()]
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError("expected a JSON array or values separated by commas") from error


def _check_each(check: Callable[[str], object]) -> AfterValidator:
    """Return a validator that calls *check*, which raises ``ValueError``, for each item."""

    def check_all(items: list[str]) -> list[str]:
        for item in items:
            check(item)
        return items

    return AfterValidator(check_all)


def _none_if_off(value: Any) -> Any:
    """Read "", "none" and "off" as no compression, since a variable cannot hold ``None``."""
    return None if isinstance(value, str) and value.lower() in {"", "none", "off"} else value


Seconds = Annotated[int, Field(ge=1, le=86_400)]
Text = Annotated[str, Field(min_length=1)]
# An empty variable is no file; as a path it would be the working directory.
File = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]
NOTHING = SecretStr("")
# A list's description says what it is a list of.
Texts = Annotated[list[str], NoDecode, BeforeValidator(_parse_list), Field(description="names")]
Origins = Annotated[Texts, _check_each(check_pattern), Field(description="origins")]
Networks = Annotated[Texts, _check_each(check_network), Field(description="addresses and networks")]
Algorithms = Annotated[
    list[Algorithm],
    NoDecode,
    BeforeValidator(_parse_list),
    Field(description=", ".join(get_args(Algorithm))),
]


class _Section(BaseModel):
    # The text of an error would show the whole input, and that may hold a secret.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class WebSocketConfig(_Section):
    """The WebSocket server's settings. Times are in seconds, sizes in bytes."""

    host: str = Field(default="0.0.0.0", description="an address")  # noqa: S104 - documented
    port: int = Field(default=8765, ge=0, le=65_535)
    max_connections: int = Field(default=1000, ge=1)
    ping_interval: Seconds = 20
    ping_timeout: Seconds = 10
    close_timeout: Seconds = 10
    max_message_size: int = Field(default=1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    compression: Annotated[
        Literal["deflate"] | None,
        BeforeValidator(_none_if_off),
        Field(description="deflate or none"),
    ] = "deflate"
    require_auth: bool = True
    auth_timeout_seconds: Seconds = 30
    allowed_origins: Origins = ["*"]
    enable_rate_limiting: bool = True
    rate_limit_per_minute: int = Field(default=60, ge=1)
    max_subscriptions_per_client: int = Field(default=100, ge=1)
    max_buffered_bytes: int = Field(default=1024 * 1024, ge=4096)
    history_size: int = Field(default=10_000, ge=1)
    history_ttl: int = Field(default=3600, ge=1)
    min_replicas: int = Field(default=0, ge=0, le=10)
    trusted_proxies: Networks = []
    auth_failures_per_minute: int = Field(default=30, ge=1)
    max_connections_per_address: int = Field(default=0, ge=0)
    drain_timeout: int = Field(default=10, ge=0, le=3600)


class JwtConfig(_Section):
    """Whose JSON Web Tokens are accepted, by which key, and which claims say what they grant.

    Times are in seconds. ``key`` is a secret or a PEM public key; either may be in ``key_file``.
    """

    issuer: Text
    audience: Text
    key: SecretStr = NOTHING
    key_file: File = None
    jwks_file: File = None
    algorithms: Algorithms = []
    types_claim: Text = "types"
    filters_claim: Text = "filters"
    leeway: int = Field(default=0, ge=0, le=300)
    max_lifetime: int = Field(default=86_400, ge=60, le=30 * 86_400)

    @model_validator(mode="after")
    def _check_keys(self) -> JwtConfig:
        sources = (self.key.get_secret_value(), self.key_file, self.jwks_file)
        if sum(bool(source) for source in sources) != 1:
            raise ValueError("give exactly one of key, key_file and jwks_file")
        if self.jwks_file is None and not self.algorithms:
            raise ValueError("algorithms: say which one the key is for, RS256 for example")
        return self


class StreamingConfig(BaseSettings):
    """What the parts named ``STREAMING_*__*`` say; ``jwt`` is ``None`` if nothing does."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="ignore",
        hide_input_in_errors=True,
    )

    websocket: WebSocketConfig = Field(default_factory=WebSocketConfig)
    jwt: JwtConfig | None = None


class SiteConfig(BaseSettings):
    """What the Django site and the commands take. A field is named as its variable."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    streaming_data_dir: Path | None = None
    streaming_audit_log: str = ""
    streaming_log_format: Literal["line", "json"] = "line"
    streaming_access_log: bool = True
    streaming_tracing: bool = False
    streaming_allow_eviction: bool = False
    otel_exporter_otlp_protocol: Text = Field(default="http/protobuf", description="http/protobuf")
    database_url: SecretStr = NOTHING
    redis_url: SecretStr = NOTHING
    redis_prefix: str = Field(
        default="realtime",
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="1 to 64 letters, digits, dots, dashes and underscores",
    )
    kafka_password: SecretStr = NOTHING
    django_secret_key: SecretStr = NOTHING
    django_allowed_hosts: Texts = ["*"]
    django_csrf_trusted_origins: Texts = []
    django_tls: bool = False
    django_debug: bool = False
    django_email_host: str = "localhost"
    django_email_port: int | None = Field(default=None, ge=1, le=65_535)
    django_email_security: Literal["none", "starttls", "tls"] = "none"
    django_email_user: str = ""
    django_email_password: SecretStr = NOTHING
    django_email_from: str = "streaming@localhost"

    @field_validator("*", mode="before")
    @classmethod
    def _default_if_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """Read an empty variable like one that is not set, but an empty list as no values."""
        field = cls.model_fields[info.field_name or ""]
        if not isinstance(value, str) or isinstance(field.default, list):
            return value
        if not value.strip():
            return field.default
        return value if field.annotation is SecretStr else value.strip()

    @field_validator("otel_exporter_otlp_protocol")
    @classmethod
    def _check_protocol(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("streaming_tracing") and value != "http/protobuf":
            raise ValueError("not supported")
        return value
