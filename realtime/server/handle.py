"""A handle on a serving process, with which backend code starts a server, asks it and stops it.

The process is ``manage.py serve``. Handle and process talk over a socket pair, in lines of JSON
(:class:`Control` is the process's end); when the process that has the handle dies, the server
drains and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from subprocess import DEVNULL
from typing import Any

from django.conf import settings

from realtime import publishing
from realtime.cluster.clients import Unavailable
from realtime.cluster.process import ChildProcess
from realtime.config import WEBSOCKET_PREFIX, WebSocketConfig, get_streaming_config
from realtime.monitoring.metrics import Counters
from realtime.monitoring.snapshot import add_up, read_all
from realtime.sessions.node import get_node, running_nodes

START_TIMEOUT = 30.0
ANSWER_TIMEOUT = 5.0


class WebSocketServer:
    """A server with a configuration, in a process of its own once it is started.

    In a process that serves already it is a handle on that process itself, and ``start`` and
    ``stop`` do nothing. The ``broadcast_*`` methods publish to whichever servers share the
    channel layer, started or not.
    """

    broadcast_event = staticmethod(publishing.broadcast_event)
    broadcast_metrics = staticmethod(publishing.broadcast_metrics)
    broadcast_alert = staticmethod(publishing.broadcast_alert)
    broadcast_prediction = staticmethod(publishing.broadcast_prediction)
    broadcast_aggregation = staticmethod(publishing.broadcast_aggregation)
    broadcast_system_status = staticmethod(publishing.broadcast_system_status)

    def __init__(self, config: WebSocketConfig | None = None) -> None:
        self.config = config or get_streaming_config().websocket
        # ``http://host:port`` while the process serves, with the port it has if 0 was asked for.
        self.url = ""
        self._process: ChildProcess | None = None
        self._control: socket.socket | None = None
        # Held while the process is started, and while an answer of it is awaited.
        self._starting = asyncio.Lock()
        self._asking = threading.Lock()

    async def start(self) -> None:
        """Start the process and return when it accepts connections.

        Raises ``RuntimeError`` if it does not; it says why on standard error.
        """
        async with self._starting:
            if running_nodes() or await asyncio.to_thread(self._ask_stats) is not None:
                return
            await self.stop()  # one that has ended by itself, or is about to
            self._spawn()
            try:
                answer = await asyncio.to_thread(self._ask, b"", START_TIMEOUT)
                self.url = answer["listening"]
            except (OSError, ValueError) as error:
                await self.stop()
                raise RuntimeError("the server did not start; see its messages above") from error

    async def stop(self) -> None:
        """Drain the process and return when it has ended."""
        process, self._process = self._process, None
        control, self._control = self._control, None
        if process is not None and control is not None:
            await asyncio.to_thread(process.end, self.config.drain_timeout + ANSWER_TIMEOUT)
            control.close()
        self.url = ""

    def get_stats(self) -> dict[str, Any]:
        """Return the serving process's figures; with ``is_running`` false if there is none.

        ``cluster`` has the totals of all processes, zeros if Redis is away. Blocks while the
        process or the channel layer is asked.
        """
        figures = next((node.report() for node in running_nodes()), None) or self._ask_stats()
        if figures is not None:
            return figures
        try:
            whole = add_up(read_all())
        except Unavailable:
            whole = add_up([])
        return Counters().report(self.config) | {"cluster": whole}

    def _ask_stats(self) -> dict[str, Any] | None:
        """Return the process's figures; ``None`` if no process answers."""
        if self._process is None or not self._process.is_running():
            return None
        try:
            return self._ask(b"stats\n", ANSWER_TIMEOUT)
        except (OSError, ValueError):
            return None

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | environment_of(self.config)
        environment.setdefault("DJANGO_SETTINGS_MODULE", settings.SETTINGS_MODULE)
        paths = (str(settings.BASE_DIR), os.environ.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = [sys.executable, "-m", "django", "serve", "--control-fd", str(theirs.fileno())]
        with theirs:
            self._process = ChildProcess(
                command, env=environment, pass_fds=[theirs.fileno()], stdout=DEVNULL
            )
        self._control = ours

    def _ask(self, question: bytes, timeout: float) -> dict[str, Any]:
        """Return the next answer. Raises ``OSError`` or ``ValueError`` if none comes."""
        control = self._control
        if control is None:
            raise ConnectionError("the server has been stopped")
        line = b""
        with self._asking:
            control.settimeout(timeout)
            control.sendall(question)
            while not line.endswith(b"\n"):
                part = control.recv(65_536)
                if not part:
                    raise ConnectionError("the server has ended")
                line += part
        answer: dict[str, Any] = json.loads(line)
        return answer


class Control:
    """The serving process's end of the socket pair."""

    def __init__(self, descriptor: int, stop: Any) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._stop = stop

    def listening(self, url: str) -> None:
        """Tell the handle that the server accepts connections; from now on answer it."""
        self._begun = asyncio.ensure_future(self._begin(url))

    async def _begin(self, url: str) -> None:
        await get_node().start()  # so that there are figures before the first client comes
        asyncio.get_running_loop().add_reader(self._socket, self._answer)
        self._send({"listening": url})

    def _answer(self) -> None:
        if not self._socket.recv(1024):
            asyncio.get_running_loop().remove_reader(self._socket)
            self._stop()
            return
        for node in running_nodes():
            self._send(node.report())

    def _send(self, answer: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(answer).encode() + b"\n")


def environment_of(config: WebSocketConfig) -> dict[str, str]:
    """Return the variables that give another process this configuration."""
    variables = {}
    for name, value in config.model_dump().items():
        text = json.dumps(value) if isinstance(value, list | bool) else str(value or "none")
        variables[WEBSOCKET_PREFIX + name.upper()] = str(value) if value == 0 else text
    return variables


_server: WebSocketServer | None = None


async def get_websocket_server() -> WebSocketServer:
    """Return this process's one handle, on the server that the environment configures."""
    global _server
    if _server is None:
        _server = WebSocketServer()
    return _server


def get_stats() -> dict[str, Any]:
    """Return this process's figures, under the documented keys, and those of the whole."""
    return (_server or WebSocketServer()).get_stats()
