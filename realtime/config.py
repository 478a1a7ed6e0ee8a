"""The configuration: what ``STREAMING_*`` environment variables say, with types and defaults.

Knows the environment and nothing else: no Django, no database. What an administrator changes
while servers run lies on top of it, in :mod:`realtime.auth.policy`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from realtime.protocol.addresses import check_network
from realtime.protocol.origins import check_pattern

ENV_PREFIX = "STREAMING_"
WEBSOCKET_PREFIX = f"{ENV_PREFIX}WEBSOCKET__"


class ConfigurationError(Exception):
    """A configuration value is wrong. The message is one line: variable, value, what is allowed."""


def _split(value: Any) -> Any:
    """Read a list from a variable: a JSON array, or values separated by commas."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return value
    return [item.strip() for item in value.split(",") if item.strip()]


def _parse_list(value: Any) -> Any:
    value = _split(value)
    if isinstance(value, str):
        import json

        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("expected a JSON array or values separated by commas") from error
    return value


def _check_origins(patterns: list[str]) -> list[str]:
    for pattern in patterns:
        check_pattern(pattern)
    return patterns


def _check_networks(networks: list[str]) -> list[str]:
    for network in networks:
        check_network(network)
    return networks


def _none_if_empty(value: Any) -> Any:
    """Read "", "none" and "off" as no compression, since a variable cannot hold ``None``."""
    return None if isinstance(value, str) and value.lower() in {"", "none", "off"} else value


Seconds = Annotated[int, Field(ge=1, le=86_400)]
Origins = Annotated[
    list[str], NoDecode, BeforeValidator(_parse_list), AfterValidator(_check_origins)
]
Networks = Annotated[
    list[str], NoDecode, BeforeValidator(_parse_list), AfterValidator(_check_networks)
]


class WebSocketConfig(BaseModel):
    """The WebSocket server's settings. Times are in seconds, sizes in bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "0.0.0.0"  # noqa: S104 - the documented default
    port: int = Field(default=8765, ge=0, le=65_535)
    max_connections: int = Field(default=1000, ge=1)
    ping_interval: Seconds = 20
    ping_timeout: Seconds = 10
    close_timeout: Seconds = 10
    max_message_size: int = Field(default=1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    compression: Annotated[Literal["deflate"] | None, BeforeValidator(_none_if_empty)] = "deflate"
    require_auth: bool = True
    auth_timeout_seconds: Seconds = 30
    allowed_origins: Origins = ["*"]
    enable_rate_limiting: bool = True
    rate_limit_per_minute: int = Field(default=60, ge=1)
    max_subscriptions_per_client: int = Field(default=100, ge=1)
    max_buffered_bytes: int = Field(default=1024 * 1024, ge=4096)
    history_size: int = Field(default=10_000, ge=1)
    history_ttl: int = Field(default=3600, ge=1)
    trusted_proxies: Networks = []
    auth_failures_per_minute: int = Field(default=30, ge=1)
    max_connections_per_address: int = Field(default=0, ge=0)
    unauthenticated_share: float = Field(default=0.5, ge=0.01, le=1)
    drain_timeout: int = Field(default=10, ge=0, le=3600)


class StreamingConfig(BaseSettings):
    """Everything read from ``STREAMING_*``; ``.websocket`` is the server's part."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="ignore"
    )

    websocket: WebSocketConfig = Field(default_factory=WebSocketConfig)


def jwt_is_configured() -> bool:
    """Tell whether JSON Web Tokens are accepted; :mod:`realtime.auth.jwt` reads how."""
    return any(variable.upper().startswith(f"{ENV_PREFIX}JWT") for variable in os.environ)


@lru_cache(maxsize=1)
def get_streaming_config() -> StreamingConfig:
    """Return the process's configuration, read once from the environment.

    Raises:
        ConfigurationError: a variable has a wrong value or an unknown name.
    """
    return read_config()


def read_config() -> StreamingConfig:
    """Read the environment anew. Raises :class:`ConfigurationError`."""
    _refuse_single_underscores()
    try:
        return StreamingConfig()
    except SettingsError:
        raise ConfigurationError(_no_object()) from None
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def _refuse_single_underscores() -> None:
    """Refuse ``STREAMING_WEBSOCKET_PORT`` and the like, which would say nothing otherwise."""
    stem = WEBSOCKET_PREFIX.removesuffix("_")
    for variable in os.environ:
        upper = variable.upper()
        if upper.startswith(stem) and not upper.startswith(WEBSOCKET_PREFIX):
            name = upper.removeprefix(stem).lower()
            raise ConfigurationError(f"{variable}: no such setting{_did_you_mean(name)}")


def _no_object() -> str:
    variable = f"{ENV_PREFIX}WEBSOCKET"
    return f"{variable}={os.environ.get(variable)!r}: expected a JSON object of settings"


def _did_you_mean(name: str) -> str:
    close = difflib.get_close_matches(name, WebSocketConfig.model_fields, n=1)
    return f"; did you mean {WEBSOCKET_PREFIX}{close[0].upper()}?" if close else ""


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    if len(first["loc"]) < 2:
        return _no_object()
    name = str(first["loc"][1])
    variable = f"{WEBSOCKET_PREFIX}{name.upper()}"
    if first["type"] == "extra_forbidden":
        return f"{variable}: no such setting{_did_you_mean(name)}"
    value = os.environ.get(variable, first.get("input"))
    message = first["msg"].removeprefix("Value error, ")
    return f"{variable}={value!r}: {message[0].lower()}{message[1:]}{_allowed(name)}"


# What a field without bounds takes.
_WORDS: dict[Any, str] = {
    str: "an address",
    bool: "true or false",
    Literal["deflate"] | None: "deflate or none",
}
_LISTS = {
    "allowed_origins": "origins separated by commas, or a JSON array",
    "trusted_proxies": "addresses and networks separated by commas, or a JSON array",
}


def _allowed(name: str) -> str:
    """Say what a field takes and its default, as one writes them in a variable."""
    field = WebSocketConfig.model_fields[name]
    is_list = isinstance(field.default, list)
    default = ",".join(field.default) if is_list else str(field.default).lower()
    allowed = _LISTS[name] if is_list else _WORDS.get(field.annotation) or _bounds(field.metadata)
    return f" (allowed: {allowed}; default {default})"


def _bounds(metadata: Iterable[Any]) -> str:
    low = next((m.ge for m in metadata if hasattr(m, "ge")), None)
    high = next((m.le for m in metadata if hasattr(m, "le")), None)
    if low is None and high is None:
        return ""
    return f"{low} or more" if high is None else f"{low} to {high}"
