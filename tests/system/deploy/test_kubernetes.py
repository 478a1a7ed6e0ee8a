"""The manifests of Kubernetes: by its schemas, by ``kubectl kustomize``, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml
from django.urls import get_resolver

from realtime.config import get_streaming_config
from realtime.http.event_stream import PREFIX
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.routing import PATHS
from tests.system.deploy.files import (
    DEPLOY,
    KUBERNETES,
    assert_content,
    configuration,
    containers,
    find,
    instruction,
    kustomization,
    manifests,
)
from tests.system.deploy.prometheus import load
from tests.system.deploy.test_files import seconds

# What has no successor yet is in use; every version between is too.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
INSIDE = {"/metrics", "/healthz", "/readyz"}


@pytest.fixture(scope="module")
def built() -> list[Any]:
    """What ``kubectl kustomize`` makes of all."""
    program = find("kubectl", "Debian's kubernetes-client has it")
    return list(yaml.safe_load_all(assert_content(program, "kustomize", KUBERNETES)))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_are_valid(version: str) -> None:
    for name, manifest in manifests().items():
        assert manifest["kind"], name
        kubernetes_validate.validate(manifest, version, strict=True)
    wrong = manifests()["deployment.yaml"]
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_kustomize_makes_is_valid(built: list[Any], version: str) -> None:
    for manifest in built:
        kubernetes_validate.validate(manifest, version, strict=True)
        assert manifest["kind"] == "Namespace" or manifest["metadata"]["namespace"] == "streaming"


def test_kustomize_takes_all_but_the_example(built: list[Any]) -> None:
    listed = set(kustomization()["resources"])
    assert listed == set(manifests()) - {"secret.example.yaml"}
    kinds = [manifest["kind"] for manifest in built]
    assert sorted(kinds) == sorted(["ConfigMap", *(manifests()[name]["kind"] for name in listed)])
    images = {one["image"] for manifest in built for one in containers(manifest)}
    assert images == {"registry.example.com/streaming:1"}
    (config,) = [manifest for manifest in built if manifest["kind"] == "ConfigMap"]
    assert config["data"] == configuration()
    # Its name changes with it, and every pod asks for it by that name.
    for manifest in built:
        for container in containers(manifest):
            assert container["envFrom"][0]["configMapRef"]["name"] == config["metadata"]["name"]


def test_names_lead_to_each_other() -> None:
    deployment, service = manifests()["deployment.yaml"], manifests()["service.yaml"]
    name = deployment["metadata"]["name"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        manifests()["disruption-budget.yaml"]["spec"]["selector"]["matchLabels"],
    ]
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    for selector in [*selectors, spread["labelSelector"]["matchLabels"]]:
        assert selector == labels
    # No client is sent to a migration or a command.
    assert manifests()["migrate.yaml"]["spec"]["template"]["metadata"]["labels"] != labels
    commands = manifests()["commands.yaml"]["spec"]
    assert commands["selector"]["matchLabels"] == commands["template"]["metadata"]["labels"]
    assert commands["selector"]["matchLabels"] != labels
    target = manifests()["autoscaler.yaml"]["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    secret = manifests()["secret.example.yaml"]["metadata"]["name"]
    for manifest in (deployment, manifests()["commands.yaml"], manifests()["migrate.yaml"]):
        for container in containers(manifest):
            assert container["envFrom"][1]["secretRef"]["name"] == secret
    (port,) = service["spec"]["ports"]
    for path in ingress_paths():
        backend = path["backend"]["service"]
        assert backend == {"name": service["metadata"]["name"], "port": {"name": port["name"]}}


def test_ports_and_probes_are_the_servers() -> None:
    (container,) = containers(manifests()["deployment.yaml"])
    (port,) = container["ports"]
    arguments = container["args"]
    assert arguments[arguments.index("--port") + 1] == str(port["containerPort"])
    assert str(port["containerPort"]) == instruction("EXPOSE")
    assert manifests()["service.yaml"]["spec"]["ports"][0]["targetPort"] == port["name"]
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}


def test_pods_are_allowed_in_a_restricted_namespace() -> None:
    """As Kubernetes' Pod Security Standards have it (kubernetes.io/docs)."""
    label = "pod-security.kubernetes.io/enforce"
    assert manifests()["namespace.yaml"]["metadata"]["labels"][label] == "restricted"
    for name in ("deployment.yaml", "commands.yaml", "migrate.yaml"):
        pod = manifests()[name]["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {tuple(set(volume) - {"name"}) for volume in pod["volumes"]} == {("emptyDir",)}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]


def ingress_paths() -> list[Any]:
    """Return the paths that are reached from outside."""
    (rule,) = manifests()["ingress.yaml"]["spec"]["rules"]
    return list(rule["http"]["paths"])


def is_let_in(path: str) -> bool:
    """Tell whether the ingress lets a path in; by its elements, as Kubernetes has it."""
    for one in ingress_paths():
        if path == one["path"]:
            return True
        if one["pathType"] == "Prefix" and path.startswith(one["path"].rstrip("/") + "/"):
            return True
    return False


def served() -> Iterator[str]:
    """Yield what the site serves."""
    for pattern in get_resolver().url_patterns:
        first = str(pattern.pattern)
        for inner in getattr(pattern, "url_patterns", [None]):
            rest = "" if inner is None else str(inner.pattern)
            yield "/" + first + rest
    yield from PATHS
    yield from (PREFIX + kind for kind in SUBSCRIPTION_TYPES)
    yield "/static/realtime/client.js"


def test_what_is_for_the_outside_is_let_in_and_nothing_else() -> None:
    paths = set(served())
    assert paths > INSIDE
    assert {path for path in paths if not is_let_in(path)} == INSIDE
    hosts = manifests()["ingress.yaml"]["spec"]
    assert hosts["tls"][0]["hosts"] == [hosts["rules"][0]["host"]]
    assert hosts["rules"][0]["host"] == configuration()["DJANGO_ALLOWED_HOSTS"]


def test_the_ingress_waits_longer_than_between_pings() -> None:
    annotations = manifests()["ingress.yaml"]["metadata"]["annotations"]
    waits = {name: value for name, value in annotations.items() if "read-timeout" in name}
    assert len(waits) == 2
    for value in waits.values():
        assert seconds(value) > get_streaming_config().websocket.ping_interval


def test_the_autoscaler_adds_pods_before_one_is_full() -> None:
    metric = manifests()["autoscaler.yaml"]["spec"]["metrics"][0]["pods"]
    (rule,) = load("adapter.yml")["rules"]
    assert metric["metric"]["name"] == rule["name"]["as"]
    room = int(configuration()["STREAMING_WEBSOCKET__MAX_CONNECTIONS"])
    assert 0 < int(metric["target"]["averageValue"]) < room
    assert DEPLOY.joinpath("prometheus/adapter.yml").exists()
