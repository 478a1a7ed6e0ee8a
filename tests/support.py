"""Real servers and clients for tests: processes, sockets, commands. No mocks, no sleeping."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import itertools
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT = 30.0
TIMEOUT = 10.0

# A place in a log, as messages carry it: {"epoch": ..., "offset": ...}.
Position = dict[str, Any]


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
    # Whether the test provokes a fault of the server: else its log may hold no traceback.
    may_fail = False

    def __init__(self, data_dir: Path, *arguments: str, **variables: str) -> None:
        self.data_dir = data_dir
        self._arguments = arguments
        self._variables = variables
        self._names = itertools.count(1)
        # What publishes and administers; started when it is first asked, one question at a time.
        self._helper: subprocess.Popen[bytes] | None = None
        self._asking = threading.Lock()
        self.output = ""
        self.port = 0

    def __enter__(self) -> Self:
        self._log = (self.data_dir / f"server-{time.monotonic_ns()}.log").open("w+b")
        self.process = subprocess.Popen(
            [*self.program(), *self._arguments],
            env=environment(self.data_dir, **self._variables),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._wait_until_listening()
        return self

    def program(self) -> list[str]:
        """Return the command that serves."""
        return [sys.executable, str(ROOT / "manage.py"), *self.command]

    def __exit__(self, *error: object) -> None:
        if self._helper is not None:
            self._helper.communicate()  # its standard input ends, and so does it
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
        if error[:1] in ((), (None,)) and not self.may_fail:
            assert "Traceback" not in self.log(), self.log()

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

    def publish(self, kind: str, *payloads: dict[str, Any]) -> list[Position]:
        """Publish from another process; return the messages' positions."""
        positions: list[Position] = self.administer(
            "result = [position._asdict() for position in publish_many(kind, payloads)]",
            kind=kind,
            payloads=payloads,
        )
        return positions

    def publish_singly(self, kind: str, *payloads: dict[str, Any]) -> None:
        """Publish from another process, one message after another, as fast as it goes."""
        self.administer(
            "from realtime import publish\nfor payload in payloads: publish(kind, payload)",
            kind=kind,
            payloads=payloads,
        )

    def try_to_publish(self, kind: str, *payloads: dict[str, Any]) -> str:
        """Publish from another process; return ``published`` or what went wrong."""
        done: str = self.administer(
            "result = try_to_publish(kind, payloads)", kind=kind, payloads=payloads
        )
        return done

    def administer(self, statements: str, **values: Any) -> Any:
        """Run Python in another process, an administrator's; return what is in ``result``."""
        with self._asking:
            helper = self._helper = self._helper or self._start_helper()
            assert helper.stdin is not None and helper.stdout is not None
            helper.stdin.write(json.dumps([statements, values]).encode() + b"\n")
            helper.stdin.flush()
            answer = json.loads(helper.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def _start_helper(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.end_to_end.administrator"],
            env=environment(
                self.data_dir,
                **self._variables,
                DJANGO_SETTINGS_MODULE="streaming_site.settings",
            ),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def new_token(self, **fields: Any) -> str:
        """Create a token with these fields of the model, quickly; return its secret."""
        name = fields.pop("name", f"token-{next(self._names)}")
        secret: str = self.administer(
            "result = create_token(name, **fields)[1]", name=name, fields=fields
        )
        return secret

    def valkey(self) -> list[psutil.Process]:
        """Return the embedded Valkey's processes that this server started."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "python" not in child.name():
                    found.append(child)
        return found


class OtherServer(Server):
    """A server that another command starts; it does not say when it listens."""

    def __init__(self, data_dir: Path, *program: str, **variables: str) -> None:
        """``{port}`` in the program stands for the port, a free one."""
        super().__init__(data_dir, **variables)
        self._program = program
        self._port = free_port()

    def program(self) -> list[str]:
        """Return the command that serves."""
        return [sys.executable, *(part.format(port=self._port) for part in self._program)]

    def _wait_until_listening(self) -> None:
        def is_listening() -> bool:
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError), socket.socket() as probe:
                probe.connect(("127.0.0.1", self._port))
                return True
            return False

        wait_until(is_listening, START_TIMEOUT)
        self.port = self._port


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


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

    async def subscribed(self, kind: str, **data: Any) -> dict[str, Any]:
        """Subscribe, successfully; return the data of the answer."""
        reply = await self.call({"type": "subscribe", "data": {"type": kind} | data})
        assert reply["type"] == "subscribed", reply
        answer: dict[str, Any] = reply["data"]
        return answer

    async def expect_positions(self, positions: list[Position]) -> None:
        """Check that the next messages are the data messages of these positions."""
        for position in positions:
            message = await self.receive()
            assert message["type"] == "data" and message["metadata"] == position, message

    async def positions(self) -> dict[str, Position]:
        """Return what the answer to a ping says: the position of each subscription."""
        reply = await self.call({"type": "ping"})
        assert reply["type"] == "pong", reply
        found: dict[str, Position] = reply["data"]["positions"]
        return found

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

    async def expect_nothing_but_close(self, code: int, reason: str) -> None:
        """Check that the server closes, and sends no message before."""
        with contextlib.suppress(ConnectionClosed):
            message = await self.receive()
            raise AssertionError(f"received {message}")
        await self.expect_close(code, reason)


class Frame(NamedTuple):
    """A WebSocket frame, as it is on the wire."""

    first_byte: int
    payload: bytes


TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


class RawClient:
    """A client that sends the bytes it is told and answers nothing by itself."""

    def __init__(self, server: Server, path: bytes = b"/ws/") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), TIMEOUT)
        self._received = b""
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def shake_hands(self, *headers: bytes) -> bytes:
        """Send a handshake and return the status line and headers of the answer."""
        lines = (
            b"GET " + self._path + b" HTTP/1.1",
            b"Host: localhost",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Key: " + base64.b64encode(b"a nonce of bytes"),
            b"Sec-WebSocket-Version: 13",
            *headers,
        )
        self.socket.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        return self.read_head()

    def read_head(self) -> bytes:
        """Return the status line and headers of the answer to a handshake."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        answer, _, self._received = self._received.partition(b"\r\n\r\n")
        return answer

    def connect(self) -> Self:
        """Complete the handshake."""
        answer = self.shake_hands()
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        return self

    def send(self, first_byte: int, payload: bytes = b"", *, masked: bool = True) -> None:
        """Send a frame, with an empty mask."""
        mask = 0x80 if masked else 0
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", first_byte, mask | length)
        elif length < 65_536:
            head = struct.pack("!BBH", first_byte, mask | 126, length)
        else:
            head = struct.pack("!BBQ", first_byte, mask | 127, length)
        self.socket.sendall(head + bytes(4 if masked else 0) + payload)

    def send_message(self, message: dict[str, Any]) -> None:
        """Send a message in one text frame."""
        self.send(TEXT, json.dumps(message).encode())

    def read_frame(self) -> Frame:
        """Return the next frame of the server."""
        first, length = self._take(2)
        if length >= 126:
            (length,) = struct.unpack(
                *(("!H", self._take(2)) if length == 126 else ("!Q", self._take(8)))
            )
        return Frame(first, self._take(length))

    def read_message(self) -> dict[str, Any]:
        """Return the next message."""
        frame = self.read_frame()
        assert frame.first_byte == TEXT, frame
        message: dict[str, Any] = json.loads(frame.payload)
        return message

    def expect_close(self, code: int, reason: str | None = None) -> str:
        """Check that the next frame closes; return its reason."""
        frame = self.read_frame()
        assert frame.first_byte == CLOSE, frame
        (received,) = struct.unpack("!H", frame.payload[:2])
        text = frame.payload[2:].decode()
        assert received == code and reason in (None, text), (received, text)
        return text

    def say_goodbye(self) -> None:
        """Answer the server's close frame; check that it ends the connection."""
        with contextlib.suppress(OSError):  # it has, if the client closed first
            self.send(CLOSE)
        self.expect_end()

    def expect_end(self) -> None:
        """Check that the server ends the TCP connection without another byte."""
        assert self._received == b""
        with contextlib.suppress(ConnectionResetError):
            assert self.socket.recv(1) == b""

    def drain(self) -> bytes:
        """Return what has come until the server ends the connection; also if by a reset."""
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(65_536):
                self._received += part
        drained, self._received = self._received, b""
        return drained

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._receive()
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _receive(self) -> None:
        part = self.socket.recv(65_536)
        assert part, f"the connection ended after {self._received!r}"
        self._received += part


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


async def newest(server: Server, token: str | None, kind: str = "events") -> Position:
    """Return the newest position of a type."""
    async with client(server, token) as page:
        answer = await page.subscribed(kind)
    return {"epoch": answer["epoch"], "offset": answer["offset"]}


def following(position: Position, count: int) -> list[Position]:
    """Return the next positions after one."""
    epoch, offset = position["epoch"], position["offset"]
    return [{"epoch": epoch, "offset": offset + n} for n in range(1, count + 1)]


def is_gone(process: psutil.Process) -> bool:
    """Tell whether a process has ended, though nobody may have collected it."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def locked_database(server: Server) -> Iterator[None]:
    """Hold all of SQLite's locks: who asks the server's database waits and gets no answer.

    These are the eight bytes from 120 on of the shared memory's file (sqlite.org/walformat.html).
    """
    with (server.data_dir / "db.sqlite3-shm").open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 8, 120)
        yield


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
