"""``manage.py publish_system_status``: publishes this host's figures and health."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from realtime.cluster import get_cluster
from realtime.cluster.clients import Unavailable
from realtime.management.running import RunningCommand, number, one_line
from realtime.monitoring.snapshot import read_all
from realtime.monitoring.system_status import DEFAULTS, LOOP_LAG, HealthLimits, Host, HostReporter
from realtime.protocol import format_timestamp
from realtime.publishing import publish_many
from realtime.publishing.publication import PublishError

# Option -> what it sets the thresholds of.
OPTIONS = {
    "cpu": ("cpu_percent", "percent of the processors in use"),
    "memory": ("memory_percent", "percent of the memory in use"),
    "disk": ("disk_percent", "percent of the disk in use"),
    "load": ("load_per_cpu", "load of one minute, per processor"),
    "loop-lag": (LOOP_LAG, "seconds that a serving process is late"),
}


class Command(RunningCommand):
    """Publishes to ``metrics`` and ``system_status``."""

    help = "Publish this host's figures to metrics and its health to system_status."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--interval",
            type=number("0.1 to 3600 seconds", least=0.1, most=3600),
            default=5.0,
            help="seconds (default: %(default)g)",
        )
        parser.add_argument("--once", action="store_true", help="publish once, after an interval")
        parser.add_argument(
            "--path",
            type=Path,
            default=Path(settings.DATA_DIR),
            help="a path on the disk to watch (default: the data directory)",
        )
        for option, (name, meaning) in OPTIONS.items():
            default = DEFAULTS[name]
            parser.add_argument(
                f"--{option}",
                nargs=2,
                type=number("a number above 0", most=sys.float_info.max),
                default=default,
                metavar=("WARNING", "CRITICAL"),
                help=f"{meaning} (default: {default.warning:g} {default.critical:g})",
            )

    def run(self, options: dict[str, Any]) -> None:
        if not get_cluster().is_shared:
            raise CommandError("the channel layer is of one process: nobody would receive it")
        if not options["path"].exists():
            raise CommandError(f"--path: there is no {str(options['path'])!r}")
        host = Host(options["path"])
        reporter = HostReporter(socket.gethostname(), _thresholds(options))
        interval = options["interval"]
        self.say(f"each {interval:g} seconds, as host {socket.gethostname()}")
        due = time.monotonic()
        with self.stopping():
            while True:
                due = max(due + interval, time.monotonic())
                self.sleep(due - time.monotonic())
                if self.is_stopped():
                    return
                error = _publish(host, reporter)
                if options["once"]:
                    break
                self.report(error)
        if error is not None:
            raise CommandError(f"not published: {one_line(error)}")


def _publish(host: Host, reporter: HostReporter) -> Exception | None:
    """Publish once; return the error if that failed."""
    readings = host.read()
    try:
        messages = reporter.messages(readings, read_all(), format_timestamp(time.time()))
        for kind, payloads in messages.items():
            publish_many(kind, payloads)
    except (Unavailable, PublishError) as error:
        return error
    return None


def _thresholds(options: dict[str, Any]) -> dict[str, HealthLimits]:
    """Return the thresholds by the names that they have in messages."""
    thresholds = {}
    for option, (name, _) in OPTIONS.items():
        threshold = thresholds[name] = HealthLimits(*options[option.replace("-", "_")])
        if threshold.warning > threshold.critical:
            text = f"--{option}: the warning comes first, and is not above the critical"
            raise CommandError(text)
    return thresholds
