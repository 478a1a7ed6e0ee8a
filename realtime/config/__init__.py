"""The configuration: every environment variable that is read, with its type, default and bounds.

No other module reads the environment. :mod:`realtime.config.models` declares the variables; here
they are read, and a wrong one is refused with one line that says what is allowed. Knows nothing of
Django or the database: what administrators change while servers run is in
:mod:`realtime.auth.policy`.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, SettingsError

from realtime.config.models import ENV_PREFIX, NOTHING
from realtime.config.models import JWT_PREFIX as JWT_PREFIX
from realtime.config.models import WEBSOCKET_PREFIX as WEBSOCKET_PREFIX
from realtime.config.models import Algorithm as Algorithm
from realtime.config.models import JwtConfig as JwtConfig
from realtime.config.models import SiteConfig as SiteConfig
from realtime.config.models import StreamingConfig as StreamingConfig
from realtime.config.models import WebSocketConfig as WebSocketConfig

Model = TypeVar("Model", bound=BaseSettings)


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


# Reading


@lru_cache(maxsize=1)
def get_streaming_config() -> StreamingConfig:
    """Return the process's configuration, read once, as :func:`read_config` does."""
    return read_config()


def read_config() -> StreamingConfig:
    """Read ``STREAMING_*__*`` anew.

    Raises:
        ConfigurationError: a variable has a wrong value or an unknown name.
    """
    for variable in os.environ:
        _refuse_unknown(variable)
    return _read(StreamingConfig)


def read_site_config() -> SiteConfig:
    """Read the site's variables anew. Raises :class:`ConfigurationError`."""
    return _read(SiteConfig)


def _read(model: type[Model]) -> Model:
    try:
        return model()
    except SettingsError:  # the other section may be missing, so the model refuses its variable
        raise ConfigurationError(_no_object("STREAMING_WEBSOCKET")) from None
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


def _refuse_unknown(variable: str) -> None:
    """Refuse a variable of a section that is not a setting, ``STREAMING_WEBSOCKET_PORT`` say."""
    for prefix in (WEBSOCKET_PREFIX, JWT_PREFIX):
        name = variable.upper()
        if name.startswith(prefix[:-1]) and name not in VARIABLES:
            settings = [each.removeprefix(prefix) for each in VARIABLES if each.startswith(prefix)]
            close = difflib.get_close_matches(name[len(prefix) - 1 :], settings, n=1)
            hint = f"; did you mean {prefix}{close[0]}?" if close else ""
            raise ConfigurationError(f"{variable}: no such setting{hint}")


def _explain(error: ValidationError) -> str:
    """Return one line: the variable, its value unless that is secret, what is wrong and allowed."""
    problem = error.errors()[0]
    path = "__".join(str(part) for part in problem["loc"][:2]).upper()
    variable = path if path in VARIABLES else ENV_PREFIX + path
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    field = VARIABLES.get(variable)
    if problem["type"] == "model_type":
        return _no_object(variable)
    if field is None:
        # Settings of a section that do not fit together, or an unknown one in its JSON object.
        return f"{variable}{'__*' if len(problem['loc']) == 1 else ''}: {message}"
    is_shown = problem["type"] != "missing" and field.annotation is not SecretStr
    value = f"={os.environ.get(variable, problem['input'])!r}" if is_shown else ""
    return f"{variable}{value}: {message}{_describe(field)}"


def _no_object(variable: str) -> str:
    return f"{variable}: expected a JSON object of settings"


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


# The data directory


def data_directory(base: Path) -> Path:
    """Return the data directory (``STREAMING_DATA_DIR``, default ``var`` in *base*), made if new.

    Only its owner can read it: it holds the database and the secret key. Raises
    :class:`ConfigurationError` if it cannot be made.
    """
    path = (read_site_config().streaming_data_dir or base / "var").expanduser().resolve()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"STREAMING_DATA_DIR={str(path)!r}: cannot be made ({error.strerror})"
        ) from None
    return path


def read_or_create_secret(data_dir: Path, name: str = "secret_key") -> str:
    """Return the secret in a file of the data directory, generated by the first process that asks.

    Raises :class:`ConfigurationError` if the file cannot be read or made.
    """
    path = data_dir / name
    try:
        # Written aside and linked, so that no process ever reads half a secret.
        if not path.exists():
            with tempfile.NamedTemporaryFile("w", dir=data_dir, prefix=f".{name}") as file:
                file.write(secrets.token_urlsafe(50))
                file.flush()
                with contextlib.suppress(FileExistsError):
                    os.link(file.name, path)
        return path.read_text()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be used ({error.strerror})") from None
