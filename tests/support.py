"""Real servers and clients for tests: processes, sockets, commands. No mocks, no sleeping."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 30.0
TIMEOUT = 10.0


def environment(data_dir: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a command: this one's without settings, plus *variables*.

    ``rate_limit_per_minute="5"`` becomes ``STREAMING_WEBSOCKET__RATE_LIMIT_PER_MINUTE``; names in
    capitals stay as they are.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("STREAMING_", "DJANGO_", "REDIS_", "DATABASE_"))
    }
    given = {
        name if name.isupper() else f"STREAMING_WEBSOCKET__{name.upper()}": value
        for name, value in variables.items()
    }
    return kept | {"STREAMING_DATA_DIR": str(data_dir), "PYTHONDEVMODE": ""} | given


def manage(
    *arguments: str, data_dir: Path, stdin: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` to its end."""
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        env=environment(data_dir, **variables),
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


class Server:
    """A ``manage.py serve`` process of its own data directory and port."""

    command: tuple[str, ...] = ("serve", "--host", "127.0.0.1", "--port", "0")

    def __init__(self, data_dir: Path, *arguments: str, **variables: str) -> None:
        self.data_dir = data_dir
        self._arguments = arguments
        self._variables = variables
        self._names = itertools.count(1)
        self._publisher: subprocess.Popen[bytes] | None = None
        self.output = ""
        self.port = 0

    def __enter__(self) -> Self:
        self._log = (self.data_dir / f"server-{time.monotonic_ns()}.log").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), *self.command, *self._arguments],
            env=environment(self.data_dir, **self._variables),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._wait_until_listening()
        return self

    def __exit__(self, *error: object) -> None:
        if self._publisher is not None:
            self._publisher.communicate()  # its standard input ends, and so does it
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(TIMEOUT * 2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def _wait_until_listening(self) -> None:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and not self.port:
            ready, _, _ = select.select([self.process.stdout], [], [], 0.1)
            if ready:
                part = os.read(self.process.stdout.fileno(), 65_536)
                self.output += part.decode()
                if not part:
                    break
            if found := re.search(r"^listening on http://.*:(\d+)$", self.output, re.MULTILINE):
                self.port = int(found[1])
        if not self.port:
            self.process.kill()
            raise AssertionError(f"the server did not start: {self.output}{self.log()}")

    @property
    def url(self) -> str:
        """The WebSocket endpoint."""
        return f"ws://127.0.0.1:{self.port}/ws/"

    def log(self) -> str:
        """Return what the server wrote to standard error."""
        return Path(self._log.name).read_text()

    def manage(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run another command with this server's data directory and settings."""
        return manage(*arguments, data_dir=self.data_dir, stdin=stdin, **self._variables)

    def token(self, *options: str, name: str | None = None) -> str:
        """Create a token and return its secret."""
        done = self.manage("create_token", name or f"token-{next(self._names)}", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def publish(self, kind: str, *payloads: dict[str, Any]) -> None:
        """Publish from another process; return when it has."""
        if self._publisher is None or self._publisher.poll() is not None:
            self._publisher = subprocess.Popen(
                [sys.executable, "-m", "tests.publisher"],
                env=environment(
                    self.data_dir,
                    **self._variables,
                    DJANGO_SETTINGS_MODULE="streaming_site.settings",
                ),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        stdin, stdout = self._publisher.stdin, self._publisher.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps([kind, payloads]).encode() + b"\n")
        stdin.flush()
        assert stdout.readline() == b"published\n"


class Client:
    """A WebSocket client whose helpers name what they see."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def send(self, message: dict[str, Any] | str | bytes) -> None:
        """Send a message; text and bytes as they are."""
        await self.socket.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive(self, timeout: float = TIMEOUT) -> dict[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(timeout):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def call(self, message: dict[str, Any] | str | bytes) -> dict[str, Any]:
        """Send a message and return the next one received."""
        await self.send(message)
        return await self.receive()

    async def authenticate(self, token: str) -> dict[str, Any]:
        """Authenticate, successfully."""
        reply = await self.call({"type": "auth", "data": {"token": token}})
        assert reply["type"] == "auth_success", reply
        return reply

    async def subscribe(self, kind: str, filters: Any = None, **fields: Any) -> str:
        """Subscribe, successfully; return the subscription's id."""
        data = {"type": kind} | ({} if filters is None else {"filters": filters})
        reply = await self.call({"type": "subscribe", "data": data, **fields})
        assert reply["type"] == "subscribed", reply
        subscription_id: str = reply["subscription_id"]
        return subscription_id

    async def expect_data(self, key: str) -> Any:
        """Return the payload of the next message, a data message with this key."""
        message = await self.receive()
        assert message["type"] == "data", message
        return message["data"][key]

    async def expect_error(self, code: str) -> dict[str, Any]:
        """Return the data of the next message, an error with this code."""
        message = await self.receive()
        assert message["type"] == "error" and message["data"]["code"] == code, message
        data: dict[str, Any] = message["data"]
        return data

    async def expect_silence(self) -> None:
        """Check that nothing was sent to this client before the answer to a ping."""
        reply = await self.call({"type": "ping"})
        assert reply["type"] == "pong", reply

    async def expect_close(self, code: int, reason: str, timeout: float = TIMEOUT) -> None:
        """Read until the server closes, and check how it does."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as closed:
            received = closed.rcvd
        assert received is not None, "the connection was cut without a close frame"
        assert (received.code, received.reason) == (code, reason)


@contextlib.asynccontextmanager
async def client(server: Server, token: str | None = None, **options: Any) -> AsyncIterator[Client]:
    """Connect to a server, and authenticate if a token is given."""
    path = options.pop("path", "/ws/")
    address = f"ws://127.0.0.1:{server.port}{path}"
    async with connect(address, compression=None, max_size=None, **options) as socket:
        connected = Client(socket)
        if token is not None:
            await connected.authenticate(token)
        yield connected


def wait_until(condition: Callable[[], bool], timeout: float = TIMEOUT) -> None:
    """Return when *condition* holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def running(data_dir: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    """Run a server with settings of its own for the length of a test."""
    with Server(data_dir, *arguments, **variables) as server:
        yield server
