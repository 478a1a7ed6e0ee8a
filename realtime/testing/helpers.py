"""What tests keep between servers, to start the next one sooner: a fork server, and a database.

The tests' side of :mod:`realtime.testing.administrator`, and the template of data directories.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

# The folder of the templates, for all processes of a test run (realtime.testing.plugin makes it).
TEMPLATES = "REALTIME_TESTING_TEMPLATES"
# What a start makes once, and a copy saves the next one.
TEMPLATE_FILES = ("db.sqlite3", "secret_key")


class Administrator:
    """A process with Django set up that runs the Python it is told."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rw")

    def run(self, statements: str, values: dict[str, Any]) -> Any:
        """Run *statements* there with the names *values*; return what they leave in ``result``.

        Both are JSON. Raises:
            AssertionError: an error there, with its traceback.
        """
        self._file.write(json.dumps([statements, values]) + "\n")
        self._file.flush()
        answer = json.loads(self._file.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def close(self) -> None:
        """End the process, and return when it has ended."""
        self._connection.shutdown(socket.SHUT_WR)
        self._file.read()
        self._file.close()
        self._connection.close()


class ForkServer:
    """The process whose forks are a project's administrators. It ends with the tests' process."""

    def __init__(self, root: Path, variables: dict[str, str]) -> None:
        """*root* is the folder of ``manage.py``."""
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "realtime.testing.administrator", str(theirs.fileno())],
                env=variables,
                cwd=root,
                pass_fds=[theirs.fileno()],
            )

    def fork(self, variables: dict[str, str]) -> Administrator:
        """Start an administrator with these environment variables."""
        ours, theirs = socket.socketpair()
        with theirs:
            request = json.dumps(variables).encode()
            socket.send_fds(self._connection, [request], [theirs.fileno()])
        return Administrator(ours)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.wait()


_fork_servers: dict[Path, ForkServer] = {}


def start_administrator(root: Path, variables: dict[str, str]) -> Administrator:
    """Start an administrator of the project in *root*."""
    if root not in _fork_servers:
        _fork_servers[root] = ForkServer(root, variables)
    return _fork_servers[root].fork(variables)


def end_fork_servers() -> None:
    """End all fork servers, at the end of a test run."""
    while _fork_servers:
        _fork_servers.popitem()[1].close()


def fill_data_directory(data_dir: Path, root: Path, variables: dict[str, str]) -> None:
    """Give an empty data directory the files of a first start, but for a database elsewhere.

    They are made once for each project and settings module of a test run.
    """
    folder = os.environ.get(TEMPLATES)
    if folder is None or "DATABASE_URL" in variables or (data_dir / "db.sqlite3").exists():
        return
    name = f"{root}:{variables.get('DJANGO_SETTINGS_MODULE', '')}".replace("/", "_")
    template = Path(folder, name)
    with Path(folder, f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            _make_template(template, root, variables)
    for file in TEMPLATE_FILES:
        shutil.copy(template / file, data_dir)


def _make_template(template: Path, root: Path, variables: dict[str, str]) -> None:
    """Migrate the database of a new data directory, as ``manage.py serve`` does at its start."""
    unfinished = template.with_suffix(".unfinished")
    unfinished.mkdir(mode=0o700)
    subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
        env=variables | {"STREAMING_DATA_DIR": str(unfinished)},
        cwd=root,
        check=True,
    )
    unfinished.rename(template)
