"""A real server for tests: ``manage.py serve`` in a process of its own, and its commands."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Self

from realtime.testing.administrator import Administrator, start_administrator
from realtime.testing.client import TIMEOUT, Client, Position, connect

# Seconds until a server listens: its first start makes the database.
START_TIMEOUT = 30.0
# The folder of the templates, for all processes of a test run (realtime.testing.plugin makes it).
TEMPLATES = "REALTIME_TESTING_TEMPLATES"
# What a start makes once, and a copy saves the next one.
TEMPLATE_FILES = ("db.sqlite3", "secret_key")


def environment(data_dir: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a command: this one's without settings, plus *variables*.

    ``rate_limit_per_minute="5"`` becomes ``STREAMING_WEBSOCKET__RATE_LIMIT_PER_MINUTE``; names in
    capitals stay as they are.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STREAMING_", "DJANGO_", "REDIS_", "DATABASE_"))
        or name == "DJANGO_SETTINGS_MODULE"
    }
    settings = {
        name if name.isupper() else f"STREAMING_WEBSOCKET__{name.upper()}": value
        for name, value in variables.items()
    }
    return inherited | {"STREAMING_DATA_DIR": str(data_dir), "PYTHONDEVMODE": ""} | settings


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    """Return when *condition* holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def manage(
    *arguments: str,
    data_dir: Path,
    stdin: str | None = None,
    root: Path | None = None,
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` of the project in *root*, by default here, to its end."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env=environment(data_dir, **variables),
        cwd=root,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


class LiveServer:
    """A server with a data directory of its own, on a port of its own; a context manager.

    *root* is the folder of ``manage.py``, by default the one the tests run in; *arguments* are
    those of ``manage.py serve``; *variables* are its settings (:func:`environment`). It leaves no
    process behind, and its log may hold no traceback unless ``may_fail`` is set.
    """

    command: tuple[str, ...] = ("serve", "--host", "127.0.0.1", "--port", "0")
    may_fail = False

    def __init__(
        self, data_dir: Path, *arguments: str, root: Path | None = None, **variables: str
    ) -> None:
        self.data_dir = data_dir
        self.root = root or Path.cwd()
        self._arguments = arguments
        self._variables = variables
        self._names = itertools.count()
        self._administrator: Administrator | None = None
        # It answers one at a time.
        self._asking = threading.Lock()
        self.output = ""
        self.port = 0

    def __enter__(self) -> Self:
        # Only now: pytest loads this module before Django is set up, and the room needs it.
        from realtime.cluster.process import ChildProcess

        variables = environment(self.data_dir, **self._variables)
        _fill_data_directory(self.data_dir, self.root, variables)
        self._log = (self.data_dir / f"server-{time.monotonic_ns()}.log").open("w+b")
        self._child = ChildProcess(
            [*self.program(), *self._arguments],
            env=variables,
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.process = self._child.popen
        try:
            self._wait_until_listening()
        except BaseException:
            self._end(0.0)
            raise
        return self

    def program(self) -> list[str]:
        """Return the command that serves."""
        return [sys.executable, str(self.root / "manage.py"), *self.command]

    def __exit__(self, *error: object) -> None:
        if self._administrator is not None:
            self._administrator.close()
            self._administrator = None
        self._end(TIMEOUT * 2)
        if error[:1] in ((), (None,)) and not self.may_fail:
            assert "Traceback" not in self.log(), self.log()

    def _end(self, timeout: float) -> None:
        self._child.end(timeout)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def _wait_until_listening(self) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline and not self.port:
                if selector.select(0.1):
                    part = os.read(self.process.stdout.fileno(), 65_536)
                    self.output += part.decode()
                    if not part:
                        break
                listening = r"^listening on http://.*:(\d+)$"
                if match := re.search(listening, self.output, re.MULTILINE):
                    self.port = int(match[1])
        if not self.port:
            raise AssertionError(f"the server did not start: {self.output}{self.log()}")

    @property
    def url(self) -> str:
        """The WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.port}/ws/"

    def log(self) -> str:
        """Return what the server wrote to standard error."""
        return Path(self._log.name).read_text()

    def connect(
        self, token: str | None = None, *, path: str = "/ws/", **options: Any
    ) -> AbstractAsyncContextManager[Client]:
        """Connect a client (:func:`realtime.testing.connect`)."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", token, **options)

    def manage(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run another command with this server's data directory and settings."""
        return manage(
            *arguments, data_dir=self.data_dir, stdin=stdin, root=self.root, **self._variables
        )

    def token(self, *options: str, name: str | None = None) -> str:
        """Create a token as ``manage.py create_token`` does; return its secret."""
        statements = (
            "output = StringIO()\n"
            "call_command('create_token', name, *options, stdout=output, stderr=StringIO())\n"
            "result = output.getvalue().strip()"
        )
        name = name or f"token-{next(self._names)}"
        return str(self.administer(statements, name=name, options=options))

    def new_token(self, **fields: Any) -> str:
        """Create a token with these fields of the model, quickly; return its secret."""
        name = fields.pop("name", f"token-{next(self._names)}")
        statement = "result = create_token(name, **fields)[1]"
        return str(self.administer(statement, name=name, fields=fields))

    def publish(self, kind: str, *payloads: dict[str, Any]) -> list[Position]:
        """Publish from another process; return the messages' positions."""
        statements = "result = [position._asdict() for position in publish_many(kind, payloads)]"
        return list(self.administer(statements, kind=kind, payloads=payloads))

    def administer(self, statements: str, **values: Any) -> Any:
        """Run Python in another process, an administrator's; return what is in ``result``.

        *values* and the result are JSON. The process has Django, and the names that
        :mod:`realtime.testing.administrator` gives it.
        """
        with self._asking:
            if self._administrator is None:
                variables = environment(self.data_dir, **self._variables)
                self._administrator = start_administrator(self.root, variables)
            return self._administrator.run(statements, values)


def _fill_data_directory(data_dir: Path, root: Path, variables: dict[str, str]) -> None:
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
            unfinished = template.with_suffix(".unfinished")
            unfinished.mkdir(mode=0o700)
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
                env=variables | {"STREAMING_DATA_DIR": str(unfinished)},
                cwd=root,
                check=True,
            )
            unfinished.rename(template)
    for file in TEMPLATE_FILES:
        shutil.copy(template / file, data_dir)
