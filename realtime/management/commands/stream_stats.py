"""``manage.py stream_stats``: the figures of all processes as tables, or as JSON."""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.live import Live

from realtime.cluster import BEAT_INTERVAL, get_cluster
from realtime.cluster.clients import Unavailable
from realtime.management.running import printing, refuse_unfit_stores
from realtime.monitoring.snapshot import Snapshot, add_up, read_all
from realtime.monitoring.terminal import ClusterTables

# Characters of a line in a file or a pipe.
WIDTH = 120


class Command(BaseCommand):
    """Reads what the processes have reported; asks none of them."""

    help = "Show the figures of all serving processes."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--watch", action="store_true", help="until interrupted")
        parser.add_argument(
            "--json", action="store_true", help="print JSON, with --watch a line each"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if not get_cluster().is_shared:
            raise CommandError("the channel layer is of one process: only that knows its figures")
        with printing(), suppress(KeyboardInterrupt):
            try:
                processes = read_all()
            except Unavailable as error:
                refuse_unfit_stores()  # which explains it better
                raise CommandError(f"the channel layer does not answer: {error}") from None
            if options["watch"] and sys.stdout.isatty() and not options["json"]:
                _watch(processes)
            else:
                self._print(processes, options["json"], options["watch"])

    def _print(self, processes: list[Snapshot], as_json: bool, again: bool) -> None:
        """Print figures below each other, once or until interrupted."""
        _write(processes, as_json)
        while again:
            time.sleep(BEAT_INTERVAL)
            try:
                _write(read_all(), as_json)
            except Unavailable as error:
                self.stderr.write(f"the channel layer does not answer: {error}")


def _write(processes: list[Snapshot], as_json: bool) -> None:
    if as_json:
        text = json.dumps(add_up(processes)) + "\n"
    else:
        console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
        with console.capture() as captured:  # rich would end the process if nobody reads
            console.print(ClusterTables(processes))
        text = captured.get()
    sys.stdout.write(text)
    sys.stdout.flush()


def _watch(processes: list[Snapshot]) -> None:
    """Show figures in the whole terminal until interrupted."""
    overview = ClusterTables(processes)
    live = Live(overview, auto_refresh=False, screen=True)
    try:
        with _undisturbed():
            live.start(refresh=True)
        while True:
            if not _wait_for_resize(BEAT_INTERVAL):
                try:
                    overview = ClusterTables(read_all())
                except Unavailable:
                    overview = overview.with_note("the channel layer does not answer")
            with _undisturbed():
                live.update(overview, refresh=True)
    finally:
        with _undisturbed():
            live.stop()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals that end the command wait: amid drawing they would leave the terminal broken."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_resize(seconds: float) -> bool:
    """Wait until the terminal changes its size, at most so long; tell whether it did."""
    if not hasattr(signal, "sigtimedwait"):
        time.sleep(seconds)
        return False
    resized = {signal.SIGWINCH}
    signal.pthread_sigmask(signal.SIG_BLOCK, resized)  # or it is gone before it is waited for
    return signal.sigtimedwait(resized, seconds) is not None
