"""``manage.py serve``: everything a server needs, in one command."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from realtime.config import get_streaming_config
from realtime.database import migrate_embedded
from realtime.demo.welcome import DemoAccess, demo_access, welcome
from realtime.embedded import EmbeddedServer, EmbeddedServerError
from realtime.redis import uses_embedded

DEMO_STOP_TIMEOUT = 3.0


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
        parser.add_argument("--workers", type=int, default=1, help="server processes (only 1 yet)")
        parser.add_argument("--demo", action="store_true", help="replay a week of flights")
        parser.add_argument(
            "--demo-speed", type=float, default=None, help="seconds replayed in one second"
        )
        parser.add_argument("--control-fd", type=int, help="socket of a WebSocketServer handle")

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until SIGTERM or Ctrl-C."""
        if options["workers"] != 1:
            raise CommandError("--workers: only 1 is supported yet")
        _raise_file_limit()
        migrate_embedded()
        embedded = EmbeddedServer(settings.DATA_DIR)
        if uses_embedded():
            try:
                embedded.ensure_running()
            except EmbeddedServerError as error:
                raise CommandError(str(error)) from None
        try:
            self._serve(embedded, options)
        finally:
            embedded.stop()

    def _serve(self, embedded: EmbeddedServer, options: dict[str, Any]) -> None:
        # Only now: importing Daphne installs a reactor, which no other command wants.
        from daphne.endpoints import build_endpoint_description_strings
        from twisted.internet import reactor

        from realtime.node import prepare_node
        from realtime.server import StreamServer
        from realtime.websocket_server import Control
        from streaming_site.asgi import application

        self._demo: subprocess.Popen[bytes] | None = None
        # Now, since the event loop's thread may not wait for the database.
        self._demo_access = demo_access(settings.DATA_DIR) if options["demo"] else None
        self._options = options
        self._reactor: Any = reactor
        server = StreamServer(
            application,
            build_endpoint_description_strings(host=options["host"], port=options["port"]),
            signal_handlers=False,
            websocket_timeout=-1,
            on_listening=self._on_listening,
            verbosity=2,  # errors inside Twisted reach the log
        )
        config = get_streaming_config().websocket
        descriptor = options["control_fd"]
        self._control = None if descriptor is None else Control(descriptor, server.stop)
        self._node = prepare_node(reactor._asyncioEventloop, embedded if uses_embedded() else None)
        _settle_collector()
        _stop_on_signals(server, reactor, embedded, max(1.0, config.drain_timeout))
        try:
            server.run()
        finally:
            self._stop_demo()
        if server.failure:
            raise CommandError(f"cannot listen on port {options['port']}: {server.failure}")

    def _on_listening(self, host: str, port: int) -> None:
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        # The loop does not run yet: what is said and done then finds a server that answers.
        self._reactor.callLater(0, self._after_start, url, port)

    def _after_start(self, url: str, port: int) -> None:
        self.stdout.write(f"listening on {url}")
        self.stdout.flush()
        # Now, not with the first client: changes are followed and Valkey is kept running from here.
        self._starting = asyncio.ensure_future(self._node.start())
        if self._control is not None:
            self._control.listening(url)
        if self._demo_access is not None:
            self._start_demo(self._demo_access, port)

    def _start_demo(self, access: DemoAccess, port: int) -> None:
        self.stdout.write(welcome(access, port))
        self.stdout.flush()
        command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "replay_demo"]
        command += ["--parent", str(os.getpid())]
        if self._options["demo_speed"]:
            command += ["--speed", str(self._options["demo_speed"])]
        # In a session of its own: Ctrl-C is for the server, which ends the demo.
        self._demo = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own

    def _stop_demo(self) -> None:
        if self._demo is None:
            return
        self._demo.terminate()
        try:
            self._demo.wait(DEMO_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._demo.kill()
            self._demo.wait()


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


def _stop_on_signals(server: Any, reactor: Any, embedded: EmbeddedServer, longest: float) -> None:
    """Drain on the first SIGTERM or SIGINT; end on the second, or after *longest* seconds."""

    def end() -> None:
        embedded.stop()
        os._exit(0)

    # Should the drain hang, the process still ends.
    watchdog = threading.Timer(longest, end)
    watchdog.daemon = True

    def stop(number: int, frame: Any) -> None:
        if watchdog.is_alive():
            end()
        watchdog.start()
        reactor.callFromThread(server.stop)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
