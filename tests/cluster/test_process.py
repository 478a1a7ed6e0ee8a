"""Child processes: started, waited for, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from realtime.cluster.process import FIRST, LONG_LIFE, LONGEST, Backoff, ChildProcess
from tests.support import TIMEOUT

pytestmark = pytest.mark.processes

# Ignores SIGTERM, and says when it does.
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"
STUBBORN += "; time.sleep(600)"


@pytest.fixture
def children() -> Iterator[ExitStack]:
    """Leave no process behind."""
    with ExitStack() as stack:
        yield stack


def start(children: ExitStack, program: str, **options: object) -> ChildProcess:
    """Start a child that is killed after the test."""
    child = ChildProcess([sys.executable, "-S", "-c", program], **options)  # type: ignore[arg-type] # Popen's own
    children.callback(child.end, 0.0)
    if child.popen.stdout is not None:
        children.callback(child.popen.stdout.close)
    return child


def start_stubborn(children: ExitStack) -> ChildProcess:
    child = start(children, STUBBORN, stdout=subprocess.PIPE)
    assert child.popen.stdout is not None
    assert child.popen.stdout.readline() == b"\n"
    return child


def test_it_ends_when_it_is_told_to(children: ExitStack) -> None:
    child = start(children, "import time; time.sleep(600)")
    assert child.is_running()
    assert child.end(TIMEOUT)
    assert not child.is_running()
    assert child.describe_end() == "killed by SIGTERM"
    assert child.end(0.0)  # once more: nothing happens


def test_one_that_does_not_end_is_killed(children: ExitStack) -> None:
    child = start_stubborn(children)
    assert not child.end(0.05)
    assert child.describe_end() == "killed by SIGKILL"


def test_another_signal_can_tell_it_to_end(children: ExitStack) -> None:
    child = start(children, "import time; time.sleep(600)")
    assert child.end(TIMEOUT, signal.SIGHUP)
    assert child.describe_end() == "killed by SIGHUP"


def test_waiting_for_the_end_has_a_limit(children: ExitStack) -> None:
    child = start(children, "import sys; sys.stdin.read()", stdin=subprocess.PIPE)
    assert not child.wait(0.05)
    assert child.popen.stdin is not None
    child.popen.stdin.close()
    assert child.wait(TIMEOUT)
    assert child.describe_end() == "exit status 0"


def test_waiting_until_it_is_ready(children: ExitStack) -> None:
    child = start(children, "import sys; sys.stdin.read()", stdin=subprocess.PIPE)
    answers = iter([False, False, True])
    assert child.wait_until(lambda: next(answers), TIMEOUT)
    assert not child.wait_until(lambda: False, 0.05)
    child.kill()
    assert not child.wait_until(lambda: False, TIMEOUT)  # at once: it never will be
    assert child.popen.stdin is not None
    child.popen.stdin.close()


async def test_the_end_of_many_at_a_time(children: ExitStack) -> None:
    """More of them than a pool has threads."""
    started = [start(children, "import time; time.sleep(600)") for _ in range(12)]
    ends = [asyncio.ensure_future(child.ended()) for child in started]
    await asyncio.sleep(0)
    for child in started:
        child.send(signal.SIGTERM)
    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*ends)
    assert not any(child.is_running() for child in started)


def test_a_loop_that_ends_before_the_child(children: ExitStack) -> None:
    child = start(children, "import time; time.sleep(600)")

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await child.ended()

    asyncio.run(give_up())
    assert child.end(TIMEOUT)


def test_a_session_of_its_own(children: ExitStack) -> None:
    program = "import os, sys; print(os.getsid(0) == os.getpid(), sys.stdin.read())"
    before = os.getsid(0)
    for own_session in (True, False):
        child = start(children, program, own_session=own_session, stdout=subprocess.PIPE)
        assert child.popen.stdout is not None
        assert child.popen.stdout.read().decode() == f"{own_session} \n"  # and no standard input
    assert os.getsid(0) == before


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "killed by SIGKILL")],
)
def test_how_a_process_ended(code: int, text: str) -> None:
    child = ChildProcess.__new__(ChildProcess)
    child.popen = SimpleNamespace(returncode=code)  # type: ignore[assignment] # all that is asked
    assert child.describe_end() == text


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(lived=0.0) for _ in range(10)]
    assert pauses[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert pauses[-1] == LONGEST
    assert pauses == sorted(pauses)


def test_a_long_life_makes_them_begin_anew() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.pause(lived=LONG_LIFE)
    assert backoff.pause(lived=LONG_LIFE + 1) == FIRST
    assert backoff.pause(lived=0.0) == 2 * FIRST
