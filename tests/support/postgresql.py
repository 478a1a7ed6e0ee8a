"""A PostgreSQL server of a test's own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import psycopg

from tests.support import free_port, lacks, wait_until

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
    """A server with an empty database, on a port of *host*; may be killed and started again."""

    def __init__(self, programs: Path, host: str = "127.0.0.1") -> None:
        self._programs = programs
        self._host = host
        self.port = free_port()
        self.url = f"postgres://streaming@{host}:{self.port}/postgres"

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
        # It does not run as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "--username=streaming", "--auth=trust", "--no-sync", "--pgdata=data")
        with (self._folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\nhost all all 198.18.0.0/15 trust\n")
        try:
            self.start()
        except BaseException:  # of a server that does not get ready nobody else lets go
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)

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
            self.process.send_signal(3)  # SIGQUIT: as if the machine had gone down, but for memory
            self.process.wait()


@contextlib.contextmanager
def running_postgresql(host: str = "127.0.0.1") -> Iterator[PostgreSQL]:
    """Run a server for the length of a test."""
    programs = find_programs()
    if programs is None:
        lacks("PostgreSQL is not installed: no initdb on PATH")
    with PostgreSQL(programs, host) as server:
        yield server
