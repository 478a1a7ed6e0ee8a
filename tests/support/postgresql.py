"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psycopg

from realtime.testing.helpers import TEMPLATES
from tests.support import free_port, lacks, manage, wait_until

# Where distributions have the programs that only an administrator runs.
FOLDERS = "/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"


def find_programs() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``, if PostgreSQL is installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = (folder for pattern in FOLDERS for folder in Path("/").glob(pattern[1:]))
    return max((one for one in folders if (one / "initdb").exists()), default=None)


class PostgreSQL:
    """A server with a database, on a port of *host*; may be killed and started again.

    *data* is the data directory whose copy it begins with, instead of a new, empty one.
    """

    def __init__(
        self, programs: Path, host: str = "127.0.0.1", *, data: Path | None = None
    ) -> None:
        self._programs = programs
        self._host = host
        self._data = data
        self.port = free_port()
        self.url = f"postgres://streaming@{host}:{self.port}/postgres"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        # It does not run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._data is not None:
            shutil.copytree(self._data, self._folder / "data")
        self._give_to_its_user(self._folder)
        if self._data is None:
            self._make_data()
        try:
            self.start()
        except BaseException:  # of a server that does not get ready nobody else lets go
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)

    def _give_to_its_user(self, folder: Path) -> None:
        if self._user is not None:
            for path in (folder, *folder.rglob("*")):
                shutil.chown(path, self._user)

    def _make_data(self) -> None:
        self._run("initdb", "--username=streaming", "--auth=trust", "--no-sync", "--pgdata=data")
        with (self._folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\nhost all all 198.18.0.0/15 trust\n")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, *arguments],
            cwd=self._folder,
            user=self._user,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start it, and return when it answers."""
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    *("-D", "data", "-p", str(self.port), "-h", self._host, "-k", "", "-F"),
                ],
                cwd=self._folder,
                user=self._user,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self._folder / "log").read_text()
        with contextlib.suppress(psycopg.OperationalError):
            return self.ask("SELECT 1") == 1
        return False

    def ask(self, query: str) -> object:
        """Return the first value of the first row."""
        with psycopg.connect(self.url, connect_timeout=2, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    def kill(self) -> None:
        """End it, and every connection with it, at once."""
        if self.process.poll() is None:
            self.process.send_signal(
                signal.SIGQUIT
            )  # as if the machine had gone down, but for memory
            self.process.wait()

    def save(self, folder: Path) -> None:
        """Stop it in order, and copy its data directory to where *data* of another can take it."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        shutil.copytree(self._folder / "data", folder)


@contextlib.contextmanager
def running_postgresql(host: str = "127.0.0.1", *, empty: bool = False) -> Iterator[PostgreSQL]:
    """Run a server for the length of a test, with the project's tables unless it is *empty*."""
    programs = find_programs()
    if programs is None:
        lacks("PostgreSQL is not installed: no initdb on PATH")
    data = None if empty else _find_template(programs)
    with PostgreSQL(programs, host, data=data) as server:
        yield server


def _find_template(programs: Path) -> Path:
    """Return the data directory of a migrated database, made once for each test run."""
    folder = Path(os.environ[TEMPLATES])
    template = folder / "postgresql"
    with (folder / "postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            with PostgreSQL(programs) as server, tempfile.TemporaryDirectory() as data_dir:
                done = manage("migrate", data_dir=Path(data_dir), DATABASE_URL=server.url)
                assert done.returncode == 0, done.stderr
                server.save(template)
    return template
