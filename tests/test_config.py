"""The configuration: every variable, its default, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from realtime.config import (
    WEBSOCKET_PREFIX,
    ConfigurationError,
    WebSocketConfig,
    get_streaming_config,
    read_config,
)
from tests.support import manage

DEFAULTS: dict[str, Any] = {
    "host": "0.0.0.0",
    "port": 8765,
    "max_connections": 1000,
    "ping_interval": 20,
    "ping_timeout": 10,
    "close_timeout": 10,
    "max_message_size": 1_048_576,
    "compression": "deflate",
    "require_auth": True,
    "auth_timeout_seconds": 30,
    "allowed_origins": ["*"],
    "enable_rate_limiting": True,
    "rate_limit_per_minute": 60,
    "max_subscriptions_per_client": 100,
    "max_buffered_bytes": 1_048_576,
    "history_size": 10_000,
    "history_ttl": 3600,
    "trusted_proxies": [],
    "auth_failures_per_minute": 30,
    "max_connections_per_address": 0,
    "unauthenticated_share": 0.5,
    "drain_timeout": 10,
}
EXAMPLES: list[tuple[str, str, Any]] = [
    ("host", "127.0.0.1", "127.0.0.1"),
    ("port", "9000", 9000),
    ("max_connections", "5", 5),
    ("ping_interval", "7", 7),
    ("ping_timeout", "3", 3),
    ("close_timeout", "2", 2),
    ("max_message_size", "2048", 2048),
    ("compression", "deflate", "deflate"),
    ("compression", "none", None),
    ("compression", "off", None),
    ("compression", "", None),
    ("require_auth", "false", False),
    ("auth_timeout_seconds", "4", 4),
    ("allowed_origins", "https://a.example.com", ["https://a.example.com"]),
    ("allowed_origins", "https://a.example.com, null", ["https://a.example.com", "null"]),
    ("allowed_origins", '["https://*.example.com", "*"]', ["https://*.example.com", "*"]),
    ("allowed_origins", "", []),
    ("allowed_origins", "[]", []),
    ("enable_rate_limiting", "no", False),
    ("rate_limit_per_minute", "6", 6),
    ("max_subscriptions_per_client", "1", 1),
    ("max_buffered_bytes", "4096", 4096),
    ("history_size", "10", 10),
    ("history_ttl", "60", 60),
    ("trusted_proxies", "10.0.0.0/8, ::1,unix", ["10.0.0.0/8", "::1", "unix"]),
    ("trusted_proxies", '["192.0.2.1"]', ["192.0.2.1"]),
    ("auth_failures_per_minute", "5", 5),
    ("max_connections_per_address", "3", 3),
    ("unauthenticated_share", "1", 1.0),
    ("drain_timeout", "0", 0),
]
NUMBERS = [name for name, value in DEFAULTS.items() if type(value) is int]

SetVariable = Callable[[str, str], None]


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> SetVariable:
    return lambda name, value: monkeypatch.setenv(f"{WEBSOCKET_PREFIX}{name.upper()}", value)


def refusal() -> str:
    with pytest.raises(ConfigurationError) as error:
        read_config()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_the_defaults() -> None:
    assert read_config().websocket.model_dump() == DEFAULTS


def test_every_field_has_an_example() -> None:
    assert {name for name, _, _ in EXAMPLES} == set(DEFAULTS)


@pytest.mark.parametrize(("name", "text", "value"), EXAMPLES)
def test_each_variable(set_variable: SetVariable, name: str, text: str, value: Any) -> None:
    set_variable(name, text)
    config = read_config().websocket
    assert getattr(config, name) == value
    assert config.model_fields_set == {name}


def test_all_settings_in_one_variable(
    monkeypatch: pytest.MonkeyPatch, set_variable: SetVariable
) -> None:
    monkeypatch.setenv("STREAMING_WEBSOCKET", '{"port": 9000, "ping_interval": 5}')
    set_variable("port", "9001")
    assert read_config().websocket.port == 9001
    assert read_config().websocket.ping_interval == 5


def test_the_process_reads_its_environment_once(set_variable: SetVariable) -> None:
    before = get_streaming_config()
    set_variable("port", "9002")
    assert get_streaming_config() is before


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        WebSocketConfig().port = 1


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("port", "http", "(allowed: 0 to 65535; default 8765)"),
        ("port", "65536", "(allowed: 0 to 65535; default 8765)"),
        ("port", "-1", "(allowed: 0 to 65535; default 8765)"),
        ("max_connections", "0", "(allowed: 1 or more; default 1000)"),
        ("ping_interval", "0", "(allowed: 1 to 86400; default 20)"),
        ("max_message_size", "1023", "(allowed: 1024 to 268435456; default 1048576)"),
        ("max_buffered_bytes", "1", "(allowed: 4096 or more; default 1048576)"),
        ("trusted_proxies", "10.0.0.1/8", "addresses and networks separated by commas"),
        ("unauthenticated_share", "0", "(allowed: 0.01 to 1; default 0.5)"),
        ("unauthenticated_share", "1.1", "(allowed: 0.01 to 1; default 0.5)"),
        ("drain_timeout", "3601", "(allowed: 0 to 3600; default 10)"),
        ("rate_limit_per_minute", "1.5", "(allowed: 1 or more; default 60)"),
        ("require_auth", "perhaps", "(allowed: true or false; default true)"),
        ("compression", "gzip", "(allowed: deflate or none; default deflate)"),
        ("allowed_origins", "app.example.com", "expected scheme://host[:port]"),
        ("allowed_origins", '["*"', "JSON array"),
        ("allowed_origins", "[1]", "(allowed: origins separated by commas, or a JSON array"),
        ("allowed_origins", "[" * 100_000, "JSON array"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(
    set_variable: SetVariable, name: str, value: str, allowed: str
) -> None:
    set_variable(name, value)
    message = refusal()
    assert message.startswith(f"{WEBSOCKET_PREFIX}{name.upper()}={value!r}: ")
    assert allowed in message


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["", "many", "-5", "1e3", "0x10", "1\n2"])
def test_a_number_is_a_number(set_variable: SetVariable, name: str, value: str) -> None:
    set_variable(name, value)
    assert refusal().startswith(f"{WEBSOCKET_PREFIX}{name.upper()}={value!r}: ")


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        (
            "STREAMING_WEBSOCKET__PROT",
            "STREAMING_WEBSOCKET__PROT: no such setting; did you mean STREAMING_WEBSOCKET__PORT?",
        ),
        ("STREAMING_WEBSOCKET__QQQ", "STREAMING_WEBSOCKET__QQQ: no such setting"),
        (
            "STREAMING_WEBSOCKET_PING_TIMEOUT",
            "STREAMING_WEBSOCKET_PING_TIMEOUT: no such setting; did you mean "
            "STREAMING_WEBSOCKET__PING_TIMEOUT?",
        ),
    ],
)
def test_an_unknown_variable(monkeypatch: pytest.MonkeyPatch, variable: str, message: str) -> None:
    monkeypatch.setenv(variable, "1")
    assert refusal() == message


@pytest.mark.parametrize("value", ["", "8765", "[1]", "{", "port=1"])
def test_the_one_variable_holds_an_object(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("STREAMING_WEBSOCKET", value)
    assert refusal() == f"STREAMING_WEBSOCKET={value!r}: expected a JSON object of settings"


def test_other_variables_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMING_SOMETHING_ELSE", "1")
    assert read_config().websocket.model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"port": "http"},
            "error: STREAMING_WEBSOCKET__PORT='http': input should be a valid integer, unable to "
            "parse string as an integer (allowed: 0 to 65535; default 8765)\n",
        ),
        ({"DJANGO_DEBUG": "perhaps"}, "error: DJANGO_DEBUG='perhaps': not a boolean"),
    ],
)
def test_a_wrong_value_stops_the_start_with_one_line(
    tmp_path: Path, variables: dict[str, str], line: str
) -> None:
    result = manage("check", data_dir=tmp_path, **variables)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1
