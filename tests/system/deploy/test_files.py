"""All files of deploy/: their command lines and variables exist, and a table has each of them."""

from __future__ import annotations

import re
import subprocess
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class

from realtime.config import get_streaming_config
from realtime.server.supervisor import GRACE
from tests.support import ROOT, manage
from tests.system.deploy.files import (
    COMMAND_UNIT,
    DEPLOY,
    PASSWORD,
    SECRET,
    UNIT,
    assert_content,
    command_lines,
    compose,
    configuration,
    example,
    find,
    manifests,
    unit,
)
from tests.test_docs import rows

README = (DEPLOY / "README.md").read_text()
NOT_RUN = re.compile(r"\bnot yet\b", re.IGNORECASE)


def files() -> dict[str, str]:
    """Return the files of deploy/ that belong to the project, and their texts."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."],
        cwd=DEPLOY,
        capture_output=True,
        text=True,
        check=True,
    )
    names = set(listed.stdout.split()) - {"README.md"}
    return {name: (DEPLOY / name).read_text() for name in names if (DEPLOY / name).exists()}


def test_the_table_has_every_file_and_how_it_is_checked() -> None:
    documented = {row[0].split("](")[0].strip("[`"): row[2] for row in rows(README, "## Files")}
    assert set(documented) == set(files())
    for name, checked in documented.items():
        for path in re.findall(r"`(tests/\S+)`", checked):
            assert (ROOT / path).exists(), path
        # Who opens a file that has not been run reads so there; JSON has no comments.
        head = "\n".join(files()[name].splitlines()[:8])
        if not name.endswith(".json"):
            assert bool(NOT_RUN.search(head)) == bool(NOT_RUN.search(checked)), name


def test_variables_are_documented() -> None:
    documented = set(re.findall(r"`([A-Z_]+)`", (ROOT / "docs/configuration.md").read_text()))
    assert "STREAMING_WEBSOCKET__MAX_CONNECTIONS" in documented
    pattern = r"\b(?:(?:STREAMING|DJANGO)_[A-Z_]+|REDIS_URL|DATABASE_URL)\b"
    for name, text in files().items():
        assert set(re.findall(pattern, text)) <= documented, name


@pytest.mark.parametrize("where", command_lines())
def test_command_lines_are_taken(where: str) -> None:
    name, *arguments = command_lines()[where]
    command = load_command_class(get_commands()[name], name)
    parser = command.create_parser("manage.py", name)
    # Instead of an exit with what is wrong on standard error.
    parser.exit_on_error = False
    parser.error = _refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)
    with pytest.raises(ArgumentError):
        parser.parse_args([*arguments, "--no-such-option"])


def _refuse(message: str) -> Any:
    raise ArgumentError(None, message)


def seconds(text: str) -> float:
    """Return the seconds of ``20``, ``20s`` or ``2m``."""
    number, unit = re.fullmatch(r"(\d+)(s|m|)", text).groups()  # type: ignore[union-attr]
    return int(number) * (60 if unit == "m" else 1)


def test_a_server_has_time_to_drain_before_it_is_killed() -> None:
    longest = get_streaming_config().websocket.drain_timeout + GRACE
    assert seconds(unit("TimeoutStopSec")[0]) > longest
    assert seconds(compose()["services"]["site"]["stop_grace_period"]) > longest
    pod = manifests()["deployment.yaml"]["spec"]["template"]["spec"]
    before = float(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(configuration()["STREAMING_WEBSOCKET__DRAIN_TIMEOUT"])
    assert pod["terminationGracePeriodSeconds"] > before + drain + GRACE


def kubernetes_variables() -> dict[str, str]:
    """Return all variables of a pod, with a secret filled in."""
    secret: dict[str, str] = manifests()["secret.example.yaml"]["stringData"]
    assert secret["DJANGO_SECRET_KEY"] == ""
    return configuration() | secret | {"DJANGO_SECRET_KEY": SECRET}


@pytest.mark.parametrize("where", ["docker/site.env", "systemd/streaming.env", "kubernetes"])
def test_the_examples_make_a_site_that_nothing_is_to_be_said_against(
    where: str, data_dir: Path
) -> None:
    variables = (
        kubernetes_variables() if where == "kubernetes" else example(DEPLOY / f"{where}.example")
    )
    assert PASSWORD in variables["DATABASE_URL"]
    done = manage("check", "--deploy", "--fail-level", "WARNING", data_dir=data_dir, **variables)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


@pytest.mark.parametrize("path", [UNIT, COMMAND_UNIT], ids=lambda path: path.stem)
def test_systemd_takes_the_unit_and_the_service_may_do_little(path: Path, tmp_path: Path) -> None:
    program = find("systemd-analyze", "Debian's systemd has it")
    text = path.read_text()
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    text = text.replace("/srv/streaming/.venv/bin/python", str(python))
    text = text.replace("/srv/streaming", str(tmp_path))
    copy = tmp_path / path.name.replace("@.", "@run_alerts.")
    copy.write_text(text)
    # What it does not know it only tells.
    assert assert_content(program, "verify", copy) == ""
    # Of 100; 96 is a service that nothing is forbidden.
    assert_content(program, "security", "--offline=true", "--threshold=25", copy)
