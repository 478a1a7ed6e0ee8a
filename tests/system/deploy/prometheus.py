"""Prometheus with the files of deploy/prometheus: checked by promtool, run, and asked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from tests.support import ROOT, TIMEOUT, free_port, lacks, wait_until

FOLDER = ROOT / "deploy/prometheus"
DASHBOARD = ROOT / "deploy/grafana/streaming.json"
# What Grafana puts in place of its variables; the job as scrape.yml calls it, all hosts and types.
VARIABLES = {
    "$__rate_interval": "15s",
    "$__range": "1h",
    "$job": "streaming",
    "$instance": ".*",
    "$type": ".*",
}


def load(name: str) -> Any:
    """Return one of the files."""
    return yaml.safe_load((FOLDER / name).read_text())


def fill(expression: str) -> str:
    """Return a query of the dashboard as Grafana sends it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, rows too."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> dict[str, str]:
    """Return every query of the dashboard's panels, by panel and letter, as Grafana sends it."""
    return {
        f"{panel['title']}, {target['refId']}": fill(target["expr"])
        for panel in panels()
        for target in panel.get("targets", [])
    }


def variables() -> dict[str, tuple[str, str]]:
    """Return what the dashboard's variables are made of: series, and the label whose values."""
    found = {}
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert asked is not None, variable
            found[variable["name"]] = (fill(asked[1]), asked[2])
    return found


def names_in(expression: str) -> set[str]:
    """Return the names of this project's metrics in a query."""
    return set(re.findall(r"\brealtime_\w+", expression))


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which must find nothing wrong. Skips if it is not installed."""
    program = shutil.which("promtool") or lacks("promtool is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def jobs(targets: Sequence[str], token_file: Path) -> list[dict[str, Any]]:
    """Return the scraping of deploy/prometheus, with these targets, each second.

    Kubernetes' pods are two: the first target is one that serves, the other is the migration's.
    """
    (host,) = load("scrape.yml")["scrape_configs"]
    host["static_configs"] = [{"targets": list(targets)}]
    (pod,) = load("scrape-kubernetes.yml")["scrape_configs"]
    del pod["kubernetes_sd_configs"]
    pod["job_name"] = "kubernetes"
    pod["static_configs"] = [
        {
            "targets": [targets[0]],
            "labels": {
                "__meta_kubernetes_namespace": "streaming",
                "__meta_kubernetes_pod_name": f"streaming-{component}",
                "__meta_kubernetes_pod_label_app_kubernetes_io_name": "streaming",
                "__meta_kubernetes_pod_label_app_kubernetes_io_component": component,
                "__meta_kubernetes_pod_container_port_name": "http",
            },
        }
        for component in ("server", "migrate")
    ]
    for job in (host, pod):
        job["scrape_interval"] = "1s"
        job["authorization"]["credentials_file"] = str(token_file)
    return [host, pod]


class Prometheus:
    """A running Prometheus with the alerts of deploy/prometheus."""

    def __init__(self, folder: Path, scrape_configs: list[dict[str, Any]]) -> None:
        self._folder = folder
        self._port = free_port()
        self._configuration = folder / "prometheus.yml"
        everything = {
            "global": {"evaluation_interval": "1s"},
            "rule_files": [str(FOLDER / "alerts.yml")],
            "scrape_configs": scrape_configs,
        }
        self._configuration.write_text(yaml.safe_dump(everything))

    def __enter__(self) -> Self:
        program = shutil.which("prometheus") or lacks("Prometheus is not installed")
        promtool("check", "config", self._configuration)
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    program,
                    f"--config.file={self._configuration}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=TIMEOUT):
                return True
        except OSError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        """Return what its HTTP API answers."""
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{query}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def ask(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the present values of a query, by their sorted labels."""
        return {
            tuple(sorted(series["metric"].items())): float(series["value"][1])
            for series in self.get("query", query=expression)["result"]
        }
