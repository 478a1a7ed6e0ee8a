"""What the commands that run rules and predictors share, in this process."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from realtime.analytics.processing.runner import NoLog
from realtime.management.processing import ProcessingCommand
from realtime.management.running import STOP_SIGNALS


class Waiting:
    """Runs until it is cancelled; a signal comes as soon as it runs."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number
        self.has_ended = False

    async def run(self) -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), self._number)).start()
        try:
            await asyncio.Event().wait()
        finally:
            self.has_ended = True


class WithoutLog:
    """Finds no log."""

    async def run(self) -> None:
        raise NoLog("there is no log")


class Command(ProcessingCommand):
    """Runs what it is given."""

    def __init__(self, runner: Any) -> None:
        super().__init__(stderr=io.StringIO())
        self._runner = runner

    def make_runner(self, options: dict[str, Any]) -> Any:
        self.say("running")
        return self._runner


@pytest.fixture(autouse=True)
def the_collector_as_it_was() -> Iterator[None]:
    """Undo what a command that runs does for speed."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_cancels_what_runs(number: signal.Signals) -> None:
    runner = Waiting(number)
    command = Command(runner)
    call_command(command)
    assert runner.has_ended
    assert command.stderr.getvalue().splitlines() == [
        "test_processing: running",
        "test_processing: stopped",
    ]


def test_without_a_log_it_is_one_line() -> None:
    with pytest.raises(CommandError, match=r"^there is no log$"):
        call_command(Command(WithoutLog()))


def test_a_module_with_definitions_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "defining.py").write_text("raise ValueError('wrong\\nhere')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CommandError, match=r"defining\.py:1: ValueError: wrong here$"):
        call_command(Command(WithoutLog()), "--module", "defining")
