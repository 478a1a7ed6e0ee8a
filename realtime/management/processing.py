"""What the commands that run rules and predictors share; knows how to run, nothing of what."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any, Protocol

from django.core.management.base import CommandError, CommandParser

from realtime.analytics.processing.runner import NoLog
from realtime.analytics.registry import MODULE, discover
from realtime.management.running import STOP_SIGNALS, RunningCommand


class Runs(Protocol):
    """A runner, or an object that runs one and something beside it."""

    async def run(self) -> None: ...


def run_until_stopped(runner: Runs) -> None:
    """Run in an event loop of its own until SIGTERM or Ctrl-C. Raises :class:`NoLog`."""
    # Messages make no reference cycles: the collector's search for some took a quarter of the time.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, task.cancel)
        await runner.run()

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(run())


class ProcessingCommand(RunningCommand):
    """Runs the definitions of apps' ``streams.py`` or of a module, and shares the work with others.

    A subclass implements :meth:`make_runner`.
    """

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        text = f"a module with definitions, in place of the apps' {MODULE}.py"
        parser.add_argument("--module", help=text)

    def run(self, options: dict[str, Any]) -> None:
        discover(options["module"])
        try:
            run_until_stopped(self.make_runner(options))
        except NoLog as error:
            raise CommandError(str(error)) from None
        self.say("stopped")

    def make_runner(self, options: dict[str, Any]) -> Runs:
        """Return what runs; say what that is."""
        raise NotImplementedError
