"""What is in force: the environment, the administrators' changes on top, and their sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from realtime.auth.policy import LIMIT_FIELDS, current_revision, environment_policy, load_policy
from realtime.config import WEBSOCKET_PREFIX, WebSocketConfig, get_streaming_config
from realtime.models import AllowedOrigin, Limits, raise_revision

pytestmark = pytest.mark.django_db

SetVariable = Callable[[str, str], None]


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[SetVariable]:
    """Set a variable as if the process had started with it."""

    def set_(name: str, value: str) -> None:
        monkeypatch.setenv(f"{WEBSOCKET_PREFIX}{name.upper()}", value)
        get_streaming_config.cache_clear()

    yield set_
    get_streaming_config.cache_clear()


def test_without_any_change_the_defaults_are_in_force() -> None:
    policy = load_policy()
    assert policy.config == WebSocketConfig()
    assert policy.overridden == frozenset()
    assert {policy.source(name) for name in WebSocketConfig.model_fields} == {"default"}


def test_a_variable_is_the_source_of_its_value(set_variable: SetVariable) -> None:
    set_variable("rate_limit_per_minute", "5")
    policy = load_policy()
    assert policy.config.rate_limit_per_minute == 5
    expected = "from STREAMING_WEBSOCKET__RATE_LIMIT_PER_MINUTE"
    assert policy.source("rate_limit_per_minute") == expected
    assert policy.source("max_connections") == "default"


def test_a_variable_that_says_the_default_is_its_source(set_variable: SetVariable) -> None:
    set_variable("max_connections", "1000")
    assert load_policy().source("max_connections") == "from STREAMING_WEBSOCKET__MAX_CONNECTIONS"


@pytest.mark.parametrize("name", LIMIT_FIELDS)
def test_a_limit_of_the_admin_overrides_the_environment(
    set_variable: SetVariable, name: str
) -> None:
    boolean = name == "enable_rate_limiting"
    set_variable(name, "true" if boolean else "5000")
    value = False if boolean else 6000
    Limits.objects.create(**{name: value})
    policy = load_policy()
    assert getattr(policy.config, name) == value
    assert policy.source(name) == "set in the admin"
    assert policy.overridden == {name}
    assert environment_policy().source(name) == f"from {WEBSOCKET_PREFIX}{name.upper()}"


def test_an_empty_limit_leaves_the_environments_value(set_variable: SetVariable) -> None:
    set_variable("max_connections", "5")
    Limits.objects.create(rate_limit_per_minute=7)
    policy = load_policy()
    assert policy.config.max_connections == 5
    assert policy.source("max_connections") == "from STREAMING_WEBSOCKET__MAX_CONNECTIONS"


def test_false_is_not_empty() -> None:
    Limits.objects.create(enable_rate_limiting=False)
    assert load_policy().config.enable_rate_limiting is False


def test_rows_of_origins_replace_the_environments(set_variable: SetVariable) -> None:
    set_variable("allowed_origins", "https://environment.example.com")
    assert load_policy().source("allowed_origins") == "from STREAMING_WEBSOCKET__ALLOWED_ORIGINS"

    row = AllowedOrigin.objects.create(pattern="https://admin.example.com")
    policy = load_policy()
    assert policy.config.allowed_origins == ["https://admin.example.com"]
    assert policy.source("allowed_origins") == "set in the admin"

    row.delete()
    assert load_policy().config.allowed_origins == ["https://environment.example.com"]


def test_every_limit_is_a_setting_and_a_column() -> None:
    columns = {field.name for field in Limits._meta.get_fields()} - {"id"}
    assert set(LIMIT_FIELDS) == columns
    assert columns <= set(WebSocketConfig.model_fields)


def test_the_revision_begins_at_nothing_and_rises() -> None:
    assert current_revision() == 0
    raise_revision()
    raise_revision()
    assert current_revision() == 2
