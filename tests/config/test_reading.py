"""The configuration: every variable, its default, and the line that a wrong one is refused with."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from realtime.config import (
    VARIABLES,
    WEBSOCKET_PREFIX,
    ConfigurationError,
    JwtConfig,
    SiteConfig,
    WebSocketConfig,
    get_streaming_config,
    read_config,
    read_site_config,
)
from tests.support import ROOT, manage

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
    "min_replicas": 0,
    "trusted_proxies": [],
    "auth_failures_per_minute": 30,
    "max_connections_per_address": 0,
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
    ("min_replicas", "2", 2),
    ("trusted_proxies", "10.0.0.0/8, ::1,unix", ["10.0.0.0/8", "::1", "unix"]),
    ("trusted_proxies", '["192.0.2.1"]', ["192.0.2.1"]),
    ("auth_failures_per_minute", "5", 5),
    ("max_connections_per_address", "3", 3),
    ("drain_timeout", "0", 0),
]
NUMBERS = [name for name, value in DEFAULTS.items() if type(value) is int]

SetVariable = Callable[[str, str], None]


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> SetVariable:
    return lambda name, value: monkeypatch.setenv(f"{WEBSOCKET_PREFIX}{name.upper()}", value)


def refusal(read: Callable[[], object] = read_config) -> str:
    with pytest.raises(ConfigurationError) as error:
        read()
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


@pytest.mark.parametrize("variable", ["STREAMING_WEBSOCKET", "STREAMING_JWT"])
@pytest.mark.parametrize("value", ["", "8765", "[1]", "{", "port=1"])
def test_the_variable_of_a_section_holds_an_object(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert refusal() == f"{variable}: expected a JSON object of settings"


def test_an_unknown_setting_in_the_variable_of_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMING_WEBSOCKET", '{"prot": 1}')
    assert refusal() == "STREAMING_WEBSOCKET__PROT: extra inputs are not permitted"


def test_other_variables_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMING_SOMETHING_ELSE", "1")
    assert read_config().websocket.model_dump() == DEFAULTS


# JSON Web Tokens

JWT = {
    "STREAMING_JWT__ISSUER": "https://login.example.com",
    "STREAMING_JWT__AUDIENCE": "streaming",
    "STREAMING_JWT__JWKS_FILE": "/etc/jwks.json",
}
SECRET = "the-secret-of-this-test-and-nothing-else"


@pytest.fixture
def jwt_variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the variables that JSON Web Tokens need, and others."""

    def set_variables(**changed: str) -> None:
        for name, value in (JWT | changed).items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_without_variables_there_are_no_json_web_tokens() -> None:
    assert read_config().jwt is None


@pytest.mark.parametrize("algorithms", ["RS256,ES256", " RS256 , ES256,", '["RS256", "ES256"]'])
def test_the_variables_of_json_web_tokens(
    algorithms: str, jwt_variables: Callable[..., None]
) -> None:
    jwt_variables(
        STREAMING_JWT__ALGORITHMS=algorithms,
        STREAMING_JWT__KEY="",
        STREAMING_JWT__KEY_FILE="",
        STREAMING_JWT__LEEWAY="5",
    )
    assert read_config().jwt == JwtConfig(
        issuer="https://login.example.com",
        audience="streaming",
        jwks_file=Path("/etc/jwks.json"),
        algorithms=["RS256", "ES256"],
        leeway=5,
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"STREAMING_JWT__ISSUER": ""}, "STREAMING_JWT__ISSUER='': string should have at least 1"),
        ({"STREAMING_JWT__LEEWAY": "301"}, "STREAMING_JWT__LEEWAY='301': "),
        (
            {"STREAMING_JWT__ALGORITHMS": "none"},
            "STREAMING_JWT__ALGORITHMS='none': input should be 'HS256', 'RS256', 'ES256' or",
        ),
        (
            {"STREAMING_JWT__ISSUERS": "x"},
            "STREAMING_JWT__ISSUERS: no such setting; did you mean STREAMING_JWT__ISSUER?",
        ),
        (
            {"STREAMING_JWT__ISSUER__NAME": "x"},
            "STREAMING_JWT__ISSUER__NAME: no such setting; did you mean STREAMING_JWT__ISSUER?",
        ),
        (
            {"STREAMING_JWT_LEEWAY": "5"},
            "STREAMING_JWT_LEEWAY: no such setting; did you mean STREAMING_JWT__LEEWAY?",
        ),
        (
            {"STREAMING_JWT__KEY": SECRET},
            "STREAMING_JWT__*: give exactly one of key, key_file and jwks_file",
        ),
    ],
)
def test_a_wrong_variable_of_json_web_tokens(
    jwt_variables: Callable[..., None], changed: dict[str, str], message: str
) -> None:
    jwt_variables(**changed)
    assert refusal().startswith(message)


def test_a_setting_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMING_JWT__KEY", SECRET)
    assert refusal() == "STREAMING_JWT__ISSUER: field required"


@pytest.mark.parametrize(
    "value",
    [
        f'{{"key": "{SECRET}"}}',
        f'{{"key": ["{SECRET}"], "issuer": "i", "audience": "a"}}',
        f'{{"key": "{SECRET}", "issuer": "i", "audience": "a", "algorithms": ["x"]}}',
        f'{{"key": "{SECRET}", "issuer": "i", "audience": "a", "keys": "{SECRET}"}}',
        f"key={SECRET}",
    ],
)
def test_a_key_is_in_no_message(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("STREAMING_JWT", value)
    assert SECRET not in refusal()


# The site

SITE_EXAMPLES: list[tuple[str, str, Any]] = [
    ("STREAMING_DATA_DIR", "/var/lib/streaming", Path("/var/lib/streaming")),
    ("STREAMING_AUDIT_LOG", "-", "-"),
    ("STREAMING_LOG_FORMAT", "json", "json"),
    ("STREAMING_ACCESS_LOG", "off", False),
    ("STREAMING_ACCESS_LOG", "", True),
    ("STREAMING_TRACING", " yes ", True),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "grpc"),  # without tracing it is no matter of ours
    ("DATABASE_URL", "postgres://a:b@c/d", "postgres://a:b@c/d"),
    ("REDIS_URL", "redis://:a@b", "redis://:a@b"),
    ("REDIS_URL", " ", ""),
    ("REDIS_PREFIX", "staging", "staging"),
    ("STREAMING_ALLOW_EVICTION", "true", True),
    ("KAFKA_PASSWORD", " a b ", " a b "),
    ("DJANGO_SECRET_KEY", "x" * 50, "x" * 50),
    ("DJANGO_ALLOWED_HOSTS", "a.example.com, b.example.com", ["a.example.com", "b.example.com"]),
    ("DJANGO_ALLOWED_HOSTS", "", []),
    ("DJANGO_CSRF_TRUSTED_ORIGINS", '["https://a.example.com"]', ["https://a.example.com"]),
    ("DJANGO_TLS", "TRUE", True),
    ("DJANGO_DEBUG", "1", True),
    ("DJANGO_EMAIL_HOST", "mail.example.com", "mail.example.com"),
    ("DJANGO_EMAIL_HOST", "", "localhost"),
    ("DJANGO_EMAIL_PORT", "2525", 2525),
    ("DJANGO_EMAIL_PORT", "", None),
    ("DJANGO_EMAIL_SECURITY", "starttls", "starttls"),
    ("DJANGO_EMAIL_USER", "maria", "maria"),
    ("DJANGO_EMAIL_PASSWORD", "x", "x"),
    ("DJANGO_EMAIL_FROM", "a@example.com", "a@example.com"),
]


def test_every_variable_of_the_site_has_an_example() -> None:
    names = {name.upper() for name in SiteConfig.model_fields}
    assert {variable for variable, _, _ in SITE_EXAMPLES} == names


@pytest.mark.parametrize(("variable", "text", "value"), SITE_EXAMPLES)
def test_each_variable_of_the_site(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: Any
) -> None:
    monkeypatch.setenv(variable, text)
    config = read_site_config()
    read = getattr(config, variable.lower())
    assert (read.get_secret_value() if isinstance(read, SecretStr) else read) == value


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "DJANGO_DEBUG",
            "perhaps",
            "DJANGO_DEBUG='perhaps': input should be a valid boolean, unable to interpret input "
            "(allowed: true or false; default false)",
        ),
        (
            "STREAMING_LOG_FORMAT",
            "xml",
            "STREAMING_LOG_FORMAT='xml': input should be 'line' or 'json' "
            "(allowed: line or json; default line)",
        ),
        (
            "DJANGO_EMAIL_PORT",
            "65536",
            "DJANGO_EMAIL_PORT='65536': input should be less than or equal to 65535 "
            "(allowed: 1 to 65535)",
        ),
        (
            "DJANGO_EMAIL_SECURITY",
            "ssl",
            "DJANGO_EMAIL_SECURITY='ssl': input should be 'none', 'starttls' or 'tls' "
            "(allowed: none or starttls or tls; default none)",
        ),
        (
            "DJANGO_ALLOWED_HOSTS",
            '["a',
            "DJANGO_ALLOWED_HOSTS='[\"a': expected a JSON array or values separated by commas "
            "(allowed: names separated by commas, or a JSON array; default *)",
        ),
    ],
)
def test_a_wrong_variable_of_the_site(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert refusal(read_site_config) == message


def test_spans_are_sent_with_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMING_TRACING", "true")
    assert read_site_config().streaming_tracing
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert refusal(read_site_config) == (
        "OTEL_EXPORTER_OTLP_PROTOCOL='grpc': not supported "
        "(allowed: http/protobuf; default http/protobuf)"
    )


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name, field in VARIABLES.items() if field.annotation is SecretStr]
    assert len(names) == 6
    for name in names:
        monkeypatch.setenv(name, SECRET)
    config = read_site_config()
    assert SECRET not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"


# The start


@pytest.mark.processes
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"port": "http"},
            "error: STREAMING_WEBSOCKET__PORT='http': input should be a valid integer, unable to "
            "parse string as an integer (allowed: 0 to 65535; default 8765)\n",
        ),
        ({"DJANGO_DEBUG": "perhaps"}, "error: DJANGO_DEBUG='perhaps': input should be a valid"),
        (
            {"DATABASE_URL": "mongodb://me:password@host"},
            "error: DATABASE_URL: not the URL of a database\n",
        ),
        (
            {"STREAMING_AUDIT_LOG": "/nowhere/audit.log"},
            "error: STREAMING_AUDIT_LOG='/nowhere/audit.log': its directory cannot be written to\n",
        ),
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


# One reader

# Modules that may use the environment, and why.
USERS_OF_THE_ENVIRONMENT = {
    "realtime/config/__init__.py": "the reader",
    "realtime/server/handle.py": "hands its environment on to the process that it starts",
    "realtime/testing/administrator.py": "has the environment that it is sent",
    "realtime/testing/plugin.py": "empties the environment before Django reads it",
    "realtime/testing/server.py": "hands its environment on, with what a test run shares",
    "realtime/torture/__main__.py": "has Django's settings, unless others are named",
    "streaming_site/asgi.py": "names the settings, as Django wants it",
}


def uses_of_the_environment(path: Path) -> Iterator[str]:
    """Yield what a module does with the environment."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            yield from (alias.name for alias in node.names if "env" in alias.name)


def test_nothing_else_reads_the_environment() -> None:
    paths = [
        path for name in ("realtime", "streaming_site") for path in (ROOT / name).rglob("*.py")
    ]
    users = {str(path.relative_to(ROOT)) for path in paths if any(uses_of_the_environment(path))}
    assert users == USERS_OF_THE_ENVIRONMENT.keys()
