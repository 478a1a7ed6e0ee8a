"""Every case passes.

``AUTOBAHN_CASES=all pytest tests/system/autobahn`` runs all 517, as CI does; otherwise, of the 216
about compression, one in six.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import OtherServer

pytest.importorskip("kosoku", reason="kosoku has no wheel for this platform")

SECTIONS = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
# Those about compression, the longest first.
COMPRESSION = ["12.1.*", "13.3.*"]
if os.environ.get("AUTOBAHN_CASES") == "all":
    COMPRESSION = [f"12.{part}.*" for part in (3, 2, 5, 4, 1)]
    COMPRESSION += [f"13.{part}.*" for part in (5, 3, 6, 7, 1, 4, 2)]
# Case 9 sends messages of 16 MiB, and waits for no ping.
VARIABLES = {
    "max_message_size": str(32 * 1024 * 1024),
    "max_buffered_bytes": str(64 * 1024 * 1024),
    "ping_interval": "3600",
}
# Without a log of each connection, which nobody reads here.
PROGRAM = ("-m", "daphne", "-v", "0", "-p", "{port}", "tests.system.autobahn.echo:application")


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OtherServer]:
    """A server that sends back what it receives."""
    with OtherServer(tmp_path_factory.mktemp("echo"), *PROGRAM, **VARIABLES) as server:
        yield server


@pytest.mark.parametrize("section", COMPRESSION + SECTIONS)
def test_every_case_passes(echo: OtherServer, section: str, tmp_path: Path) -> None:
    url = f"ws://127.0.0.1:{echo.port}"
    program = str(Path(sys.executable).with_name("kosoku"))
    done = subprocess.run(
        ["nice", program, "-p", "4", "-i", section, "-o", str(tmp_path), url],
        # The compiled part of the Autobahn library does not take what some cases give it.
        env=os.environ | {"AUTOBAHN_USE_NVX": "0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cases passed" in done.stdout
    assert echo.log() == ""
