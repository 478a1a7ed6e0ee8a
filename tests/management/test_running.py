"""The base of commands that run until they are stopped, in this process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.management import call_command

from realtime.management.running import STOP_SIGNALS, RunningCommand
from tests.support import ROOT, TIMEOUT, environment, is_gone, wait_until


class Working(RunningCommand):
    """Sends itself a signal, and works on until it notices."""

    stop_signal: signal.Signals = signal.SIGTERM
    steps = 0

    def run(self, options: dict[str, Any]) -> None:
        with self.stopping():
            while not self.is_stopped():
                self.steps += 1
                threading.Timer(0.05, os.kill, (os.getpid(), self.stop_signal)).start()
                self.sleep(TIMEOUT)
        self.say("ended")


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_ends_the_sleep_and_the_command(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in STOP_SIGNALS]
    command = Working(stderr=io.StringIO())
    command.stop_signal = number
    began = time.monotonic()
    call_command(command)
    assert time.monotonic() - began < TIMEOUT / 2
    assert command.steps == 1
    assert command.stderr.getvalue() == "test_running: ended\n"
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == before


def test_handlers_are_put_back_after_an_error() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises(ZeroDivisionError), RunningCommand().stopping():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_sleep_lasts_as_long_as_it_should() -> None:
    began = time.monotonic()
    RunningCommand().sleep(0.3)
    assert 0.3 <= time.monotonic() - began < 0.3 + TIMEOUT / 2


def test_failing_is_told_once_and_working_again_too() -> None:
    command = Working(stderr=io.StringIO())
    for error in (None, OSError("no\nanswer"), OSError("still none"), None, None, OSError()):
        command.report(error)
    assert command.stderr.getvalue().splitlines() == [
        "test_running: not published, trying again: no answer",
        "test_running: publishing works again",
        "test_running: not published, trying again: OSError",
    ]


def test_nobody_need_read_what_it_says() -> None:
    stderr = io.StringIO()
    command = Working(stderr=stderr)
    stderr.close()
    command.say("is anybody there?")


@pytest.mark.processes
def test_it_ends_with_its_parent(data_dir: Path) -> None:
    """A parent that has started a command is killed before that has anything to do."""
    start = (
        "import os, subprocess, sys\n"
        "command = ['manage.py', 'publish_system_status', '--interval', '3600', '--parent']\n"
        "subprocess.run([sys.executable, *command, str(os.getpid())])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start],
        cwd=ROOT,
        env=environment(data_dir),
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stderr is not None
        assert parent.stderr.readline().startswith("publish_system_status: each 3600 seconds")
        [child] = psutil.Process(parent.pid).children()
        parent.kill()
        wait_until(lambda: is_gone(child))
