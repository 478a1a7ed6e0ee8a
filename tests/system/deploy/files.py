"""What the files of deploy/ say: command lines, variables, containers. Knows their formats."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT, lacks

DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker/Dockerfile"
COMPOSE = DEPLOY / "docker/compose.yaml"
UNIT = DEPLOY / "systemd/streaming.service"
# A template, and what is named where it says how to use it.
COMMAND_UNIT = DEPLOY / "systemd/streaming@.service"
KUBERNETES = DEPLOY / "kubernetes"
# What someone has to fill in, in examples.
BLANK, PASSWORD = re.compile(r"(?m)^(\w*SECRET_KEY)=$"), "PASSWORD"
SECRET = "a-key-for-tests-that-is-long-enough-for-django-to-take-it-for-random-0123456789"


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the Dockerfile's instructions: name and the rest, on one line."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, rest = line.partition(" ")
        yield name, " ".join(rest.split())


def instruction(name: str) -> str:
    """Return the rest of an instruction that there is once."""
    (found,) = [rest for one, rest in instructions() if one == name]
    return found


def image_variables() -> dict[str, str]:
    """Return the variables of a container, but for where its programs are."""
    pairs = (pair.split("=", 1) for pair in shlex.split(instruction("ENV")))
    return {name: value for name, value in pairs if name != "PATH"}


def compose() -> Any:
    """Return the Compose file's contents."""
    return yaml.safe_load(COMPOSE.read_text())


def manifests() -> dict[str, Any]:
    """Return the manifests of Kubernetes by file, the example of a secret too."""
    paths = sorted(set(KUBERNETES.glob("*.yaml")) - {KUBERNETES / "kustomization.yaml"})
    return {path.name: yaml.safe_load(path.read_text()) for path in paths}


def kustomization() -> Any:
    """Return what is said of all the manifests."""
    return yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())


def configuration() -> dict[str, str]:
    """Return the variables of Kubernetes' pods that are no secrets."""
    (generated,) = kustomization()["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generated["literals"])


def example(path: Path) -> dict[str, str]:
    """Return the variables of an ``.env.example``, as if someone had filled it in."""
    text = BLANK.sub(rf"\1={SECRET}", path.read_text())
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def unit(name: str) -> list[str]:
    """Return the values of a setting of the systemd unit."""
    return re.findall(rf"(?m)^{name}=(.*)$", UNIT.read_text())


def command_lines() -> dict[str, list[str]]:
    """Return every command line of ``manage.py``, without these words, by where it is."""
    found = {"Dockerfile": json.loads(instruction("CMD"))}
    for name, service in compose()["services"].items():
        if service.get("image") == "streaming":
            found[f"compose.yaml {name}"] = service["command"]
    for name, manifest in manifests().items():
        for container in containers(manifest):
            found[f"{name} {container['args'][0]}"] = container["args"]
    for line in unit("ExecStartPre") + unit("ExecStart") + command_units():
        program, script, *arguments = shlex.split(line)
        assert (program.lstrip("-"), script) == ("/srv/streaming/.venv/bin/python", "manage.py")
        found[f"streaming.service {arguments[0]}"] = arguments
    return found


def command_units() -> list[str]:
    """Return the command lines of the template's instances that its head names."""
    text = COMMAND_UNIT.read_text()
    (line,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
    return [line.replace("%i", name) for name in re.findall(r"streaming@(\w+)", text)]


def containers(manifest: Any) -> list[dict[str, Any]]:
    """Return the containers that a manifest has, if it has any."""
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    return list(pod.get("containers", []))


def find(program: str, package: str) -> str:
    """Return where a program is, on PATH or beside Python. Skips if it is not there."""
    beside = shutil.which(program, path=str(Path(sys.executable).parent))
    return beside or shutil.which(program) or lacks(f"{program} is not installed: {package}")


def assert_content(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a checker, which must find nothing and say nothing of errors; return its output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout
