"""The system checks, each by its id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from channels.layers import BaseChannelLayer
from django.conf import settings
from django.core.checks import run_checks
from django.test import override_settings

from tests.support.layers import IN_MEMORY, PUBSUB, Configure

CORE = "channels_redis.core.RedisChannelLayer"


class OtherLayer(BaseChannelLayer):  # type: ignore[misc]  # Channels has no types
    """A channel layer between processes that is none of channels_redis."""

    def __init__(self, hosts: object = None) -> None:
        super().__init__()


OTHER = f"{__name__}.OtherLayer"


@pytest.fixture(autouse=True)
def production(configure: Configure) -> Iterator[None]:
    """What docs/configuration.md gives for production."""
    configure(allowed_origins="https://app.example.com")
    with override_settings(ALLOWED_HOSTS=["example.com"], SECURE_SSL_REDIRECT=True):
        yield


def ids_of_messages() -> set[str | None]:
    """Return the ids of the messages of this app's checks, those for a deployment included."""
    ids = {message.id for message in run_checks(include_deployment_checks=True)}
    return {name for name in ids if name is not None and name.startswith("realtime.")}


def layer(backend: str, **config: Any) -> dict[str, Any]:
    """Return settings with a channel layer."""
    return {"default": {"BACKEND": backend, "CONFIG": config}}


@pytest.mark.parametrize(
    "layers",
    [
        IN_MEMORY,
        layer(PUBSUB),
        layer(PUBSUB, hosts=["redis://localhost:6379", "unix:///run/redis.sock"]),
        layer(PUBSUB, hosts=[{"sentinels": [("localhost", 26379)], "master_name": "main"}]),
    ],
)
def test_a_layer_with_a_log(layers: dict[str, Any]) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        assert ids_of_messages() == set()


@pytest.mark.parametrize(
    "layers",
    [
        {},
        layer(OTHER),
        layer(OTHER, hosts=[("localhost", 6379)]),
        layer(CORE, hosts=[("localhost", 6379)]),
    ],
)
def test_a_layer_without_a_log(layers: dict[str, Any]) -> None:
    with override_settings(CHANNEL_LAYERS=layers):
        assert ids_of_messages() == {"realtime.E001"}


def test_persistent_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "CONN_MAX_AGE", 60)
    assert ids_of_messages() == {"realtime.W001"}


def test_the_settings_for_production_are_clean() -> None:
    assert ids_of_messages() == set()


@pytest.mark.parametrize(
    ("changed", "id_"),
    [
        ({"ALLOWED_HOSTS": ["*"]}, "realtime.W002"),
        ({"DEBUG": True}, "realtime.W003"),
        ({"SECURE_SSL_REDIRECT": False}, "realtime.W005"),
    ],
)
def test_a_setting_that_is_less_safe(changed: dict[str, Any], id_: str) -> None:
    with override_settings(**changed):
        assert ids_of_messages() == {id_}


@pytest.mark.parametrize(
    ("name", "value", "id_"),
    [
        ("allowed_origins", "*", "realtime.W004"),
        ("allowed_origins", "https://app.example.com,*", "realtime.W004"),
        ("require_auth", "false", "realtime.W007"),
        ("history_size", str(10**9), "realtime.W008"),
    ],
)
def test_a_variable_that_is_less_safe(
    configure: Configure, name: str, value: str, id_: str
) -> None:
    configure(**{name: value})
    assert ids_of_messages() == {id_}


def test_a_secret_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://database/name")
    assert ids_of_messages() == {"realtime.W006"}
    monkeypatch.setenv("DJANGO_SECRET_KEY", "x" * 50)
    assert ids_of_messages() == set()
