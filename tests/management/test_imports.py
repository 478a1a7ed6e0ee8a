"""What commands import: Twisted and Daphne take their time, and only servers need them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT, TIMEOUT, environment

PROGRAM = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", *sys.argv[1:]])
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def run(program: str, *arguments: str, data_dir: Path) -> list[str]:
    """Run a program with this project's settings; return the words of its last line of errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program, *arguments],
        env=environment(data_dir, DJANGO_SETTINGS_MODULE="streaming_site.settings"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT * 6,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()[-1].split()


@pytest.mark.processes
@pytest.mark.parametrize("command", [("check",), ("create_token", "reader"), ("migrate",)])
def test_a_command_does_not_import_a_server(command: tuple[str, ...], data_dir: Path) -> None:
    packages = run(PROGRAM, *command, data_dir=data_dir)
    assert {"django", "realtime"} <= set(packages)
    assert not {"autobahn", "daphne", "twisted"} & set(packages)


@pytest.mark.processes
@pytest.mark.parametrize("module", ["daphne", "http", "websocket", "worker"])
def test_whichever_part_of_the_server_is_first_the_loop_is_that_of_asyncio(
    module: str, data_dir: Path
) -> None:
    program = (
        f"import sys, django; django.setup(); import realtime.server.{module};"
        "print(type(sys.modules['twisted.internet.reactor']).__name__, file=sys.stderr)"
    )
    assert run(program, data_dir=data_dir) == ["AsyncioSelectorReactor"]
