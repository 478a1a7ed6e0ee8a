"""``manage.py publish``: one payload or many lines; what is wrong is said in one line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from django.core.management import CommandError, call_command

from tests.support import ROOT, TIMEOUT, Client, Server, client, environment, manage


@contextmanager
def publishing(
    server: Server, *arguments: str, stderr: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Run the command while its standard input stays open."""
    with subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), "publish", *arguments],
        env=environment(server.data_dir),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def standard_input(process: subprocess.Popen[str]) -> IO[str]:
    """Return the pipe into a process."""
    assert process.stdin is not None
    return process.stdin


async def numbers(page: Client, count: int) -> list[int]:
    """Return the numbers of the next so many events."""
    return [(await page.assert_data("events"))["n"] for _ in range(count)]


async def test_one_payload(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("events")
        done = server.manage("publish", "events", '{"n": 1, "text": "é"}')
        assert (done.returncode, done.stderr) == (0, "")
        assert await page.assert_data("events") == {"n": 1, "text": "é"}
        await page.assert_silent()


async def test_lines_of_standard_input(server: Server, token: str) -> None:
    lines = ['{"n": 0}', '  {"n": 1}\r', "", "   ", '{"n": 2}']  # the last without an end
    async with client(server, token) as page:
        await page.subscribe("events")
        done = server.manage("publish", "events", "-", stdin="\n".join(lines))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert await numbers(page, 3) == [0, 1, 2]
        await page.assert_silent()


async def test_twenty_thousand_lines_arrive_in_order(server: Server, token: str) -> None:
    lines = "".join(f'{{"n": {n}, "text": "payload {n}"}}\n' for n in range(20_000))
    async with client(server, token) as page:
        await page.subscribe("events")
        with publishing(server, "events", "-") as process:
            standard_input(process).write(lines)
            standard_input(process).close()
            assert await numbers(page, 20_000) == list(range(20_000))
            assert process.wait(TIMEOUT) == 0
        await page.assert_silent()


async def test_a_slow_producers_line_does_not_wait_for_the_next(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("events")
        with publishing(server, "events", "-") as process:
            stdin = standard_input(process)
            for n in range(3):
                stdin.write(f'{{"n": {n}}}\n{{"unfinished')
                stdin.flush()
                assert await page.assert_data("events") == {"n": n}
                stdin.write('": true, "n": -1}\n')
                stdin.flush()
                assert await page.assert_data("events") == {"unfinished": True, "n": -1}
            stdin.close()
            assert process.wait(TIMEOUT) == 0


async def test_a_bad_line_is_named_and_all_before_it_are_published(
    server: Server, token: str
) -> None:
    lines = '{"n": 1}\n\n{"n": 2}\n{"n": oops}\n{"n": 3}\n'
    async with client(server, token) as page:
        await page.subscribe("events")
        done = server.manage("publish", "events", "-", stdin=lines)
        assert (done.returncode, done.stdout) == (1, "")
        [line] = done.stderr.splitlines()
        assert line.startswith("CommandError: line 4: not JSON (")
        assert await numbers(page, 2) == [1, 2]
        await page.assert_silent()


async def test_bad_lines_are_skipped_on_request(server: Server, token: str) -> None:
    largest = json.dumps({"x": "y" * (1024 * 1024)})
    wrong = ["{", "[1]", "NaN", '{"n": NaN}', "5", "[" * 10_000, largest, '{"n": "\\ud800"}']
    lines = "".join(f'{text}\n{{"n": {n}}}\n' for n, text in enumerate([*wrong, "\xff"]))
    async with client(server, token) as page:
        await page.subscribe("events")
        with publishing(server, "events", "-", "--skip-invalid") as process:
            standard_input(process).buffer.write(lines.encode("latin-1"))  # type: ignore[attr-defined]
            output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (0, "")
        named = errors.splitlines()
        assert [line.split(":")[0] for line in named] == [f"line {2 * n + 1}" for n in range(9)]
        assert all(line.endswith("; skipped") for line in named)
        assert await numbers(page, 9) == list(range(9))
        await page.assert_silent()


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[]", "payload: expected an object, got list"),
        ("null", "payload: expected an object, got NoneType"),
        ('{"a": NaN}', "not JSON"),
        ("[" * 10_000, "not JSON (nested too deeply)"),
    ],
)
def test_a_wrong_payload_is_named_in_one_line(payload: str, said: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("publish", "events", payload)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert caught.value.returncode == 1


def test_an_unknown_type_is_a_wrong_use() -> None:
    with pytest.raises(CommandError, match=r"invalid choice: 'event' .*'events'.*'system_status'"):
        call_command("publish", "event", "{}")


@pytest.mark.processes
@pytest.mark.parametrize(("payload", "stdin"), [("{}", ""), ("-", '{"n": 1}\nbad\n')])
def test_without_a_server_it_says_so_in_one_line(data_dir: Path, payload: str, stdin: str) -> None:
    done = manage("publish", "events", payload, data_dir=data_dir, stdin=stdin)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("CommandError: the channel layer did not confirm")
    assert "manage.py serve" in line


def test_a_closed_standard_input_is_one_line(server: Server) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" <&-', "sh", sys.executable, "manage.py", "publish", "events", "-"],
        env=environment(server.data_dir),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("CommandError: standard input")


def test_a_terminal_sees_progress(server: Server) -> None:
    ours, theirs = pty.openpty()
    try:
        with publishing(server, "events", "-", stderr=theirs) as process:
            process.communicate('{"n": 1}\n{"n": 2}\n', timeout=60)
            assert process.returncode == 0
        assert b"\r2 published" in os.read(ours, 1000)
    finally:
        os.close(ours)
        os.close(theirs)


async def test_an_interrupt_ends_it_without_a_traceback(server: Server, token: str) -> None:
    async with client(server, token) as page:
        await page.subscribe("events")
        with publishing(server, "events", "-") as process:
            standard_input(process).write('{"n": 1}\n')
            standard_input(process).flush()
            assert await numbers(page, 1) == [1]
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT)
            assert (process.returncode, errors) == (130, "CommandError: interrupted\n")
