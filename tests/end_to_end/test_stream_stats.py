"""``stream_stats --watch`` as someone sees it: in a terminal, which may be small and change."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyte
import pytest

from realtime.testing.server import environment
from tests.support import ROOT, TIMEOUT, Server, running
from tests.support.redis_servers import RedisServer

COMMAND = [sys.executable, "manage.py", "stream_stats", "--watch"]
# Leaves the alternate screen and shows the cursor.
RESTORED = b"\x1b[?1049l", b"\x1b[?25h"
NEEDED = "process conns subs in/s out/s lag ms buffered refused"
# Of figures two seconds old, shown every two.
SHOWN = 30.0
# Messages that are published while someone watches.
MORE = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of whose figures all can be expected."""
    with running(tmp_path_factory.mktemp("watched")) as started:
        yield started


class Terminal:
    """A terminal in which a command runs."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.ours, self._theirs = pty.openpty()
        self._set_size(columns, rows)

    def run(self, data_dir: Path, **variables: str) -> None:
        """Start the command, with the terminal as its own."""
        self.process = subprocess.Popen(
            COMMAND,
            cwd=ROOT,
            env=_without_size(environment(data_dir, **variables)) | {"TERM": "xterm-256color"},
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(self._theirs)

    def _set_size(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, size)

    def resize(self, columns: int, rows: int) -> None:
        """Change its size, as someone who pulls at a window."""
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)

    def read(self, seconds: float) -> None:
        """Show what the command writes, if it does."""
        if select.select([self.ours], [], [], seconds)[0]:
            part = os.read(self.ours, 65_536)
            self.written += part
            self._stream.feed(part)

    def lines(self) -> list[str]:
        """Return what is to be seen."""
        return [line.rstrip() for line in self.screen.display]

    def wait_for(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Return what is to be seen once it is as wanted."""
        deadline = time.monotonic() + SHOWN
        while not condition(self.lines()):
            assert time.monotonic() < deadline, "\n".join(self.lines())
            self.read(0.1)
        return self.lines()

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self.ours, key)

    def assert_left(self, code: int) -> None:
        """Check that the command has ended, and left the terminal as it was."""
        deadline = time.monotonic() + TIMEOUT
        with suppress(OSError):  # the command has closed its end
            while time.monotonic() < deadline:
                self.read(0.1)
        assert self.process.wait(TIMEOUT) == code
        assert all(sequence in self.written[-200:] for sequence in RESTORED)
        assert b"Traceback" not in self.written


@contextmanager
def watching(data_dir: Path, **variables: str) -> Iterator[Terminal]:
    """Watch the figures in a terminal of the usual size."""
    terminal = Terminal(80, 24)
    terminal.run(data_dir, **variables)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.ours)


def _without_size(variables: dict[str, str]) -> dict[str, str]:
    """Leave out what would be believed more than the terminal; a test runner may have set it."""
    return {name: value for name, value in variables.items() if name not in ("COLUMNS", "LINES")}


def row(lines: list[str], name: str) -> list[str]:
    """Return the cells of the first line that begins so."""
    return next((line.split() for line in lines if line.split()[:1] == [name]), [])


async def test_in_80_columns(server: Server) -> None:
    async with server.connect(server.new_token()) as page:
        await page.subscribe("events")
        positions = server.publish("events", *({"n": n} for n in range(5)))
        await page.assert_positions(positions)
        # In a thread: meanwhile the client reads, and answers pings.
        look = asyncio.create_task(asyncio.to_thread(look_in_80_columns, server))
        for _ in range(MORE):
            await page.receive(SHOWN)
        await look


def look_in_80_columns(server: Server) -> None:
    with watching(server.data_dir) as terminal:
        lines = terminal.wait_for(
            lambda lines: (
                row(lines, "events")[1:5] == ["1", "5", "5", "5"]
                and row(lines, "all")[1:3] == ["1", "1"]
            )
        )
        heads = next(line for line in lines if "process " in line)
        assert " ".join(heads.split()).startswith(NEEDED)
        assert any(f"-{server.process.pid}-" in line for line in lines)
        assert not any("…" in line[20:] for line in lines)
        # It goes on: what is published now is seen, and how many a second.
        server.publish("events", *({"n": n} for n in range(MORE)))
        terminal.wait_for(
            lambda lines: row(lines, "events")[1:4] == ["1", f"{MORE + 5}", f"{MORE + 5}"]
        )
        # A wider terminal has more columns, at once; a narrower one fewer.
        terminal.resize(140, 40)
        wide = terminal.wait_for(lambda lines: any("repaired" in line for line in lines[9:]))
        assert any("loop ms" in line and "memory" in line for line in wide)
        terminal.resize(60, 20)
        terminal.wait_for(
            lambda lines: any("conns" in line and "refused" not in line for line in lines)
        )
        terminal.press(b"\x03")
        terminal.assert_left(0)


@pytest.mark.parametrize("when", ["it has begun to draw", "it has drawn"])
def test_what_ends_it(server: Server, when: str) -> None:
    with watching(server.data_dir) as terminal:
        if when == "it has drawn":
            terminal.wait_for(lambda lines: bool(row(lines, "all")))
        else:
            terminal.wait_for(lambda _: b"\x1b[?1049h" in terminal.written)
        terminal.process.send_signal(signal.SIGTERM)
        terminal.assert_left(128 + signal.SIGTERM)


def test_a_layer_that_is_away_for_a_while(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as shared:
        variables = {"REDIS_URL": shared.url}
        with running(tmp_path, **variables) as served:
            served.may_fail = True
            with watching(tmp_path, **variables) as terminal:
                terminal.wait_for(lambda lines: "1 process," in lines[0])
                shared.kill()
                lines = terminal.wait_for(lambda lines: "does not answer" in lines[0])
                assert row(lines, "all")  # what was known last
                shared.start()
                terminal.wait_for(
                    lambda lines: "1 process," in lines[0] and "does not" not in lines[0]
                )
                terminal.press(b"\x03")
                terminal.assert_left(0)


def test_into_a_pipe(server: Server) -> None:
    for options, wanted in (([], b"1 process, hosts: 1"), (["--json"], b'"processes": 1')):
        with subprocess.Popen(
            [*COMMAND, *options],
            cwd=ROOT,
            env=environment(server.data_dir),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            for _ in range(2):
                while wanted not in (line := process.stdout.readline()):
                    assert line
            if options:
                assert json.loads(line)["log"].keys() >= {"events"}
            process.stdout.close()  # as `head` does
            assert process.wait(TIMEOUT) == 0
            assert process.stderr.read() == b""
