"""``manage.py publish_system_status``: publishes this host's figures and health."""

from __future__ import annotations

import argparse
import math
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable
from realtime.management.children import add_parent_argument
from realtime.management.stopping import Stopped, sleep, stop_signals
from realtime.monitoring.host import Host, Threshold
from realtime.monitoring.snapshot import read_all
from realtime.monitoring.system_status import DEFAULTS, LOOP_LAG, Reporter
from realtime.protocol import format_timestamp
from realtime.publishing import PublishError, publish_many

# Option -> what it sets the thresholds of.
OPTIONS = {
    "cpu": ("cpu_percent", "percent of the processors in use"),
    "memory": ("memory_percent", "percent of the memory in use"),
    "disk": ("disk_percent", "percent of the disk in use"),
    "load": ("load_per_cpu", "load of one minute, per processor"),
    "loop-lag": (LOOP_LAG, "seconds that a serving process is late"),
}


class Command(BaseCommand):
    """Publishes to ``metrics`` and ``system_status`` until it is stopped."""

    help = "Publish this host's figures to metrics and its health to system_status."
    requires_system_checks = ()  # `check --deploy` has them; a start should be quick

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--interval", type=_interval, default=5.0, help="seconds (default: %(default)g)"
        )
        parser.add_argument("--once", action="store_true", help="publish once, after an interval")
        parser.add_argument(
            "--path",
            type=Path,
            default=Path(settings.DATA_DIR),
            help="a path on the disk to watch (default: the data directory)",
        )
        for option, (name, what) in OPTIONS.items():
            default = DEFAULTS[name]
            parser.add_argument(
                f"--{option}",
                nargs=2,
                type=_limit,
                default=default,
                metavar=("WARNING", "CRITICAL"),
                help=f"{what} (default: {default.warning:g} {default.critical:g})",
            )
        add_parent_argument(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Publish until SIGTERM or Ctrl-C, or once."""
        if not get_cluster().is_shared:
            raise CommandError("the channel layer is of one process: nobody would receive it")
        if not options["path"].exists():
            raise CommandError(f"--path: there is no {str(options['path'])!r}")
        self._host = Host(options["path"])
        self._reporter = Reporter(socket.gethostname(), _thresholds(options))
        # Whether the last attempt failed.
        self._failed = False
        self._say(f"each {options['interval']:g} seconds, as host {socket.gethostname()}")
        with stop_signals(options["parent"]) as stopped:
            self._run(options["interval"], options["once"], stopped)

    def _run(self, interval: float, once: bool, stopped: Stopped) -> None:
        due = time.monotonic()
        while True:
            due = max(due + interval, time.monotonic())
            sleep(due - time.monotonic(), stopped=stopped)
            if stopped():
                return
            error = self._publish()
            if once and error:
                raise CommandError(f"not published: {error}")
            if once:
                return
            self._tell(error)

    def _publish(self) -> str:
        """Publish; return what went wrong, if anything did."""
        readings = self._host.read()
        try:
            messages = self._reporter.messages(readings, read_all(), format_timestamp(time.time()))
            publish_many("metrics", messages.metrics)
            publish_many("system_status", messages.system_status)
        except (Unavailable, PublishError) as error:
            return " ".join(str(error).split())
        return ""

    def _tell(self, error: str) -> None:
        """Say that publishing fails, once, and that it works again."""
        if error and not self._failed:
            self._say(f"not published, trying again: {error}")
        elif self._failed and not error:
            self._say("publishing works again")
        self._failed = bool(error)

    def _say(self, message: str) -> None:
        """Write one line for the operator, who may have gone with the other end of the pipe."""
        with suppress(OSError, ValueError):
            self.stderr.write(f"publish_system_status: {message}")
            self.stderr.flush()


def _thresholds(options: dict[str, Any]) -> dict[str, Threshold]:
    found = {}
    for option, (name, _) in OPTIONS.items():
        found[name] = Threshold(*options[option.replace("-", "_")])
        if found[name].warning > found[name].critical:
            raise CommandError(
                f"--{option}: the warning comes first, and is not above the critical"
            )
    return found


def _interval(text: str) -> float:
    with suppress(ValueError):
        if 0.1 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r}: expected 0.1 to 3600 seconds")


def _limit(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(limit := float(text)) and limit > 0:
            return limit
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0")
