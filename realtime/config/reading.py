"""Reads the environment, and says in one line which variable is wrong and what it may be."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import SettingsError

from realtime.config.models import (
    ENV_PREFIX,
    JWT_PREFIX,
    NOTHING,
    WEBSOCKET_PREFIX,
    JwtConfig,
    SiteConfig,
    StreamingConfig,
    WebSocketConfig,
)


class ConfigurationError(Exception):
    """A configuration value is wrong. The message is one line: variable, value, what is allowed."""


def _variables(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    return {prefix + name.upper(): field for name, field in model.model_fields.items()}


# Each variable and the field that it sets.
VARIABLES = (
    _variables(WebSocketConfig, WEBSOCKET_PREFIX)
    | _variables(JwtConfig, JWT_PREFIX)
    | _variables(SiteConfig)
)


@lru_cache(maxsize=1)
def get_streaming_config() -> StreamingConfig:
    """Return the process's configuration, read once from the environment.

    Raises:
        ConfigurationError: a variable has a wrong value or an unknown name.
    """
    return read_config()


def read_config() -> StreamingConfig:
    """Read ``STREAMING_*__*`` anew. Raises :class:`ConfigurationError`."""
    for variable in os.environ:
        _refuse_single_underscore(variable)
    try:
        return StreamingConfig()
    except SettingsError:  # only this field: others may hold what is no JSON, for the models
        raise ConfigurationError(
            "STREAMING_WEBSOCKET: expected a JSON object of settings"
        ) from None
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


def read_site_config() -> SiteConfig:
    """Read the site's variables anew. Raises :class:`ConfigurationError`."""
    try:
        return SiteConfig()
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None


@contextlib.contextmanager
def exit_if_misconfigured() -> Iterator[None]:
    """End the process with one line on standard error if the configuration is wrong."""
    try:
        yield
    except ConfigurationError as error:
        sys.exit(f"error: {error}")


# Explaining what is wrong


def _refuse_single_underscore(variable: str) -> None:
    """Refuse ``STREAMING_WEBSOCKET_PORT`` and the like, which would have no effect otherwise."""
    for prefix in (WEBSOCKET_PREFIX, JWT_PREFIX):
        name = variable.upper()
        if name.startswith(prefix[:-1]) and not name.startswith(prefix):
            raise ConfigurationError(_no_such_setting(variable, prefix))


def _no_such_setting(variable: str, prefix: str) -> str:
    """Say that a section (*prefix*) has no such variable, and which one may be meant."""
    names = [name.removeprefix(prefix) for name in VARIABLES if name.startswith(prefix)]
    close = difflib.get_close_matches(variable.upper()[len(prefix) - 1 :], names, n=1)
    return f"{variable}: no such setting" + (f"; did you mean {prefix}{close[0]}?" if close else "")


def _no_object(variable: str) -> str:
    return f"{variable}: expected a JSON object of settings"


def _explain(error: ValidationError) -> str:
    """Return one line: the variable, its value unless that is secret, what is wrong and allowed."""
    # A misspelt name first: a setting that is missing may be the one that was meant.
    problem = max(error.errors(), key=lambda problem: problem["type"] == "extra_forbidden")
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    variable = "__".join(str(part) for part in problem["loc"][:2]).upper()
    if variable not in VARIABLES:
        variable = ENV_PREFIX + variable
    if problem["type"] == "extra_forbidden":
        section, _, _ = variable.partition("__")
        return _no_such_setting(variable, f"{section}__")
    if problem["loc"] == ("jwt",) and problem["type"] == "value_error":
        return f"{variable}__*: {message}"  # its settings do not fit together
    field = VARIABLES.get(variable)
    if field is None:
        return _no_object(variable)
    is_shown = problem["type"] != "missing" and field.annotation is not SecretStr
    value = f"={os.environ.get(variable, problem['input'])!r}" if is_shown else ""
    return f"{variable}{value}: {message}{_describe(field)}"


def _describe(field: FieldInfo) -> str:
    """Say what a field takes and its default, as one writes them in a variable."""
    allowed, default = field.description, field.default
    if isinstance(default, list):
        allowed, default = f"{allowed} separated by commas, or a JSON array", ",".join(default)
    elif field.annotation is bool:
        allowed = "true or false"
    elif get_origin(field.annotation) is Literal:
        allowed = " or ".join(get_args(field.annotation))
    allowed = allowed or _bounds(field.metadata)
    parts = [f"allowed: {allowed}"] if allowed else []
    if default not in (None, "", PydanticUndefined, NOTHING):
        parts.append(f"default {str(default).lower()}")
    return f" ({'; '.join(parts)})" if parts else ""


def _bounds(metadata: Iterable[Any]) -> str:
    """Say which numbers are allowed, from the bounds among a field's annotations."""
    low = next((bound.ge for bound in metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in metadata if hasattr(bound, "le")), None)
    if low is None:
        return ""
    return f"{low} or more" if high is None else f"{low} to {high}"
