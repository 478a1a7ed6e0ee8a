"""The host's numbers and health: readings, limits of containers, messages, and the command."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from realtime.log import get_log
from realtime.monitoring.snapshot import Snapshot
from realtime.monitoring.system_status import (
    DEFAULTS,
    LOOP_LAG,
    HealthLimits,
    Host,
    HostReporter,
    grade,
)
from realtime.protocol import PAYLOAD_KEYS
from tests.support import ROOT, TIMEOUT, Server, client, environment, manage
from tests.support.layers import close_layer, running_valkey

Payload = dict[str, Any]


# Readings


@pytest.mark.parametrize(
    ("readings", "checks"),
    [
        ({"cpu_percent": 89.9, "load_1m": 99.0}, {"cpu_percent": "ok"}),
        (
            {"cpu_percent": 90.0, "disk_percent": 95.0},
            {"cpu_percent": "warning", "disk_percent": "critical"},
        ),
        ({"memory_percent": 100.0}, {"memory_percent": "critical"}),
        ({"load_per_cpu": 1.5, "cpu_percent": None}, {"load_per_cpu": "warning"}),
        ({}, {}),
    ],
)
def test_grades(readings: Payload, checks: dict[str, str]) -> None:
    assert grade(readings)["checks"] == checks


def test_the_worst_counts_and_every_reason_is_named() -> None:
    health = grade({"cpu_percent": 91.0, "disk_percent": 96.5, "memory_percent": 1.0})
    assert health["status"] == "critical"
    assert health["reasons"] == [
        "cpu_percent is 91 (warning from 90 on)",
        "disk_percent is 96.5 (critical from 95 on)",
    ]
    assert grade({})["status"] == "ok"


def test_the_host_is_read(tmp_path: Path) -> None:
    readings = Host(tmp_path).read()
    assert readings["disk_percent"] == pytest.approx(
        psutil.disk_usage(str(tmp_path)).percent, abs=2
    )
    assert 0 <= readings["memory_percent"] <= 100
    assert len(json.dumps(readings, allow_nan=False)) < 1024


def test_what_the_system_does_not_tell_is_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError

    monkeypatch.setattr(psutil, "getloadavg", refuse)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    readings = Host(tmp_path).read()
    assert readings["load_1m"] is None and readings["load_per_cpu"] is None
    assert readings["disk_read_bytes_per_second"] is None


def container(root: Path, memory: str, cpu: str, seconds: float) -> None:
    """Write what the kernel shows of a container's control group."""
    files = {
        "memory.max": memory,
        "memory.current": str(600 * 1024),
        "memory.stat": f"anon 1\ninactive_file {100 * 1024}",
        "cpu.max": cpu,
        "cpu.stat": f"usage_usec {round(seconds * 1e6)}\nuser_usec 1",
    }
    for name, text in files.items():
        (root / name).write_text(text + "\n")


def test_in_a_container_its_limits_count(tmp_path: Path) -> None:
    now = [0.0]
    container(tmp_path, str(1000 * 1024), "150000 100000", 10.0)
    host = Host(tmp_path, lambda: now[0], limits=tmp_path)
    now[0] = 4.0
    container(tmp_path, str(1000 * 1024), "150000 100000", 13.0)
    readings = host.read()
    assert readings["memory_percent"] == 50.0
    assert readings["memory_total_bytes"] == 1000 * 1024
    assert readings["cpus"] == 1.5
    assert readings["cpu_percent"] == 50.0  # 3 of 4 seconds times 1.5 processors


def test_a_container_without_limits_has_the_hosts(tmp_path: Path) -> None:
    container(tmp_path, "max", "max 100000", 10.0)
    for limits in (tmp_path, tmp_path / "none"):
        readings = Host(tmp_path, limits=limits).read()
        assert readings["memory_total_bytes"] == psutil.virtual_memory().total
        assert readings["cpus"] == os.cpu_count()


# Messages


def snapshot(host: str = "a", **changes: Any) -> Snapshot:
    """Return the snapshot of a process on a host, with changes."""
    base = Snapshot(
        process="a-1",
        host=host,
        pid=os.getpid(),
        at=20.0,
        started=10.0,
        draining=False,
        connections=3,
        subscriptions={"events": 2},
        buffered=5,
        resident=7,
        received_per_second=1.0,
        published_per_second=2.0,
        delivered_per_second=3.0,
        lag=None,
        loop_lag=0.01,
        round_trip=0.001,
        counters={},
        by_type={},
        closes={},
        distributions={},
    )
    return msgspec.structs.replace(base, **changes)


def test_processes_of_this_host_are_reported() -> None:
    reporter = HostReporter("a")
    for cpu in False, True:
        messages = reporter.messages({"cpu_percent": 1.0}, [snapshot(), snapshot("b")], "then")
        host, process = messages["metrics"]
        assert host == {"name": "host", "host": "a", "timestamp": "then", "cpu_percent": 1.0}
        assert (process["name"], process["process"]) == ("server_process", "a-1")
        assert (process["connections"], process["uptime_seconds"]) == (3, 10.0)
        assert (process["cpu_percent"] is not None) == cpu  # since the look before


def test_serving_is_critical_when_loops_are_late_or_nobody_serves() -> None:
    reporter = HostReporter("a")

    def serving(*processes: Snapshot) -> Payload:
        statuses = reporter.messages({}, processes, "then")["system_status"]
        return next((status for status in statuses if status["component"] == "serving"), {})

    assert serving(snapshot("b")) == {}
    assert serving(snapshot())["status"] == "ok"
    late = serving(snapshot(), snapshot(loop_lag=1.2))
    assert late["status"] == "critical"
    assert late["message"] == "loop_lag_seconds is 1.2 (critical from 1 on)"
    assert (late["processes"], late["connections"]) == (2, 6)
    gone = serving(snapshot("b"))
    assert (gone["status"], gone["processes"]) == ("critical", 0)
    assert gone["reasons"] == ["no process serves on this host any more"]


def test_thresholds_can_be_others() -> None:
    reporter = HostReporter(
        "a", DEFAULTS | {"cpu_percent": HealthLimits(1, 2), LOOP_LAG: HealthLimits(5, 6)}
    )
    host, serving = reporter.messages({"cpu_percent": 1.5}, [snapshot(loop_lag=4)], "then")[
        "system_status"
    ]
    assert (host["status"], serving["status"]) == ("warning", "ok")


# The command


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def start(data_dir: Path, *arguments: str) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "manage.py", "publish_system_status", *arguments],
                    env=environment(data_dir),
                    cwd=ROOT,
                    text=True,
                    stderr=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            assert process.stderr is not None
            assert process.stderr.readline().startswith("publish_system_status: each ")
            return process

        yield start


async def test_a_client_sees_the_host_and_its_serving_processes(
    server: Server, token: str, start: Start
) -> None:
    here = {"host": socket.gethostname()}
    seen: dict[str, Payload] = {}
    async with client(server, token) as page:
        await page.subscribe("metrics", here)
        await page.subscribe("system_status", here)
        options = ["--interval", "0.2", "--memory", "0.001", "0.002"]
        process = await asyncio.to_thread(start, server.data_dir, *options)
        while len(seen) < 4 or seen["server_process"]["cpu_percent"] is None:
            data = (await page.receive())["data"]
            payload = data[PAYLOAD_KEYS[data["subscription_type"]]]
            seen[payload.get("name") or f"{payload['component']} status"] = payload
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, TIMEOUT) == 0
    assert seen.keys() == {"host", "server_process", "host status", "serving status"}
    assert seen["host"]["memory_total_bytes"] > 1e6
    assert seen["server_process"]["pid"] == server.process.pid
    assert seen["server_process"]["connections"] >= 0
    assert seen["host status"]["checks"]["memory_percent"] == "critical"
    assert "(critical from 0.002 on)" in seen["host status"]["message"]
    assert seen["serving status"]["processes"] == 1


async def statuses() -> list[Payload]:
    """Return what is in the log of ``system_status``."""
    chunk = await get_log().read("system_status", 0)
    return [msgspec.json.decode(entry.body) for entry in chunk.entries]


@pytest.mark.processes
async def test_once_publishes_once(data_dir: Path) -> None:
    with running_valkey(data_dir):
        arguments = "publish_system_status", "--once", "--interval", "0.1"
        done = await asyncio.to_thread(manage, *arguments, data_dir=data_dir)
        assert done.returncode == 0, done.stderr
        # Nobody serves here, nor has anyone.
        assert [status["component"] for status in await statuses()] == ["host"]
        await close_layer()


@pytest.mark.processes
async def test_while_the_layer_is_away_it_says_so_once_and_goes_on(
    data_dir: Path, start: Start
) -> None:
    with running_valkey(data_dir) as valkey:
        process = start(data_dir, "--interval", "0.1")
        assert process.stderr is not None
        while not await statuses():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.02)
        await close_layer()
        valkey.stop()
        line = await asyncio.to_thread(process.stderr.readline)
        assert line.startswith("publish_system_status: not published, trying again: ")
        valkey.ensure_running()
        line = await asyncio.to_thread(process.stderr.readline)
        assert line == "publish_system_status: publishing works again\n"
        process.terminate()
        assert await asyncio.to_thread(process.wait, TIMEOUT) == 0
        assert process.stderr.read() == ""


@pytest.mark.processes
def test_without_a_layer_once_fails_in_one_line(data_dir: Path) -> None:
    done = manage("publish_system_status", "--once", "--interval", "0.1", data_dir=data_dir)
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("publish_system_status: each 0.1 seconds")
    assert second.startswith("CommandError: not published: ")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--interval", "0"], "'0': expected 0.1 to 3600 seconds"),
        (["--interval", "nan"], "'nan': expected 0.1 to 3600 seconds"),
        (["--cpu", "95", "90"], "--cpu: the warning comes first"),
        (["--disk", "-1", "90"], "--disk"),
        (["--memory", "inf", "inf"], "'inf': expected a number above 0"),
        (["--path", "/nowhere/at/all"], "--path: there is no '/nowhere/at/all'"),
    ],
)
def test_wrong_options_are_refused(data_dir: Path, options: list[str], error: str) -> None:
    done = manage("publish_system_status", "--once", *options, data_dir=data_dir)
    assert done.returncode and error in done.stderr
    assert "Traceback" not in done.stderr
