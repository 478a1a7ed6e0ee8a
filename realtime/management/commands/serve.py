"""``manage.py serve``: everything a server needs, in one command."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from realtime.cluster.embedded import EmbeddedServer, EmbeddedServerError
from realtime.cluster.keeper import keep_running, keep_synced
from realtime.cluster.servers import uses_embedded
from realtime.config import get_streaming_config
from realtime.database import prepare_database
from realtime.demo.welcome import DemoAccess, demo_access, welcome
from realtime.management.children import Children
from realtime.server.supervisor import StartError, Supervisor

# What runs beside a server with a demo.
DEMO = (
    ("replay_demo",),
    ("run_aggregations", "--module", "realtime.demo.rules"),
    ("run_alerts", "--module", "realtime.demo.rules"),
    ("run_predictors", "--module", "realtime.demo.prediction"),
    ("publish_system_status", "--interval", "3"),
)

SignalHandler = Callable[[int, Any], None]


class Command(BaseCommand):
    """Migrates the embedded database, starts the embedded Valkey, runs Daphne."""

    help = "Serve the WebSocket API and the admin with Daphne."
    requires_system_checks = ()  # `check --deploy` has them; a start should be quick

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options; defaults come from ``STREAMING_WEBSOCKET__*``."""
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
        """Serve until SIGTERM or Ctrl-C."""
        if options["workers"] < 1:
            raise CommandError("--workers: must be 1 or more")
        _raise_file_limit()
        self._options = options
        self._demo = Children()
        self._demo_access: DemoAccess | None = None
        if options["connections_fd"] is not None:
            self._serve(None)
            return
        # One that is away may be back before anyone comes.
        prepare_database(must_answer=False)
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
        """Serve in this process: what it listens to itself, or gets from a supervisor."""
        # Only now: importing Daphne installs a reactor, which no other command wants.
        from daphne.endpoints import build_endpoint_description_strings
        from twisted.internet import reactor

        from realtime.server.daphne import StreamServer
        from realtime.server.handle import Control
        from realtime.server.worker import Worker
        from realtime.sessions.node import prepare_node
        from streaming_site.asgi import application

        options = self._options
        descriptor = options["connections_fd"]
        self._reactor: Any = reactor
        server = StreamServer(
            application,
            []
            if descriptor is not None
            else build_endpoint_description_strings(host=options["host"], port=options["port"]),
            signal_handlers=False,
            websocket_timeout=-1,
            on_listening=self._on_listening,
            verbosity=2,  # errors inside Twisted reach the log
        )
        config = get_streaming_config().websocket
        control = options["control_fd"]
        self._control = None if control is None else Control(control, server.stop)
        self._node = prepare_node(reactor._asyncioEventloop, embedded)
        if descriptor is not None:
            worker = Worker(descriptor, server, server.stop)
            self._reactor.callLater(0, self._start_worker, worker)
        _settle_collector()
        # The demo's commands end before the server: what they save needs a Valkey.
        drain = partial(self._demo.stop_before, partial(reactor.callFromThread, server.stop))
        stop = _stop_on_signals(drain, embedded, max(1.0, config.drain_timeout))
        if descriptor is not None:
            self._move_on_signal(stop)
        server.run()
        if server.failure:
            raise CommandError(f"cannot listen on port {options['port']}: {server.failure}")

    def _start_worker(self, worker: Any) -> None:
        async def start() -> None:
            await self._node.start()
            worker.start()

        self._starting = asyncio.ensure_future(start())

    def _move_on_signal(self, stop: SignalHandler) -> None:
        """Drain on SIGHUP too, with which the supervisor says that others take the clients."""

        def move(number: int, frame: Any) -> None:
            self._node.drain.is_moving = True
            stop(number, frame)

        signal.signal(signal.SIGHUP, move)

    async def _supervise(self, embedded: EmbeddedServer | None) -> None:
        """Have other processes serve."""
        options = self._options
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "serve"]
        drain_timeout = max(1.0, get_streaming_config().websocket.drain_timeout)
        supervisor = Supervisor(command, options["workers"], drain_timeout)
        keepers = [] if embedded is None else [keep_running(embedded), keep_synced(embedded)]
        tasks = [asyncio.create_task(keeper) for keeper in keepers]
        try:
            await supervisor.run(options["host"], options["port"], self._say_where)
        finally:
            for task in tasks:
                task.cancel()

    def _on_listening(self, host: str, port: int) -> None:
        # The loop does not run yet: what is said and done then finds a server that answers.
        self._reactor.callLater(0, self._after_start, host, port)

    def _after_start(self, host: str, port: int) -> None:
        # Now, not with the first client: changes are followed and Valkey is kept running from here.
        self._starting = asyncio.ensure_future(self._node.start())
        self._say_where(host, port)
        if self._control is not None:
            self._control.listening(_url(host, port))

    def _say_where(self, host: str, port: int) -> None:
        self.stdout.write(f"listening on {_url(host, port)}")
        self.stdout.flush()
        if self._demo_access is not None:
            self._start_demo(self._demo_access, port)

    def _start_demo(self, access: DemoAccess, port: int) -> None:
        self.stdout.write(welcome(access, port))
        self.stdout.flush()
        speed = self._options["demo_speed"]
        for command in DEMO:
            has_speed = speed and command[0] == "replay_demo"
            self._demo.start(*command, *(("--speed", str(speed)) if has_speed else ()))


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _raise_file_limit() -> None:
    """Allow as many open sockets as the system lets this user have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settle_collector() -> None:
    """Have the garbage collector look less often, and never at what exists by now.

    Connections leave no cycles behind, so it finds nothing in them; but each full collection looks
    at all of them, while every client waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _stop_on_signals(
    drain: Callable[[], None], embedded: EmbeddedServer | None, longest: float
) -> SignalHandler:
    """Drain on the first signal to stop; end on the second, or after *longest* seconds.

    SIGHUP is one too: a terminal that is closed should cost clients no more than Ctrl-C in it.

    Returns what does that.
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
