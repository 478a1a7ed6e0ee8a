"""The peers by name."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.machine import LOAD_CORE, SERVER_CORE, Process, free_port
from benchmarks.peers import (
    HERE,
    ROOT,
    Peer,
    Server,
    Step,
    Subscription,
    launch,
    launch_shard,
    launch_valkey,
    valkey_binary,
)
from benchmarks.wire import masked

HOST = "127.0.0.1"
_DAPHNE_QUIET = ["-v", "0", "--ping-interval", "3600", "--ping-timeout", "3600"]
_NGINX_MODULES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")


class Realtime(Peer):
    """This project's server, as an operator starts it."""

    path = "/ws/"

    def __init__(
        self,
        name: str,
        about: str,
        burst: int,
        batch: int = 0,
        *,
        workers: int = 1,
        shards: int = 0,
        core: int | None = SERVER_CORE,
    ) -> None:
        super().__init__(name, about, burst)
        # Messages in one publish_many(); 1 is publish(), 0 the whole burst.
        self.batch = batch
        self.workers = workers
        # So many Valkeys of their own instead of the embedded one.
        self.shards = shards
        # Where the server runs; without one on all cores.
        self.core = core

    def missing(self) -> str:
        """Nothing beyond the project's own requirements is needed."""
        return "" if valkey_binary() else "valkey-server or redis-server"

    def start(self, directory: Path, started: contextlib.ExitStack) -> Server:
        """Run ``manage.py serve`` with a token made by ``manage.py create_token``."""
        port = free_port()
        environment = {
            "STREAMING_DATA_DIR": str(directory),
            "DJANGO_SETTINGS_MODULE": "streaming_site.settings",
            "STREAMING_WEBSOCKET__RATE_LIMIT_PER_MINUTE": "100000",
            "STREAMING_WEBSOCKET__MAX_CONNECTIONS": "20000",
            "STREAMING_WEBSOCKET__MAX_SUBSCRIPTIONS_PER_CLIENT": "1000",
            "STREAMING_WEBSOCKET__PING_INTERVAL": "3600",
            "STREAMING_WEBSOCKET__PING_TIMEOUT": "3600",
            "STREAMING_WEBSOCKET__DRAIN_TIMEOUT": "1",
        }
        pids = self._start_shards(directory, started, environment)
        manage = [sys.executable, str(ROOT / "manage.py")]
        command = [*manage, "serve", "--host", HOST, "--port", str(port)]
        if self.workers > 1:
            command += ["--workers", str(self.workers)]
        log = directory / "serve.log"
        process = launch(started, command, (HOST, port), log, environment, self.core)
        process.wait_to_say("listening on")  # and all workers are there
        return Server(
            (HOST, port),
            process.child.pid,
            pids + process.tree(),
            ["realtime", str(self.batch)],
            environment,
            _create_token(manage, directory, environment),
        )

    def _start_shards(
        self, directory: Path, started: contextlib.ExitStack, environment: dict[str, str]
    ) -> list[int]:
        """Start the Valkeys, and have the server use them; return their process ids."""
        shards = [
            launch_shard(started, directory / f"shard-{number}", self.core)
            for number in range(self.shards)
        ]
        if shards:
            environment["REDIS_URL"] = ",".join(f"redis://{HOST}:{port}" for _, port in shards)
        return [shard.child.pid for shard, _ in shards]


def _create_token(manage: list[str], directory: Path, environment: dict[str, str]) -> str:
    command = [*manage, "create_token", "benchmark", "--publish"]
    process = Process(command, LOAD_CORE, directory / "token.log", environment, pipes=True)
    output, _ = process.child.communicate(timeout=60)
    if process.child.returncode:
        raise RuntimeError(process.tail())
    token: str = output.decode().strip()
    return token


class Daphne(Peer):
    """An application of ``daphne_apps`` on stock Daphne, with the pub/sub layer over Valkey."""

    def __init__(self, name: str, about: str, application: str, burst: int = 60) -> None:
        super().__init__(name, about, burst)
        self.application = application

    def missing(self) -> str:
        """Nothing beyond the project's own requirements is needed."""
        return "" if valkey_binary() else "valkey-server or redis-server"

    def start(self, directory: Path, started: contextlib.ExitStack) -> Server:
        """Run ``daphne`` and a Valkey of its own."""
        port = free_port()
        valkey, path = launch_valkey(started, directory)
        application = f"benchmarks.peers.daphne_apps:{self.application}"
        command = [sys.executable, "-m", "daphne", "-b", HOST, "-p", str(port)]
        command += [*_DAPHNE_QUIET, application]
        environment = {"TEXTBOOK_VALKEY": str(path), "PYTHONPATH": str(ROOT)}
        process = launch(started, command, (HOST, port), directory / "daphne.log", environment)
        pids = [process.child.pid, valkey.child.pid]
        return Server((HOST, port), process.child.pid, pids, ["layer", str(path)])


class Program(Peer):
    """A program under ``peers/`` that takes PORT and INTAKE, and reads JSON lines from INTAKE."""

    def __init__(
        self, name: str, about: str, command: Sequence[str], needs: str, burst: int = 1000
    ) -> None:
        super().__init__(name, about, burst)
        self.command = command
        self.needs = needs

    def missing(self) -> str:
        """Look for the interpreter and the library."""
        if self.command[0] == "node":
            if shutil.which("node") is None:
                return "node"
            found = (HERE / "node_modules" / self.needs).is_dir()
            return "" if found else f"the npm package {self.needs} (--install)"
        return "" if find_spec(self.needs) else f"the Python package {self.needs}"

    def start(self, directory: Path, started: contextlib.ExitStack) -> Server:
        """Run the program."""
        port, intake = free_port(), free_port()
        interpreter = [sys.executable if self.command[0] == "python" else self.command[0]]
        command = [*interpreter, str(HERE / self.command[1]), *self.command[2:]]
        command += [str(port), str(intake)]
        process = launch(started, command, (HOST, intake), directory / "peer.log")
        process.wait_for((HOST, port))
        pids = [process.child.pid]
        return Server((HOST, port), process.child.pid, pids, ["lines", HOST, str(intake)])


class SocketIO(Program):
    """Socket.IO, spoken as Engine.IO 4 over a WebSocket."""

    path = "/socket.io/?EIO=4&transport=websocket"

    def opening(self, server: Server, subscriptions: Sequence[Subscription]) -> list[Step]:
        """Wait for the Engine.IO opening, connect to the namespace, subscribe."""
        auth = json.dumps({"token": server.token})
        steps = [Step(b"", b'0{"sid"'), Step(masked(f"40{auth}".encode()), b'40{"sid"')]
        for subscription in subscriptions:
            message = {"subscription_id": subscription.id} if subscription.id else {}
            event = json.dumps(["subscribe", message])
            steps.append(Step(masked(f"42{event}".encode()), b'42["subscribed"'))
        return steps

    def decode(self, text: bytes) -> Any:
        """Unwrap the event."""
        if not text.startswith(b'42["data",'):
            raise ValueError(f"not a data event: {text!r}")
        return json.loads(text[2:])[1]


class Nchan(Peer):
    """nginx with nchan: a channel to which complete data messages are published."""

    path = "/sub"

    def missing(self) -> str:
        """Look for nginx and the module."""
        if _nginx() is None:
            return "nginx"
        return "" if _nchan_module() else "the nginx module nchan (libnginx-mod-nchan)"

    def opening(self, server: Server, subscriptions: Sequence[Subscription]) -> list[Step]:
        """A WebSocket at the channel's path is subscribed."""
        return []

    def start(self, directory: Path, started: contextlib.ExitStack) -> Server:
        """Run nginx with one worker."""
        port = free_port()
        template = (HERE / "nchan.conf").read_text()
        user = "user root;" if os.getuid() == 0 else ""
        text = template.replace("MODULE", str(_nchan_module())).replace("USER", user)
        configuration = directory / "nginx.conf"
        configuration.write_text(text.replace("ADDRESS", f"{HOST}:{port}"))
        command = [str(_nginx()), "-p", str(directory), "-c", str(configuration)]
        command += ["-e", str(directory / "error.log")]
        process = launch(started, command, (HOST, port), directory / "nginx.log")
        while len(pids := process.tree()) < 2:  # the worker comes after the listening
            time.sleep(0.02)
        return Server((HOST, port), pids[-1], pids, ["nchan", HOST, str(port)])


def _nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def _nchan_module() -> Path | None:
    paths = (Path(folder) / "ngx_nchan_module.so" for folder in _NGINX_MODULES)
    return next((path for path in paths if path.exists()), None)


_LIST: list[Peer] = [
    Realtime("realtime", "this project: manage.py serve; publish_many()", 2000),
    Realtime("realtime-single", "the same; publish() for each message", 2000, batch=1),
    Daphne("textbook", "every consumer in the group, send_json each; Daphne", "textbook"),
    Daphne("bare", "an ASGI application without Channels; Daphne", "bare"),
    Program(
        "gather",
        "websockets library, asyncio.gather over a send per client",
        ("python", "websockets_server.py", "gather"),
        "websockets",
        200,
    ),
    Program(
        "broadcast",
        "websockets library, websockets.broadcast",
        ("python", "websockets_server.py", "broadcast"),
        "websockets",
    ),
    Program("ws", "node ws, encode once, send() each", ("node", "ws_server.js"), "ws"),
    SocketIO("socketio", "Socket.IO, room emit", ("node", "socketio_server.js"), "socket.io"),
    Nchan("nchan", "nginx with nchan, one worker", own_ids=False),
]
PEERS = {peer.name: peer for peer in _LIST}
