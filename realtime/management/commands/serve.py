"""``manage.py serve``: everything a server needs, in one command."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from realtime.cluster.embedded import EmbeddedServer, EmbeddedServerError, keep_running, keep_synced
from realtime.cluster.process import Backoff, ChildProcess
from realtime.cluster.servers import uses_embedded
from realtime.config import get_streaming_config
from realtime.demo.welcome import DemoAccess, demo_access, welcome
from realtime.management.database import prepare_database
from realtime.management.running import refuse_unfit_stores
from realtime.server.supervisor import StartError, Supervisor

logger = logging.getLogger(__name__)

# Seconds that the demo's commands have to end.
STOP_TIMEOUT = 3.0
# What runs beside a server with a demo.
DEMO = (
    ("replay_demo",),
    ("run_aggregations", "--module", "realtime.demo.rules"),
    ("run_alerts", "--module", "realtime.demo.rules"),
    ("run_predictors", "--module", "realtime.demo.prediction"),
    ("publish_system_status", "--interval", "3"),
)


class Children:
    """Other commands of ``manage.py``, each with a thread that starts it again when it ends."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        # Held while a process is started, so that none is once they are to stop.
        self._starting = threading.Lock()
        self._running: dict[str, ChildProcess] = {}
        self._keepers: list[threading.Thread] = []

    def start(self, *command: str) -> None:
        """Run a :class:`~realtime.management.running.RunningCommand` until this process ends it."""
        name = f"keeper of {command[0]}"
        keeper = threading.Thread(target=self._keep, args=command, name=name, daemon=True)
        self._keepers.append(keeper)
        keeper.start()

    def _keep(self, name: str, *options: str) -> None:
        program = [sys.executable, str(settings.BASE_DIR / "manage.py"), name, *options]
        program += ["--parent", str(os.getpid())]
        backoff = Backoff()
        while True:
            with self._starting:
                if self._stopping.is_set():
                    return
                child = self._running[name] = ChildProcess(program, own_session=True)
            child.wait()
            if self._stopping.is_set():
                return
            logger.error("%s ended: %s; it is started again", name, child.describe_end())
            self._stopping.wait(backoff.pause(time.monotonic() - child.started))

    def stop(self) -> None:
        """End all at the same time; return when they have ended. May be called again."""
        with self._starting:
            self._stopping.set()
        for child in self._running.values():
            child.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        for child in self._running.values():
            if not child.wait(max(0.0, deadline - time.monotonic())):
                child.kill()
        for keeper in self._keepers:
            keeper.join()

    def stop_before(self, then: Callable[[], object]) -> None:
        """End all, then call *then*: from a thread, unless there are none."""

        def stop() -> None:
            self.stop()
            then()

        if self._keepers:
            threading.Thread(target=stop, name="children", daemon=True).start()
        else:
            then()


class Command(BaseCommand):
    """Migrates the embedded database, starts the embedded Valkey, runs Daphne."""

    help = "Serve the WebSocket API and the admin with Daphne."
    requires_system_checks = ()  # `check --deploy` has them; a start should be quick

    def add_arguments(self, parser: ArgumentParser) -> None:
        config = get_streaming_config().websocket
        parser.add_argument("--host", default=config.host, help="address to listen on")
        parser.add_argument(
            "--port", type=int, default=config.port, help="port to listen on; 0 takes a free one"
        )
        parser.add_argument(
            "--workers", type=int, default=1, help="server processes; SIGHUP replaces them in turn"
        )
        parser.add_argument("--demo", action="store_true", help="replay a week of flights")
        parser.add_argument(
            "--demo-speed", type=float, default=None, help="seconds replayed in one second"
        )
        parser.add_argument("--control-fd", type=int, help="socket of a WebSocketServer handle")
        parser.add_argument("--connections-fd", type=int, help="socket of a supervisor")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["workers"] < 1:
            raise CommandError("--workers: must be 1 or more")
        # As many open sockets as the system lets this user have.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._options = options
        self._demo = Children()
        self._demo_access: DemoAccess | None = None
        if options["connections_fd"] is not None:
            self._serve(None)
            return
        # A database that is away may be back before the first client comes.
        prepare_database(must_answer=False)
        refuse_unfit_stores()
        embedded = EmbeddedServer(settings.DATA_DIR) if uses_embedded() else None
        try:
            if embedded is not None:
                embedded.ensure_running()
            if options["demo"]:
                # Now, since the event loop's thread may not wait for the database.
                self._demo_access = demo_access(settings.DATA_DIR)
            if options["workers"] == 1:
                self._serve(embedded)
            else:
                asyncio.run(self._supervise(embedded))
        except (EmbeddedServerError, StartError) as error:
            raise CommandError(str(error)) from None
        finally:
            self._demo.stop()
            if embedded is not None:
                embedded.stop()

    def _serve(self, embedded: EmbeddedServer | None) -> None:
        """Serve in this process, on a port or with the connections that a supervisor hands over."""
        # Only now: importing Daphne installs a reactor, which no other command wants.
        from daphne.endpoints import build_endpoint_description_strings
        from daphne.server import reactor  # it installs one that runs on asyncio

        from realtime.server.daphne import StreamServer
        from realtime.server.handle import Control
        from realtime.server.worker import Worker
        from realtime.sessions.node import prepare_node
        from streaming_site.asgi import application

        options = self._options
        control, connections = options["control_fd"], options["connections_fd"]
        where = {name: options[name] for name in ("host", "port") if connections is None}
        server = StreamServer(
            application,
            build_endpoint_description_strings(**where),
            signal_handlers=False,
            websocket_timeout=-1,
            # The loop does not run yet: from its first turn on there is a server that answers.
            on_listening=lambda *address: reactor.callLater(0, self._begin, *address),
            verbosity=2,  # errors inside Twisted reach the log
        )
        self._control = None if control is None else Control(control, server.stop)
        self._node = prepare_node(reactor._asyncioEventloop, embedded)
        # Connections leave no cycles; a full collection looks at all objects, while clients wait.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        # The demo's commands end before the server: what they save needs a Valkey.
        drain = partial(self._demo.stop_before, partial(reactor.callFromThread, server.stop))
        stop = _stop_on_signals(drain, embedded, _drain_timeout())
        if connections is not None:
            worker = Worker(connections, server, server.stop)
            reactor.callLater(0, self._start_node, worker.start)

            def move(number: int, frame: Any) -> None:
                """Drain, since the supervisor says that other workers take the clients."""
                self._node.drain.is_moving = True
                stop(number, frame)

            signal.signal(signal.SIGHUP, move)
        server.run()
        if server.failure:
            raise CommandError(f"cannot listen on port {options['port']}: {server.failure}")

    def _begin(self, host: str, port: int) -> None:
        """Start all that goes with a server that listens."""
        # Now, not with the first client: changes are followed and Valkey is kept running from here.
        self._start_node()
        self._announce(host, port)
        if self._control is not None:
            self._control.listening(_url(host, port))

    def _start_node(self, then: Callable[[], object] = lambda: None) -> None:
        async def start() -> None:
            await self._node.start()
            then()

        self._starting = asyncio.ensure_future(start())

    async def _supervise(self, embedded: EmbeddedServer | None) -> None:
        """Let other processes serve."""
        options = self._options
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "serve"]
        supervisor = Supervisor(command, options["workers"], _drain_timeout())
        keepers = [] if embedded is None else [keep_running(embedded), keep_synced(embedded)]
        tasks = [asyncio.create_task(keeper) for keeper in keepers]
        try:
            await supervisor.run(options["host"], options["port"], self._announce)
        finally:
            for task in tasks:
                task.cancel()

    def _announce(self, host: str, port: int) -> None:
        """Print where the server listens, and start the demo."""
        self.stdout.write(f"listening on {_url(host, port)}")
        if self._demo_access is not None:
            self.stdout.write(welcome(self._demo_access, port))
            speed = self._options["demo_speed"]
            for command in DEMO:
                has_speed = speed and command[0] == "replay_demo"
                self._demo.start(*command, *(("--speed", str(speed)) if has_speed else ()))
        self.stdout.flush()


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _drain_timeout() -> float:
    """Return the longest that a drain may take, in seconds."""
    return max(1.0, get_streaming_config().websocket.drain_timeout)


def _stop_on_signals(
    drain: Callable[[], None], embedded: EmbeddedServer | None, longest: float
) -> Callable[[int, Any], None]:
    """Drain on the first signal to stop; end on the second, or after *longest* seconds.

    Also on SIGHUP: a terminal that is closed should cost clients no more than Ctrl-C in it.
    Returns the handler.
    """

    def end() -> None:
        if embedded is not None:
            embedded.stop()
        os._exit(0)

    # Should the drain hang, the process still ends.
    watchdog = threading.Timer(longest, end)
    watchdog.daemon = True

    def stop(number: int, frame: Any) -> None:
        if watchdog.is_alive():
            end()
        watchdog.start()
        drain()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    return stop
