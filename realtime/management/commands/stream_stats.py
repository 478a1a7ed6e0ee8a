"""``manage.py stream_stats``: the figures of all processes as tables, or as JSON."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.live import Live

from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable
from realtime.cluster.membership import BEAT_INTERVAL
from realtime.monitoring.snapshot import Figures, read_all, whole
from realtime.monitoring.terminal import Overview

# Of what goes into a file or a pipe.
WIDTH = 120


class Command(BaseCommand):
    """Reads what the processes report; asks nobody."""

    help = "Show the figures of all serving processes."
    requires_system_checks = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare how to show them."""
        parser.add_argument("--watch", action="store_true", help="until interrupted")
        parser.add_argument(
            "--json", action="store_true", help="print JSON, with --watch a line each"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Show them once, or until interrupted."""
        if not get_cluster().is_shared:
            raise CommandError("the channel layer is of one process: only that knows its figures")
        # So that a terminal is left as it was then too.
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            if options["watch"] and sys.stdout.isatty() and not options["json"]:
                self._watch()
            else:
                self._print(options["json"], options["watch"])
        except KeyboardInterrupt:
            pass
        except BrokenPipeError:
            # Nobody reads any more; nor should the interpreter try to flush at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _read(self) -> list[Figures]:
        try:
            return read_all()
        except Unavailable as error:
            raise CommandError(f"the channel layer does not answer: {error}") from None

    def _print(self, as_json: bool, again: bool) -> None:
        self._write(self._read(), as_json)
        while again:
            time.sleep(BEAT_INTERVAL)
            try:
                self._write(read_all(), as_json)
            except Unavailable as error:
                self.stderr.write(f"the channel layer does not answer: {error}")

    def _write(self, processes: list[Figures], as_json: bool) -> None:
        if as_json:
            text = json.dumps(whole(processes)) + "\n"
        else:
            # Whoever reads it from a file has room.
            console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
            with console.capture() as captured:  # rich would end the process if nobody reads
                console.print(Overview(processes))
            text = captured.get()
        sys.stdout.write(text)
        sys.stdout.flush()

    def _watch(self) -> None:
        shown = Overview(self._read())
        live = Live(shown, auto_refresh=False, screen=True)
        try:
            with _undisturbed():
                live.start(refresh=True)
            while True:
                if not _wait_for_resize(BEAT_INTERVAL):
                    try:
                        shown = Overview(read_all())
                    except Unavailable:
                        shown = shown.noting("the channel layer does not answer")
                with _undisturbed():
                    live.update(shown, refresh=True)
        finally:
            with _undisturbed():
                live.stop()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Have signals that end the command wait: in the midst of drawing they leave it half done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait_for_resize(seconds: float) -> bool:
    """Wait until the terminal has another size, or so long; tell which."""
    if not hasattr(signal, "sigtimedwait"):
        time.sleep(seconds)
        return False
    resized = {signal.SIGWINCH}
    signal.pthread_sigmask(signal.SIG_BLOCK, resized)  # or it is gone before it is waited for
    return signal.sigtimedwait(resized, seconds) is not None
