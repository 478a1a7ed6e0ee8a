"""The tables of the documentation say what the code does."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from realtime.analytics.predictions.definitions import predictor
from realtime.auth.policy import LIMIT_FIELDS
from realtime.checks import RISKS
from realtime.config import JWT_PREFIX, VARIABLES, WEBSOCKET_PREFIX, SiteConfig, WebSocketConfig
from realtime.filters.compiler import OPERATORS
from realtime.management.commands.publish_system_status import OPTIONS
from realtime.monitoring.logs import Event
from realtime.monitoring.metrics import Counters
from realtime.monitoring.prometheus import expose, expose_outbox, expose_processors
from realtime.monitoring.snapshot import Sampler
from realtime.monitoring.system_status import DEFAULTS
from realtime.protocol import ERROR_TEXTS, PAYLOAD_KEYS, CloseCode, CloseReason, ErrorCode
from realtime.sessions.readiness import DATABASE, DRAINING, LAYER
from realtime.urls import urlpatterns

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
SECURITY = (ROOT / "docs/security.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
ANALYTICS = (ROOT / "docs/analytics.md").read_text()


def rows(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table after a heading, without its head."""
    section = text.split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None
    table = [
        [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        for line in lines[0].splitlines()
    ]
    return table[2:]


def as_variable(value: object) -> str:
    """Write a default as a variable holds it."""
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


def test_every_setting_is_documented_with_its_default() -> None:
    documented = {row[0]: row[1] for row in rows(CONFIGURATION, "## The WebSocket server")}
    fields = WebSocketConfig.model_fields.items()
    assert PydanticUndefined not in [field.default for _, field in fields]
    assert documented == {
        WEBSOCKET_PREFIX + name.upper(): as_variable(field.default) for name, field in fields
    }


def test_every_setting_of_json_web_tokens_is_documented() -> None:
    documented = {row[0] for row in rows(CONFIGURATION, "## JSON Web Tokens")}
    assert documented == {name for name in VARIABLES if name.startswith(JWT_PREFIX)}


def test_the_settings_of_the_readme_are_those_of_the_documentation() -> None:
    documented = {
        row[0]
        for heading in ("## The WebSocket server", "## The site")
        for row in rows(CONFIGURATION, heading)
    }
    assert {row[0] for row in rows(README, "## Settings")} <= documented


def test_every_variable_of_the_site_is_documented_with_its_default() -> None:
    documented = {row[0]: row[1] for row in rows(CONFIGURATION, "## The site")}
    fields = {name.upper(): field for name, field in SiteConfig.model_fields.items()}
    assert documented.keys() == fields.keys() - {"OTEL_EXPORTER_OTLP_PROTOCOL"}  # OpenTelemetry's
    for name, shown in documented.items():
        default = fields[name].default
        if default not in (None, "", [], SecretStr("")):  # else the table says what follows
            assert shown == (",".join(default) if default == ["*"] else as_variable(default)), name


def test_every_error_code_is_documented_with_its_text() -> None:
    documented = {row[0]: row[1].rstrip("… ") for row in rows(PROTOCOL, "## Server to client")}
    assert documented == {code.value: ERROR_TEXTS[code].strip() for code in ErrorCode}


def test_every_close_code_and_reason_is_documented() -> None:
    table = rows(PROTOCOL, "## Close codes")
    assert {int(row[0]) for row in table} == {int(code) for code in CloseCode}
    documented = {reason.strip() for row in table for reason in row[1].split(";")}
    assert {reason.value for reason in CloseReason} <= documented


def test_every_subscription_type_is_documented_with_its_key() -> None:
    documented = {row[0]: row[1] for row in rows(PROTOCOL, "### Subscription types")}
    assert documented == PAYLOAD_KEYS


def test_every_operator_of_filters_is_documented() -> None:
    documented = [re.findall(r"\w+", row[0]) for row in rows(PROTOCOL, "### Filters")]
    assert tuple(name for names in documented for name in names) == OPERATORS


def test_every_health_path_is_documented_with_its_causes() -> None:
    documented = {row[0].strip("/") for row in rows(CONFIGURATION, "## Health and restarts")}
    assert documented == {str(path.pattern) for path in urlpatterns if path.name in documented}
    for cause in (DRAINING, DATABASE, LAYER):
        assert f"`{cause}`" in CONFIGURATION


def test_the_commands_of_the_project_are_documented_with_their_options() -> None:
    text = "\n".join(row[0] for row in rows(README, "## Commands"))
    ours = [name for name, app in get_commands().items() if app == "realtime"]
    assert set(ours) == set(re.findall(r"manage\.py (\w+)", text))
    for name in ours:
        if name == "runserver":
            continue
        line = "\n".join(
            row for row in text.splitlines() if re.search(rf"manage\.py {name}\b", row)
        )
        parser = load_command_class("realtime", name).create_parser("manage.py", name)
        for option in re.findall(r"--[a-z-]+", line):
            assert option in parser.format_help(), f"{name} has no {option}"


@pytest.mark.parametrize("name", LIMIT_FIELDS)
def test_limits_of_the_admin_are_settings(name: str) -> None:
    assert name in WebSocketConfig.model_fields


def test_every_threat_is_shown_by_a_test() -> None:
    shown = [row[-1] for row in rows(SECURITY, "## Threats")]
    assert len(shown) > 20
    for reference in shown:
        path, *_, name = reference.split("::")
        assert re.search(rf"def {name}\(", (ROOT / path).read_text()), reference


def test_every_event_of_the_audit_log_is_documented() -> None:
    assert {row[0] for row in rows(SECURITY, "## The audit log")} == {
        event.value for event in Event
    }


def test_every_check_of_a_deployment_is_in_the_documentation() -> None:
    first, last = re.findall(r"`(?:realtime\.)?(W\d+)`", SECURITY)[:2]
    assert [f"realtime.{first}", f"realtime.{last}"] == [min(RISKS), max(RISKS)]


def test_every_alert_has_a_section_that_says_what_to_do() -> None:
    rules = (ROOT / "deploy/prometheus/alerts.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)$", rules, re.MULTILINE)
    _, _, chapter = OPERATIONS.partition("\n## Alerts\n")
    sections = re.findall(r"^### (\w+)$", chapter, re.MULTILINE)
    assert sections == alerts
    for section in chapter.split("\n### ")[1:]:
        for word in ("**Meaning.**", "**Look at**", "**Do**"):
            assert word in section, section


def test_every_metric_of_the_operators_guide_exists() -> None:
    sampler = Sampler("process", Counters(closes={1000: 1}))
    snapshot = asyncio.run(sampler.take_snapshot([], draining=False))
    exposed = (expose([snapshot]) + expose_outbox(0, 0, 0.0) + expose_processors([])).decode()
    names = set(re.findall(r"^(?:# TYPE )?(realtime_\w+)", exposed, re.MULTILINE))
    named = set(re.findall(r"`(realtime_\w+)", OPERATIONS))
    assert named and named <= names


def test_every_variable_of_the_operators_guide_exists() -> None:
    known = {
        row[0]
        for heading in ("## The WebSocket server", "## JSON Web Tokens", "## The site")
        for row in rows(CONFIGURATION, heading)
    }
    pattern = r"\b(?:STREAMING|DJANGO|REDIS|DATABASE)_[A-Z_]*[A-Z]\b"
    named = set(re.findall(pattern, OPERATIONS))
    assert named and named <= known


def test_every_command_of_the_operators_guide_exists() -> None:
    named = re.findall(r"manage\.py ([a-z_]+)([^\n`|]*)", OPERATIONS)
    assert named
    for name, arguments in named:
        app = get_commands()[name]
        parser = load_command_class(str(app), name).create_parser("manage.py", name)
        for option in re.findall(r" (--[a-z-]+)", arguments):
            assert option in parser.format_help(), f"{name} has no {option}"


def test_every_link_of_the_operators_guide_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", OPERATIONS)
    assert links
    for file, heading in links:
        target = ROOT / "docs" / (file or "operations.md")
        assert target.exists(), file
        if heading:
            assert heading in anchors(target.read_text()), f"{file}#{heading}"


def anchors(text: str) -> set[str]:
    """Return what a page's headings are linked as."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_benchmark_is_in_the_list() -> None:
    text = (ROOT / "docs/performance.md").read_text()
    listed = set(re.findall(r"-m benchmarks\.(\w+)", text))
    runnable = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "\ndef main() -> None:" in path.read_text()
    }
    assert listed == runnable - {"attackers"}  # which hostile starts


def test_every_argument_of_a_predictor_is_documented_with_its_default() -> None:
    documented = {row[0]: row[1] for row in rows(ANALYTICS, "## Predictions")[1:]}
    parameters = list(inspect.signature(predictor).parameters.values())[1:]
    assert documented.keys() == {parameter.name for parameter in parameters}
    for parameter in parameters:
        if parameter.default is not None:
            shown = json.dumps(parameter.default).capitalize()
            assert documented[parameter.name].capitalize() == shown


def test_every_threshold_is_documented_with_its_defaults() -> None:
    documented = {row[0]: row[2] for row in rows(ANALYTICS, "### Thresholds")}
    assert documented == {
        f"--{option}": f"{DEFAULTS[name].warning:g} {DEFAULTS[name].critical:g}"
        for option, (name, _) in OPTIONS.items()
    }
