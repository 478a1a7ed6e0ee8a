"""``manage.py stream_stats``: the figures of all processes as a table."""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from channels.layers import get_channel_layer
from django.core.management.base import BaseCommand, CommandError
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from realtime.figures import Figures, read_all, whole
from realtime.processes import BEAT_INTERVAL, Unanswered
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.servers import has_servers

WIDTH = 120
COLUMNS = [
    *("conns", "subs", "in/s", "out/s", "lag ms", "loop ms"),
    *("buffered", "refused", "repaired", "lost", "memory"),
]


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
        if not has_servers(get_channel_layer()):
            raise CommandError("the channel layer is of one process: only that knows its figures")
        try:
            if options["json"]:
                self._print(options["watch"])
            elif options["watch"]:
                self._watch()
            else:
                # Whoever reads it from a file has room.
                console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
                console.print(_table(self._read()))
        except KeyboardInterrupt:
            pass

    def _read(self) -> list[Figures]:
        try:
            return read_all()
        except Unanswered as error:
            raise CommandError(f"the channel layer does not answer: {error}") from None

    def _print(self, again: bool) -> None:
        while True:
            self.stdout.write(json.dumps(whole(self._read())))
            self.stdout.flush()
            if not again:
                return
            time.sleep(BEAT_INTERVAL)

    def _watch(self) -> None:
        with Live(_table(self._read()), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(BEAT_INTERVAL)
                live.update(_table(self._read()), refresh=True)


def _table(processes: Sequence[Figures]) -> Group:
    total = whole(processes)
    counts = f"{total['processes']} processes, hosts: {total['hosts']}"
    table = Table(title=counts, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("process")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for one in processes:
        table.add_row(f"{one.process}{' (draining)' if one.draining else ''}", *_cells(one))
    by_type = Table(title="by type", box=SIMPLE_HEAD)
    by_type.add_column("type")
    for name in ("subscriptions", "published", "delivered", "repaired", "lost"):
        by_type.add_column(name, justify="right")
    for kind in SUBSCRIPTION_TYPES:
        published = max((one.by_type["published"][kind] for one in processes), default=0)
        sums = (
            sum(one.by_type[name][kind] for one in processes)
            for name in ("delivered", "repaired", "lost")
        )
        cells = (total["subscriptions"].get(kind, 0), published, *sums)
        by_type.add_row(kind, *(f"{count:,}" for count in cells))
    return Group(table, by_type)


def _cells(one: Figures) -> list[str]:
    return [
        f"{one.connections:,}",
        f"{sum(one.subscriptions.values()):,}",
        f"{one.published_per_second:,.0f}",
        f"{one.delivered_per_second:,.0f}",
        "-" if one.lag is None else f"{one.lag * 1000:,.1f}",
        f"{one.loop_lag * 1000:,.1f}",
        _size(one.buffered),
        f"{one.counters['refused_connections']:,}",
        f"{sum(one.by_type['repaired'].values()):,}",
        f"{sum(one.by_type['lost'].values()):,}",
        _size(one.resident),
    ]


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
