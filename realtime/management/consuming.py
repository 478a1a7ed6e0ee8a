"""What the commands that publish messages of another system share; knows no such system."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import CommandError, CommandParser

from realtime.cluster import get_cluster
from realtime.cluster.clients import close_async_clients
from realtime.management.running import STOP_SIGNALS, RunningCommand
from realtime.protocol import SUBSCRIPTION_TYPES
from realtime.publishing.bridge import CannotConsume, Consumption, Source


class ConsumingCommand(RunningCommand):
    """Publishes each message of a source once. A subclass implements :meth:`make_source`."""

    # The file that installs the Python package which speaks to the other system.
    requirements: str

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--type", required=True, choices=SUBSCRIPTION_TYPES)
        parser.add_argument(
            "--stop-on-invalid", action="store_true", help="end at a message that is no payload"
        )

    def make_source(self, options: dict[str, Any]) -> Source:
        """Return where messages come from. Raises ``ImportError`` without the library."""
        raise NotImplementedError

    def run(self, options: dict[str, Any]) -> None:
        try:
            source = self.make_source(options)
        except ImportError as error:
            raise CommandError(
                f"{error.name} is not installed: pip install -r {self.requirements}"
            ) from None
        self.say(f"{source} into {options['type']}")
        if not get_cluster().is_shared:
            raise CommandError("the channel layer is of one process: there is no log to publish to")
        try:
            summary = asyncio.run(_consume(source, options["type"], options["stop_on_invalid"]))
        except CannotConsume as error:
            raise CommandError(str(error)) from None
        self.say(f"stopped; {summary}")


async def _consume(source: Source, kind: str, stop_on_invalid: bool) -> str:
    """Consume until a signal comes; return a summary."""
    consumption = Consumption(kind, stop_on_invalid=stop_on_invalid)
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, consumption.stopping.set)
    try:
        await source.consume(consumption)
    finally:
        await close_async_clients()
    return consumption.summary()
