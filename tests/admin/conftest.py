"""Fixtures of the admin's pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client

from realtime.config import WEBSOCKET_PREFIX, get_streaming_config
from tests.admin.pages import SetVariable


@pytest.fixture
def administrator() -> User:
    return User.objects.create(username="admin", is_staff=True, is_superuser=True)


@pytest.fixture
def browser(administrator: User) -> Client:
    """A browser in which an administrator is logged in."""
    client = Client()
    client.force_login(administrator)
    return client


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetVariable]:
    """Set a variable as if the process had started with it."""

    def set_(name: str, value: str) -> None:
        monkeypatch.setenv(f"{WEBSOCKET_PREFIX}{name.upper()}", value)
        get_streaming_config.cache_clear()

    yield set_
    get_streaming_config.cache_clear()
