"""What the commands that run rules and predictors share; knows how to run, nothing of what."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from realtime.analytics.processing.runner import NoLog, Runs, run_until_stopped
from realtime.analytics.registry import MODULE, discover
from realtime.management.running import RunningCommand


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
