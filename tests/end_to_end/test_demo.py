"""``serve --demo``: predictions and system status come from the commands that it runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
import pytest

from tests.support import TIMEOUT, Server, client, is_gone, running, wait_until

COMMANDS = {
    "replay_demo",
    "run_aggregations",
    "run_alerts",
    "run_predictors",
    "publish_system_status",
}


def commands(server: Server) -> dict[str, psutil.Process]:
    """Return the commands that a server runs, by name."""
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            found |= dict.fromkeys(COMMANDS & set(child.cmdline()), child)
    return found


async def test_flights_turn_into_predictions_and_the_host_is_reported(data_dir: Path) -> None:
    with running(data_dir, "--demo", "--demo-speed", "3600") as server:
        async with client(server, server.new_token()) as page:
            await page.subscribe("predictions", {"kind": "outcome"})
            outcome = await page.assert_data("predictions")
            assert (outcome["predictor"], outcome["source"]["type"]) == ("arrival_delay", "events")
            assert outcome["scored_flights"] >= 1
        async with client(server, server.new_token()) as page:
            await page.subscribe("system_status", {"component": ["host", "serving"]})
            status = await page.assert_data("system_status")
            assert status["status"] in {"ok", "warning", "critical"}
        children = commands(server)
    assert children.keys() == COMMANDS
    assert all(is_gone(child) for child in children.values())
    assert "another process" not in server.log() and "No such file" not in server.log()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_its_commands_end_with_a_server_that_is_killed(data_dir: Path, workers: str) -> None:
    with running(data_dir, "--demo", "--workers", workers) as server:
        wait_until(lambda: commands(server).keys() == COMMANDS)
        children = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        server.process.wait()
        wait_until(lambda: all(map(is_gone, children)), TIMEOUT * 2)


async def test_a_command_that_is_killed_is_started_again(data_dir: Path) -> None:
    with running(data_dir, "--demo", "--demo-speed", "3600") as server:
        server.may_fail = True
        wait_until(lambda: commands(server).keys() == COMMANDS)
        before = commands(server)
        for child in before.values():
            child.kill()
        wait_until(lambda: all(map(is_gone, before.values())))
        wait_until(lambda: commands(server).keys() == COMMANDS, TIMEOUT * 2)
        after = commands(server)
        async with client(server, server.new_token()) as page:
            await page.subscribe("aggregations")
            await page.assert_data("aggregations")
            for command in COMMANDS:
                assert f"{command} ended: killed by SIGKILL; it is started again" in server.log()
    assert all(is_gone(child) for child in after.values())
